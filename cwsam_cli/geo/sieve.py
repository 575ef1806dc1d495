"""Give regions below the smallest mapping unit to their neighbours, exactly, in two passes over strips.

Smallest first, a region joins the neighbour with which it shares the longest border (the one
it touches first from the north-west, if two are equal), and goes on joining while the two
together are still too small. Where it then touches small regions of its new class, these are
one region. Nodata is nobody's neighbour: a small region with nodata all around stays.

The first pass labels regions in the order of their first pixels and settles a *cluster*, small
regions that touch, once nothing later can change the outcome: all of them have closed, and no
two open neighbours of equal class could still prove to be one. It leaves a new code for every
label. The second pass counts labels in the same order and needs nothing but these codes.
"""

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.geo.borders import HOLE, NODATA, OUTSIDE, census
from cwsam_cli.geo.compiled import allocating, compiled
from cwsam_cli.geo.polygonize import Strip

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


PATIENCE = 2
"""How often what waits may be outnumbered before clusters are settled; 0 settles after every strip."""


class Weights(NamedTuple):
    """What counts by row, as whole numbers, so that sums do not depend on their order."""

    area: Int64
    """Of a pixel."""
    across: Int64
    """Length of a pixel's upper edge; one more than rows."""
    down: Int64
    """Length of a pixel's left edge."""


class _Regions(NamedTuple):
    """Regions that are not settled."""

    parent: Int32
    code: Int32
    area: Int64
    born: Int64
    """Its place among all labels of the map."""


class _Contacts(NamedTuple):
    """Borders between two regions, of which one at least may be too small."""

    one: Int32
    other: Int32
    length: Int64
    first: Int64
    """Where they touch first."""


def _no_contacts() -> _Contacts:
    none32, none64 = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return _Contacts(none32, none32, none64, none64)


def new_codes(strips: Iterable[Strip], width: int, weights: Weights, minimum: int) -> Int32:
    """The first pass: a code for every label.

    Args:
        strips: the map.
        width: its pixels.
        weights: what a pixel and its edges count.
        minimum: a region whose pixels count less joins a neighbour.
    """
    fates = none32 = np.zeros(0, np.int32)
    none64 = np.zeros(0, np.int64)
    regions, contacts = _Regions(none32, none32, none64, none64), _no_contacts()
    codes, labels = np.full((1, width + 2), OUTSIDE, np.int32), np.full((1, width + 2), -1, np.int32)
    found: list[Int64] = []
    top = born = settled = 0
    total = len(weights.area)
    for strip in strips:
        rows = len(strip.codes)
        codes, labels = _below(codes, strip.codes), _below(labels, np.full((rows, width), -1, np.int32), -1)
        _, _, starts = census(codes)
        old = len(regions.code)
        regions = _Regions(
            np.concatenate([regions.parent, np.arange(old, old + starts, dtype=np.int32)]),
            np.concatenate([regions.code, np.zeros(starts, np.int32)]),
            np.concatenate([regions.area, np.zeros(starts, np.int64)]),
            np.concatenate([regions.born, np.zeros(starts, np.int64)]),
        )
        made = _label(codes, labels, regions, old, born, weights.area[top : top + rows], top, total)
        size = old + made
        regions = _Regions(regions.parent[:size], regions.code[:size], regions.area[:size], regions.born[:size])
        born += made
        if born > len(fates):
            fates = np.concatenate([fates, np.empty(max(born - len(fates), len(fates)), np.int32)])
        met = np.empty((_touching(codes), 4), np.int64)
        count = _contacts(codes, labels, regions, minimum, top, weights.across, weights.down, met)
        found.append(met[:count].copy())
        top += rows
        codes, labels = codes[-1:], labels[-1:]
        if top == total:
            labels[:] = -1
        elif sum(map(len, found)) < PATIENCE * max(settled, 2**16):
            continue  # what waits is looked at as a whole: not before it has grown by as much again
        contacts = _together(contacts, np.concatenate(found), regions, minimum)
        regions, contacts, renumbered = _settle(regions, contacts, labels[0], minimum, fates)
        found, settled = [], len(contacts.one)
        labels[labels >= 0] = renumbered[labels[labels >= 0]]
    return fates[:born]


def recode(strips: Iterable[Strip], width: int, fates: Int32) -> Iterator[Strip]:
    """The second pass: the map with every label's new code."""
    above = np.full((2, width), OUTSIDE, np.int32)  # as it was, and as it is now
    born = 0
    for strip in strips:
        codes = np.empty_like(strip.codes)
        born = _recode(strip.codes, codes, above, fates, born)
        above = np.stack([strip.codes[-1], codes[-1]])
        yield Strip(codes, strip.values)


@compiled
def _recode(codes: Int32, recoded: Int32, above: Int32, fates: Int32, born: int) -> int:
    for r in range(len(codes)):
        north, north_now = (above[0], above[1]) if r == 0 else (codes[r - 1], recoded[r - 1])
        for c in range(codes.shape[1]):
            code = codes[r, c]
            if code <= NODATA:
                recoded[r, c] = code
            elif c > 0 and codes[r, c - 1] == code:
                recoded[r, c] = recoded[r, c - 1]
            elif north[c] == code:
                recoded[r, c] = north_now[c]
            else:
                recoded[r, c] = fates[born]
                born += 1
    return born


