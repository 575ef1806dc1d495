"""Regions too small to stay, and what they touch: decide which neighbour each of them joins.

A *cluster* is small regions that touch. It is settled as a whole, and only then when nothing
later can change the outcome: all of them have closed, and no two open neighbours of equal
class could still prove to be one.
"""

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.vectorize.compiled import allocating, compiled

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Unsettled(NamedTuple):
    """Regions, of which nobody knows yet what becomes of them."""

    parent: Int32
    code: Int32
    area: Int64
    born: Int64
    """Its place among all labels of the map."""


class Contacts(NamedTuple):
    """Borders between two regions, of which one at least may be too small."""

    one: Int32
    other: Int32
    length: Int64
    first: Int64
    """Where they touch first."""


def no_contacts() -> Contacts:
    """None yet."""
    none32, none64 = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return Contacts(none32, none32, none64, none64)


@compiled
def root(parent: Int32, region: int) -> int:
    """The region that one has turned out to be part of."""
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region


@allocating
def _roots(parent: Int32, regions: Int32) -> Int64:
    roots = np.empty(len(regions), np.int64)
    for i in range(len(regions)):
        roots[i] = root(parent, regions[i])
    return roots


def together(contacts: Contacts, found: Int64, regions: Unsettled, minimum: int) -> Contacts:
    """One row for every two regions that touch, old and new contacts together."""
    one = _roots(regions.parent, np.concatenate([contacts.one, found[:, 0]]))
    other = _roots(regions.parent, np.concatenate([contacts.other, found[:, 1]]))
    length = np.concatenate([contacts.length, found[:, 2]])
    first = np.concatenate([contacts.first, found[:, 3]])
    one, other = np.minimum(one, other), np.maximum(one, other)
    small = (np.minimum(regions.area[one], regions.area[other]) < minimum) & (one != other)
    key = (one << 32 | other)[small]
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(starts):
        return no_contacts()
    return Contacts(
        (key[starts] >> 32).astype(np.int32),
        (key[starts] & 0xFFFFFFFF).astype(np.int32),
        np.add.reduceat(length[small][order], starts),
        np.minimum.reduceat(first[small][order], starts),
    )


def settle(
    regions: Unsettled, contacts: Contacts, last: Int32, minimum: int, fates: Int32
) -> tuple[Unsettled, Contacts, Int32]:
    """Decide what can be decided; returns what cannot, and the regions' new numbers."""
    roots = _roots(regions.parent, np.arange(len(regions.code), dtype=np.int32))
    is_open = np.zeros(len(roots), bool)
    is_open[roots[last[last >= 0]]] = True
    small = regions.area < minimum
    waits = small & _waiting(regions, contacts, is_open, small)
    codes = regions.code.copy()
    _merge(regions, contacts, small & ~waits, minimum, codes)
    decided = ~waits[roots]
    fates[regions.born[decided]] = codes[roots[decided]]
    pending = waits[contacts.one] | waits[contacts.other]
    kept = is_open | ~decided
    kept[contacts.one[pending]] = kept[contacts.other[pending]] = True
    here = np.flatnonzero(kept)
    renumbered = (np.cumsum(kept) - 1)[roots].astype(np.int32)
    left = Unsettled(renumbered[here], regions.code[here], regions.area[here], regions.born[here])
    contacts = Contacts(
        renumbered[contacts.one[pending]],
        renumbered[contacts.other[pending]],
        contacts.length[pending],
        contacts.first[pending],
    )
    return left, contacts, renumbered


def _waiting(regions: Unsettled, contacts: Contacts, is_open: Bools, small: Bools) -> Bools:
    """Which regions belong to a cluster that later rows can still change."""
    parent = np.arange(len(small), dtype=np.int32)
    _join_all(parent, contacts.one, contacts.other, small)
    cluster = _roots(parent, parent)
    waits = np.zeros(len(small), bool)
    waits[cluster[small & is_open]] = True
    beside = np.concatenate([contacts.one, contacts.other]), np.concatenate([contacts.other, contacts.one])
    chosen = small[beside[0]] & ~small[beside[1]] & is_open[beside[1]]
    inside, outside = cluster[beside[0][chosen]], beside[1][chosen]
    neighbours = np.unique(np.stack([inside, regions.code[outside], outside]), axis=1)
    same = (np.diff(neighbours[:2], axis=1) == 0).all(axis=0)
    waits[neighbours[0, 1:][same]] = True
    return waits[cluster]


