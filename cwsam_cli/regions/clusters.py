"""Decide which neighbour each region below the smallest mapping unit joins.

A *cluster* is a set of small regions that touch. A cluster is settled as a whole, once no later row can
change the result. This is so when all its regions have closed and no two of its open neighbours have the
same code, because these two could still prove to be one region.
"""

import heapq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.regions.compiled import allocating, compiled

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
Contacts = NDArray[Any]
"""A structured array of CONTACT."""

CONTACT = np.dtype([("one", np.int32), ("other", np.int32), ("length", np.int64), ("first", np.int64)])
"""The border of two regions, of which one at least may be small: its length, and where they touch first."""


class Unsettled(NamedTuple):
    """Regions whose final code is not known yet."""

    parent: Int32
    """The region that this one was united with, or itself."""
    code: Int32
    area: Int64
    born: Int64
    """The number of its label among all labels of the map."""

    @classmethod
    def none(cls) -> "Unsettled":
        """Return no region."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def resized(self, size: int) -> "Unsettled":
        """Return the same arrays, grown or shrunk in place without a copy."""
        for array in self:
            array.resize(size, refcheck=False)
        return self


@compiled
def root(parent: Int32, region: int) -> int:
    """Return the region that a region was united with."""
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region


@compiled
def _find_roots(parent: Int32) -> None:
    """Let every region point to its root directly."""
    for i in range(len(parent)):
        parent[i] = root(parent, parent[i])


def merge_equal(contacts: Contacts, regions: Unsettled, minimum: int) -> None:
    """Merge the contacts of the same two regions in place, and drop the contacts of two large regions.

    Args:
        contacts: contacts in any order. The array becomes shorter.
        regions: the regions.
        minimum: regions whose area is less are small.
    """
    contacts.resize(_keep_small(contacts, regions.parent, regions.area, minimum), refcheck=False)
    order = np.argsort(contacts["one"].astype(np.int64) << 32 | contacts["other"])
    for name in CONTACT.names or ():  # field by field, because a sorted copy would double the peak memory
        contacts[name] = contacts[name][order]
    contacts.resize(_add_equal(contacts), refcheck=False)


@compiled
def _keep_small(contacts: Contacts, parent: Int32, area: Int64, minimum: int) -> int:
    """Move contacts of small regions to the front, in terms of roots; return their number."""
    count = 0
    for i in range(len(contacts)):
        one, other = root(parent, contacts[i].one), root(parent, contacts[i].other)
        if one != other and min(area[one], area[other]) < minimum:
            kept = contacts[count]
            kept.one = min(one, other)
            kept.other = max(one, other)
            kept.length = contacts[i].length
            kept.first = contacts[i].first
            count += 1
    return count


@compiled
def _add_equal(contacts: Contacts) -> int:
    """Merge sorted contacts of the same two regions at the front; return their number."""
    count = 0
    for i in range(len(contacts)):
        here = contacts[i]
        last = contacts[max(count - 1, 0)]
        if count > 0 and last.one == here.one and last.other == here.other:
            last.length += here.length
            last.first = min(last.first, here.first)
        else:
            kept = contacts[count]
            kept.one = here.one
            kept.other = here.other
            kept.length = here.length
            kept.first = here.first
            count += 1
    return count


def settle(
    regions: Unsettled, contacts: Contacts, last: Int32, minimum: int, fates: NDArray[np.integer[Any]]
) -> tuple[Unsettled, Contacts, Int32]:
    """Settle every cluster that no later row can change.

    Args:
        regions: the regions.
        contacts: one per pair of regions that touch, see `merge_equal`.
        last: the labels of the last row (W + 2,), negative where there is none.
        minimum: regions whose area is less are small.
        fates: receives the final code of each settled label.

    Returns:
        The regions and contacts that are still needed, and the new number of each old region.
    """
    roots = regions.parent
    _find_roots(roots)
    is_open = np.zeros(len(roots), bool)
    is_open[roots[last[last >= 0]]] = True
    small = regions.area < minimum
    waits = _waiting(regions, contacts, is_open, small)
    waits &= small
    codes = regions.code.copy()
    _merge(_Groups.of(regions, contacts), regions.born, contacts, small & ~waits, minimum, codes)
    decided = ~waits[roots]
    fates[regions.born[decided]] = codes[roots[decided]]
    pending = waits[contacts["one"]] | waits[contacts["other"]]
    contacts = contacts[pending]
    kept = is_open | ~decided
    kept[contacts["one"]] = kept[contacts["other"]] = True
    here = np.flatnonzero(kept)
    renumbered = (np.cumsum(kept, dtype=np.int32) - 1)[roots]
    left = Unsettled(renumbered[here], regions.code[here], regions.area[here], regions.born[here])
    for side in ("one", "other"):
        contacts[side] = renumbered[contacts[side]]
    return left, contacts, renumbered


def _waiting(regions: Unsettled, contacts: Contacts, is_open: Bools, small: Bools) -> Bools:
    """Return which regions belong to a cluster that later rows can still change."""
    cluster = np.arange(len(small), dtype=np.int32)
    _join_all(cluster, contacts, small)
    _find_roots(cluster)
    waits = np.zeros(len(small), bool)
    waits[cluster[small & is_open]] = True
    is_large = is_open & ~small
    found = []
    for inner, outer in ((contacts["one"], contacts["other"]), (contacts["other"], contacts["one"])):
        chosen = small[inner] & is_large[outer]
        outside = outer[chosen]
        found.append(np.stack([cluster[inner[chosen]], regions.code[outside], outside]))
    neighbours = np.unique(np.concatenate(found, axis=1), axis=1)  # cluster, code, neighbour
    same = (np.diff(neighbours[:2], axis=1) == 0).all(axis=0)
    waits[neighbours[0, 1:][same]] = True
    return waits[cluster]


@compiled
def _join_all(cluster: Int32, contacts: Contacts, small: Bools) -> None:
    for i in range(len(contacts)):
        if small[contacts[i].one] and small[contacts[i].other]:
            one, other = root(cluster, contacts[i].one), root(cluster, contacts[i].other)
            cluster[max(one, other)] = min(one, other)


class _Groups(NamedTuple):
    """Regions while they join each other; a group's contacts are a list from its head to its tail."""

    group: Int32
    """The region that this one has joined, or itself."""
    area: Int64
    head: Int32
    tail: Int32
    following: Int32
    """(2 N,) the next item of a list. Item 2 i is contact i seen from `one`, item 2 i + 1 is seen from `other`."""

    @classmethod
    def of(cls, regions: Unsettled, contacts: Contacts) -> "_Groups":
        """Return every region as a group of its own, without contacts.

        Not compiled: numba read wrong values from these arrays when a compiled function created them.
        """
        count = len(regions.code)
        return cls(
            group=np.arange(count, dtype=np.int32),
            area=regions.area.copy(),
            head=np.full(count, -1, np.int32),
            tail=np.full(count, -1, np.int32),
            following=np.full(2 * len(contacts), -1, np.int32),
        )