def holes(strips: Iterable[Strip]) -> Iterator[Strip]:
    """The map with its nodata as regions that count nothing, unless they reach the map's edge.

    With a minimum of 1, `new_codes` gives them to their neighbours.
    """
    return (Strip(np.where(strip.codes == NODATA, np.int32(HOLE), strip.codes), strip.values) for strip in strips)


def without_holes(strips: Iterable[Strip]) -> Iterator[Strip]:
    """The map with what is left of `holes` as nodata again."""
    return (Strip(np.where(strip.codes == HOLE, np.int32(NODATA), strip.codes), strip.values) for strip in strips)


def _below(above: Int32, rows: Int32, edge: int = OUTSIDE) -> Int32:
    stacked = np.full((len(rows) + 1, above.shape[1]), edge, np.int32)
    stacked[0], stacked[1:, 1:-1] = above[-1], rows
    return stacked


@compiled
def _root(parent: Int32, region: int) -> int:
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region


@compiled
def _label(
    codes: Int32, labels: Int32, regions: _Regions, count: int, born: int, weights: Int64, top: int, height: int
) -> int:
    """Label the rows but the first; returns how many labels are new."""
    parent = regions.parent
    made = 0
    for r in range(1, len(codes)):
        for c in range(1, codes.shape[1] - 1):
            code = codes[r, c]
            if code <= NODATA:
                continue
            west, north = codes[r, c - 1] == code, codes[r - 1, c] == code
            if west:
                label = labels[r, c - 1]
                if north and labels[r - 1, c] != label:
                    one, other = _root(parent, label), _root(parent, labels[r - 1, c])
                    if one != other:
                        if regions.born[other] < regions.born[one]:
                            one, other = other, one
                        parent[other] = one
                        regions.area[one] += regions.area[other]
            elif north:
                label = labels[r - 1, c]
            else:
                label = np.int32(count + made)
                regions.code[label] = code
                regions.born[label] = born + made
                made += 1
            labels[r, c] = label
            edge = c == 1 or c == codes.shape[1] - 2 or top + r == 1 or top + r == height
            if code != HOLE or edge:  # a hole counts nothing
                regions.area[_root(parent, label)] += weights[r - 1]
    return made


@compiled
def _touching(codes: Int32) -> int:
    count = 0
    for r in range(1, len(codes)):
        for c in range(1, codes.shape[1] - 1):
            count += (codes[r, c] != codes[r, c - 1]) + (codes[r, c] != codes[r - 1, c])
    return count


@compiled
def _contacts(
    codes: Int32,
    labels: Int32,
    regions: _Regions,
    minimum: int,
    top: int,
    across: Int64,
    down: Int64,
    found: Int64,
) -> int:
    """Write borders (one, other, length, where), a row a pixel edge or a run of them; returns how many."""
    count = 0
    width = codes.shape[1]
    for r in range(1, len(codes)):
        y = top + r - 1
        for c in range(1, width - 1):
            here = labels[r, c]
            if here < 0:
                continue
            for side in range(2):
                there = labels[r - 1, c] if side == 0 else labels[r, c - 1]
                if there < 0 or (codes[r - 1, c] if side == 0 else codes[r, c - 1]) == codes[r, c]:
                    continue
                one, other = _root(regions.parent, here), _root(regions.parent, there)
                if regions.area[one] >= minimum and regions.area[other] >= minimum:
                    continue
                if one > other:
                    one, other = other, one
                length = across[y] if side == 0 else down[y]
                last = count - 1
                if last >= 0 and found[last, 0] == one and found[last, 1] == other:
                    found[last, 2] += length
                else:
                    found[count, 0], found[count, 1], found[count, 2] = one, other, length
                    found[count, 3] = (np.int64(y) * width + c) * 2 + side
                    count += 1
    return count


def _together(contacts: _Contacts, found: Int64, regions: _Regions, minimum: int) -> _Contacts:
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
        return _no_contacts()
    return _Contacts(
        (key[starts] >> 32).astype(np.int32),
        (key[starts] & 0xFFFFFFFF).astype(np.int32),
        np.add.reduceat(length[small][order], starts),
        np.minimum.reduceat(first[small][order], starts),
    )


@allocating
def _roots(parent: Int32, regions: Int32) -> Int64:
    roots = np.empty(len(regions), np.int64)
    for i in range(len(regions)):
        roots[i] = _root(parent, regions[i])
    return roots


def _settle(
    regions: _Regions, contacts: _Contacts, last: Int32, minimum: int, fates: Int32
) -> tuple[_Regions, _Contacts, Int32]:
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
    left = _Regions(renumbered[here], regions.code[here], regions.area[here], regions.born[here])
    contacts = _Contacts(
        renumbered[contacts.one[pending]],
        renumbered[contacts.other[pending]],
        contacts.length[pending],
        contacts.first[pending],
    )
    return left, contacts, renumbered


def _waiting(regions: _Regions, contacts: _Contacts, is_open: Bools, small: Bools) -> Bools:
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
            one, other = _root(cluster, ones[i]), _root(cluster, others[i])
            cluster[max(one, other)] = min(one, other)


@allocating
def _merge(regions: _Regions, contacts: _Contacts, settled: Bools, minimum: int, codes: Int32) -> None:
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
            there = _root(group, contacts.other[i // 2] if i % 2 == 0 else contacts.one[i // 2])
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
        codes[i] = codes[_root(group, i)]


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
