"""Join regions below the smallest mapping unit to their neighbours, exactly, in two passes over strips.

The smallest region comes first. It joins the neighbour with which it shares the longest border. If two
borders are equally long, it joins the neighbour that it touches first, counted from the upper left. It
joins further neighbours while both together are still too small. If it then touches small regions of its
new class, they become one region. Nodata is not a neighbour: a small region surrounded by nodata stays.

The first pass labels regions in the order of their first pixels, and settles small regions as soon as no
later row can change the result. It returns a new code for every label. The second pass counts labels in
the same order and needs only these codes.

Memory: the first pass returns one code per label of the whole map, in the map's own dtype. A cluster of
small regions is kept until it is settled. If nearly all regions are small, they form one cluster over the
whole map, which takes about 24 bytes per label and 24 bytes per border while the map is read.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cwsam_cli.maps.codes import HOLE, NODATA, OUTSIDE, Strip
from cwsam_cli.regions.clusters import CONTACT, Contacts, Int32, Int64, Unsettled, merge_equal, root, settle
from cwsam_cli.regions.compiled import compiled
from cwsam_cli.regions.corners import count_elements

Codes = NDArray[np.integer[Any]]

PATIENCE = 1
"""Clusters are settled when the number of new contacts exceeds this times the waiting ones; 0: after every strip."""


class Rows(Protocol):
    """Whole numbers that can be indexed by a slice of rows."""

    def __getitem__(self, rows: slice, /) -> Int64: ...


class Weights(NamedTuple):
    """Sizes of pixels as whole numbers, so that sums do not depend on their order."""

    area: Int64 | Rows
    """Area of a pixel by row (H,), or of every pixel (H, W)."""
    across: Int64
    """Length of a pixel's upper edge by line (H + 1,)."""
    down: Int64
    """Length of a pixel's left edge by row (H,)."""


def choose_codes(
    strips: Iterable[Strip], width: int, weights: Weights, minimum: int, dtype: DTypeLike = np.int32
) -> Codes:
    """Return the new code of every label: the first pass.

    Args:
        strips: the map.
        width: columns of the map.
        weights: sizes of pixels and their edges.
        minimum: a region whose pixels have a smaller total area joins a neighbour.
        dtype: of the result; it must hold all codes of the map.
    """
    fates = np.zeros(0, dtype)
    regions = Unsettled.none()
    contacts = np.zeros(0, CONTACT)
    codes, labels = np.full((1, width + 2), OUTSIDE, np.int32), np.full((1, width + 2), -1, np.int32)
    top = born = settled = 0
    total = len(weights.down)
    for strip in strips:
        rows = len(strip.codes)
        codes, labels = _below(codes, strip.codes), _below(labels, np.full((rows, width), -1, np.int32), -1)
        _, _, starts = count_elements(codes)
        old = len(regions.code)
        regions = regions.resized(old + starts)
        regions.parent[old:] = np.arange(old, old + starts)
        made = _label(codes, labels, regions, old, born, weights.area[top : top + rows].reshape(rows, -1), top, total)
        regions = regions.resized(old + made)
        born += made
        if born > len(fates):
            fates.resize(max(born, len(fates) * 5 // 4), refcheck=False)
        met = np.empty(_touching(codes), CONTACT)
        count = _contacts(codes, labels, regions, minimum, top, weights.across, weights.down, met)
        waiting = len(contacts)
        contacts.resize(waiting + count, refcheck=False)
        contacts[waiting:] = met[:count]
        top += rows
        codes, labels = codes[-1:], labels[-1:]
        if top == total:
            labels[:] = -1
        elif len(contacts) - settled < PATIENCE * max(settled, 2**16):
            continue  # all waiting contacts are visited again, so there must be enough new ones
        merge_equal(contacts, regions, minimum)
        regions, contacts, renumbered = settle(regions, contacts, labels[0], minimum, fates)
        settled = len(contacts)
        labels[labels >= 0] = renumbered[labels[labels >= 0]]
    return fates[:born]


def recode(strips: Iterable[Strip], width: int, fates: Codes) -> Iterator[Strip]:
    """Yield the map with the new code of every label: the second pass.

    Args:
        strips: the same map as in the first pass.
        width: columns of the map.
        fates: from `choose_codes`.
    """
    above = np.full((2, width), OUTSIDE, np.int32)  # old and new codes of the row above
    born = 0
    for strip in strips:
        codes = np.empty_like(strip.codes)
        born = _recode(strip.codes, codes, above, fates, born)
        above = np.stack([strip.codes[-1], codes[-1]])
        yield Strip(codes, strip.values)


@compiled
def _recode(codes: Int32, recoded: Int32, above: Int32, fates: Codes, born: int) -> int:
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


def select_holes(strips: Iterable[Strip]) -> Iterator[Strip]:
    """Yield the map with its nodata as regions of area 0, unless they reach the map's edge.

    With a minimum of 1, `choose_codes` joins these regions to their neighbours.
    """
    return (Strip(np.where(strip.codes == NODATA, np.int32(HOLE), strip.codes), strip.values) for strip in strips)


def drop_holes(strips: Iterable[Strip]) -> Iterator[Strip]:
    """Yield the map with the remaining regions of `select_holes` as nodata."""
    return (Strip(np.where(strip.codes == HOLE, np.int32(NODATA), strip.codes), strip.values) for strip in strips)


def _below(above: Int32, rows: Int32, edge: int = OUTSIDE) -> Int32:
    stacked = np.full((len(rows) + 1, above.shape[1]), edge, np.int32)
    stacked[0], stacked[1:, 1:-1] = above[-1], rows
    return stacked


@compiled
def _label(
    codes: Int32, labels: Int32, regions: Unsettled, count: int, born: int, weights: Int64, top: int, height: int
) -> int:
    """Label all rows but the first.

    Args:
        codes: (H + 1, W + 2).
        labels: (H + 1, W + 2). The first row holds labels; the others are written.
        regions: the regions, changed in place.
        count: the first free region.
        born: labels of the map so far.
        weights: areas of pixels (H, W), or of the pixels of each row (H, 1).
        top: the number of the second of these rows in the map.
        height: rows of the map.

    Returns:
        The number of new labels.
    """
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
                    one, other = root(parent, label), root(parent, labels[r - 1, c])
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
            if code != HOLE or edge:  # a hole has area 0
                regions.area[root(parent, label)] += weights[r - 1, min(c, weights.shape[1]) - 1]
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
    regions: Unsettled,
    minimum: int,
    top: int,
    across: Int64,
    down: Int64,
    found: Contacts,
) -> int:
    """Write the borders of small regions, one contact per pixel edge or run of edges.

    Args:
        codes: (H + 1, W + 2).
        labels: (H + 1, W + 2).
        regions: the regions.
        minimum: regions whose area is less are small.
        top: the number of the second of these rows in the map.
        across: lengths of pixels' upper edges.
        down: lengths of pixels' left edges.
        found: receives the contacts.

    Returns:
        The number of contacts.
    """
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
                one, other = root(regions.parent, here), root(regions.parent, there)
                if regions.area[one] >= minimum and regions.area[other] >= minimum:
                    continue
                if one > other:
                    one, other = other, one
                length = across[y] if side == 0 else down[y]
                last = count - 1
                if last >= 0 and found[last].one == one and found[last].other == other:
                    found[last].length += length
                else:
                    found[count].one = one
                    found[count].other = other
                    found[count].length = length
                    found[count].first = (np.int64(y) * width + c) * 2 + side
                    count += 1
    return count
