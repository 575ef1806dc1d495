"""Give regions below the smallest mapping unit to their neighbours, exactly, in two passes over strips.

Smallest first, a region joins the neighbour with which it shares the longest border (the one
it touches first from the north-west, if two are equal), and goes on joining while the two
together are still too small. Where it then touches small regions of its new class, these are
one region. Nodata is nobody's neighbour: a small region with nodata all around stays.

The first pass labels regions in the order of their first pixels, and settles small ones as soon
as nothing later can change the outcome. It leaves a new code for every label. The second pass
counts labels in the same order and needs nothing but these codes.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from cwsam_cli.vectorize.clusters import Int32, Int64, Unsettled, no_contacts, root, settle, together
from cwsam_cli.vectorize.codes import HOLE, NODATA, OUTSIDE, Strip
from cwsam_cli.vectorize.compiled import compiled
from cwsam_cli.vectorize.scan import census

PATIENCE = 2
"""How often what waits may be outnumbered before clusters are settled; 0 settles after every strip."""


class Rows(Protocol):
    """Whole numbers of which some rows can be had."""

    def __getitem__(self, rows: slice, /) -> Int64: ...


class Weights(NamedTuple):
    """What counts by row, as whole numbers, so that sums do not depend on their order."""

    area: Int64 | Rows
    """Of a pixel by row (H,), or of every pixel (H, W)."""
    across: Int64
    """Length of a pixel's upper edge; one more than rows."""
    down: Int64
    """Length of a pixel's left edge."""


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
    regions, contacts = Unsettled(none32, none32, none64, none64), no_contacts()
    codes, labels = np.full((1, width + 2), OUTSIDE, np.int32), np.full((1, width + 2), -1, np.int32)
    found: list[Int64] = []
    top = born = settled = 0
    total = len(weights.down)
    for strip in strips:
        rows = len(strip.codes)
        codes, labels = _below(codes, strip.codes), _below(labels, np.full((rows, width), -1, np.int32), -1)
        _, _, starts = census(codes)
        old = len(regions.code)
        regions = Unsettled(
            np.concatenate([regions.parent, np.arange(old, old + starts, dtype=np.int32)]),
            np.concatenate([regions.code, np.zeros(starts, np.int32)]),
            np.concatenate([regions.area, np.zeros(starts, np.int64)]),
            np.concatenate([regions.born, np.zeros(starts, np.int64)]),
        )
        made = _label(codes, labels, regions, old, born, weights.area[top : top + rows].reshape(rows, -1), top, total)
        size = old + made
        regions = Unsettled(regions.parent[:size], regions.code[:size], regions.area[:size], regions.born[:size])
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
        contacts = together(contacts, np.concatenate(found), regions, minimum)
        regions, contacts, renumbered = settle(regions, contacts, labels[0], minimum, fates)
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
def _label(
    codes: Int32, labels: Int32, regions: Unsettled, count: int, born: int, weights: Int64, top: int, height: int
) -> int:
    """Label the rows but the first; returns how many labels are new.

    Weights are of each pixel, (rows, width), or of each row, (rows, 1).
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
            if code != HOLE or edge:  # a hole counts nothing
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
                one, other = root(regions.parent, here), root(regions.parent, there)
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