@allocating
def _merge(g: _Groups, born: Int64, contacts: Contacts, settled: Bools, minimum: int, codes: Int32) -> None:
    """Let the settled small regions join their neighbours, and write the code that each region ends with.

    Args:
        g: every region as a group of its own, changed in place.
        born: the number of each region's label.
        contacts: one per pair of regions that touch.
        settled: the small regions that join a neighbour.
        minimum: a group stops joining others when its area reaches this.
        codes: receives the final codes.
    """
    count = len(codes)
    for i in range(2 * len(contacts)):
        region = contacts[i // 2].one if i % 2 == 0 else contacts[i // 2].other
        if settled[region]:
            if g.head[region] < 0:
                g.head[region] = i
            else:
                g.following[g.tail[region]] = i
            g.tail[region] = i
    lengths, firsts = np.zeros(count, np.int64), np.zeros(count, np.int64)
    neighbours = np.empty(count, np.int32)
    heap = [(g.area[i], born[i], i) for i in range(count) if settled[i]]
    heapq.heapify(heap)
    while len(heap) > 0:
        size, _, region = heapq.heappop(heap)
        if g.group[region] != region or g.area[region] != size:
            continue
        met = 0
        item = np.int64(g.head[region])
        while item >= 0:
            contact = contacts[item // 2]
            there = root(g.group, contact.other if item % 2 == 0 else contact.one)
            if there != region:
                if lengths[there] == 0:
                    neighbours[met] = there
                    met += 1
                    firsts[there] = contact.first
                lengths[there] += contact.length
                firsts[there] = min(firsts[there], contact.first)
            item = np.int64(g.following[item])
        best = -1
        for k in range(met):
            there = neighbours[k]
            if best < 0 or (lengths[there], -firsts[there]) > (lengths[best], -firsts[best]):
                best = there
        if best >= 0:
            _absorb(g, best, region)
            best = _with_equals(g, codes, best, neighbours[:met], lengths, firsts, minimum)
            if g.area[best] < minimum:
                heapq.heappush(heap, (g.area[best], born[best], best))
        for k in range(met):
            lengths[neighbours[k]] = 0
    for i in range(count):
        codes[i] = codes[root(g.group, i)]


@compiled
def _absorb(g: _Groups, region: int, other: int) -> None:
    """Let another group join a region."""
    g.group[other] = region
    g.area[region] += g.area[other]
    if g.head[region] < 0:
        g.head[region], g.tail[region] = g.head[other], g.tail[other]
    elif g.head[other] >= 0:
        g.following[g.tail[region]] = g.head[other]
        g.tail[region] = g.tail[other]


@compiled
def _with_equals(
    g: _Groups, codes: Int32, region: int, neighbours: Int32, lengths: Int64, firsts: Int64, minimum: int
) -> int:
    """Unite a region that has grown with the neighbours of the same code that it now touches.

    All small neighbours of its code join it. If it is still small, it joins one large neighbour of its code:
    the one with the longest border. Large regions do not join each other.

    Returns:
        The region that it is now part of.
    """
    large = region if g.area[region] >= minimum else -1
    for k in range(len(neighbours)):
        there = neighbours[k]
        if there == region or codes[there] != codes[region]:
            continue
        if g.area[there] < minimum:
            _absorb(g, region, there)
        elif large < 0 or (large != region and (lengths[there], -firsts[there]) > (lengths[large], -firsts[large])):
            large = there
    if large >= 0 and large != region:
        _absorb(g, large, region)
        return large
    return region