@compiled
def _join_all(cluster: Int32, ones: Int32, others: Int32, small: Bools) -> None:
    for i in range(len(ones)):
        if small[ones[i]] and small[others[i]]:
            one, other = root(cluster, ones[i]), root(cluster, others[i])
            cluster[max(one, other)] = min(one, other)


@allocating
def _merge(regions: Unsettled, contacts: Contacts, settled: Bools, minimum: int, codes: Int32) -> None:
    """Let the settled small regions join their neighbours; writes the code that each ends with."""
    count, pairs = len(codes), len(contacts.one)
    group = np.arange(count).astype(np.int32)
    area = regions.area.copy()
    heads, tails = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    following = np.full(2 * pairs, -1, np.int64)  # contacts by region, either way
    for i in range(2 * pairs):
        region = contacts.one[i // 2] if i % 2 == 0 else contacts.other[i // 2]
        if settled[region]:
            if heads[region] < 0:
                heads[region] = i
            else:
                following[tails[region]] = i
            tails[region] = i
    lengths, firsts = np.zeros(count, np.int64), np.zeros(count, np.int64)
    neighbours = np.empty(count, np.int64)
    heap = [(area[i], regions.born[i], i) for i in range(count) if settled[i]]
    heapq.heapify(heap)
    while len(heap) > 0:
        size, _, region = heapq.heappop(heap)
        if group[region] != region or area[region] != size:
            continue
        met = 0
        i = heads[region]
        while i >= 0:
            there = root(group, contacts.other[i // 2] if i % 2 == 0 else contacts.one[i // 2])
            if there != region:
                if lengths[there] == 0:
                    neighbours[met] = there
                    met += 1
                    firsts[there] = contacts.first[i // 2]
                lengths[there] += contacts.length[i // 2]
                firsts[there] = min(firsts[there], contacts.first[i // 2])
            i = following[i]
        best = -1
        for k in range(met):
            there = neighbours[k]
            if best < 0 or (lengths[there], -firsts[there]) > (lengths[best], -firsts[best]):
                best = there
        if best >= 0:
            _absorb(group, area, heads, tails, following, best, region)
            best = _with_equals(
                group, area, heads, tails, following, codes, best, neighbours[:met], lengths, firsts, minimum
            )
            if area[best] < minimum:
                heapq.heappush(heap, (area[best], regions.born[best], best))
        for k in range(met):
            lengths[neighbours[k]] = 0
    for i in range(count):
        codes[i] = codes[root(group, i)]


@compiled
def _absorb(group: Int32, area: Int64, heads: Int64, tails: Int64, following: Int64, region: int, other: int) -> None:
    group[other] = region
    area[region] += area[other]
    if heads[region] < 0:
        heads[region], tails[region] = heads[other], tails[other]
    elif heads[other] >= 0:
        following[tails[region]] = heads[other]
        tails[region] = tails[other]


@compiled
def _with_equals(
    group: Int32,
    area: Int64,
    heads: Int64,
    tails: Int64,
    following: Int64,
    codes: Int32,
    region: int,
    neighbours: Int64,
    lengths: Int64,
    firsts: Int64,
    minimum: int,
) -> int:
    """Make one of a region that has grown and the neighbours of its code that it now touches, if they are small.

    Of large ones it joins one, if it is small itself; those stay what they are.
    """
    large = region if area[region] >= minimum else -1
    for k in range(len(neighbours)):
        there = neighbours[k]
        if there == region or codes[there] != codes[region]:
            continue
        if area[there] < minimum:
            _absorb(group, area, heads, tails, following, region, there)
        elif large < 0 or (large != region and (lengths[there], -firsts[there]) > (lengths[large], -firsts[large])):
            large = there
    if large >= 0 and large != region:
        _absorb(group, area, heads, tails, following, large, region)
        return large
    return region
