"""Keep a distance between the tiles of different splits.

Each rectangle belongs to a scene and has a window there. Rectangles of scenes with one CRS are compared in its plane,
scenes of several CRSs in metres on the ground. A scene without CRS and position is compared with itself only.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.tile.footprints import PlacedScene, PlannedTile, Rectangle, draw_footprints
from cwsam_cli.vector.distances import near_pairs, share_ground

_ROUNDING = 1e-6
_SLIVER = 1e-2
"""Share of a rectangle that is too little to count as shared, because the grids of two scenes can differ."""
_WARPED = 5e-3
"""Share of a distance by which two CRSs may differ."""


@dataclass(frozen=True, slots=True)
class Intrusions:
    """Where the surroundings of a block reach into another one. All arrays have one entry per pair of blocks."""

    ours: NDArray[np.int64]
    """Number of the block, in ascending order."""
    theirs: NDArray[np.int64]
    """Number of the other block."""
    reached: NDArray[np.int64]
    """First column, first row, last column and last row + 1 of the part, in pixels of the scene, (P, 4)."""
    lost: NDArray[np.float64]
    """Share of the block that is lost if the other one is in a stricter split, 0 to 1."""


@dataclass(frozen=True, slots=True)
class _Comparable:
    """Rectangles that lie in one plane."""

    numbers: NDArray[np.int64]
    shapes: NDArray[np.object_]
    pixels: NDArray[np.float64]
    """Length of a pixel in the unit of the plane."""
    in_degrees: bool


def find_intrusions(
    scenes: Sequence[PlacedScene], blocks: Sequence[Rectangle], *, buffer: int, size: int
) -> Intrusions:
    """Find blocks near each other.

    Blocks of scenes with different CRSs are left out, although `yielding` compares their tiles.

    Args:
        scenes: the scenes that `Rectangle.scene` counts.
        blocks: the blocks.
        buffer: pixels between tiles of different splits.
        size: pixels per side of a tile.
    """
    found: list[tuple[NDArray[np.int64], ...]] = []
    for group in _groups(scenes, blocks):
        reach = buffer * group.pixels * (1 - _ROUNDING)
        ours, theirs = near_pairs(group.shapes, group.shapes, reach, in_degrees=group.in_degrees)
        ours, theirs = group.numbers[ours], group.numbers[theirs]
        crs = np.unique([scenes[blocks[number].scene].crs or "" for number in group.numbers], return_inverse=True)[1]
        code = dict(zip(group.numbers.tolist(), crs.tolist(), strict=True))
        alike = np.array([i != j and code[i] == code[j] for i, j in zip(ours.tolist(), theirs.tolist(), strict=True)])
        ours, theirs = ours[alike.astype(bool)], theirs[alike.astype(bool)]
        if len(ours):
            found.append((ours, theirs, _reached(scenes, blocks, ours, theirs, buffer)))
    if not found:
        nothing = np.zeros(0, np.int64)
        return Intrusions(nothing, nothing, np.zeros((0, 4), np.int64), np.zeros(0))
    ours, theirs, reached = (np.concatenate(parts) for parts in zip(*found, strict=True))
    some = (reached[:, 0] < reached[:, 2]) & (reached[:, 1] < reached[:, 3])
    order = np.flatnonzero(some)[np.argsort(ours[some], kind="stable")]
    ours, theirs, reached = ours[order], theirs[order], reached[order]
    sides = np.array([(block.window.width, block.window.height) for block in blocks], float)[ours]
    return Intrusions(ours, theirs, reached, _lost(reached, sides, size))


def inset(window: Window, reached: NDArray[np.int64]) -> Window:
    """Cut a window back from strips at its sides, so that as much as possible is left.

    A part that reaches only a corner stays: it costs fewer tiles than a strip.

    Args:
        window: the window of a block, in pixels of the scene.
        reached: parts to keep free, (P, 4) as in `Intrusions`.

    Returns:
        The window that is left; its width or height can be 0.
    """
    left, top = int(window.col_off), int(window.row_off)
    right, bottom = left + int(window.width), top + int(window.height)
    for first_col, first_row, last_col, last_row in [*reached.tolist()] * 2:  # a cut can make a corner a strip
        if last_col <= left or first_col >= right or last_row <= top or first_row >= bottom:
            continue
        if first_col <= left and last_col >= right:
            top, bottom = (top, first_row) if first_row - top >= bottom - last_row else (last_row, bottom)
        elif first_row <= top and last_row >= bottom:
            left, right = (left, first_col) if first_col - left >= right - last_col else (last_col, right)
        if left >= right or top >= bottom:
            return Window(left, top, 0, 0)
    return Window(left, top, right - left, bottom - top)


def yielding(
    scenes: Sequence[PlacedScene],
    tiles: Sequence[Rectangle],
    groups: Sequence[str],
    strictness: Sequence[int],
    *,
    buffer: int,
) -> set[int]:
    """Return the tiles that have to go, because a tile of another split is too near.

    Of two tiles the one with the lower strictness goes. With a buffer of 0, tiles may touch and share the width of a
    pixel, because the grids of two scenes can differ by so much.

    Args:
        scenes: the scenes that `Rectangle.scene` counts.
        tiles: the tiles.
        groups: the split of each tile.
        strictness: a number per tile. Tiles of equal strictness must be of one split, or never go.
        buffer: pixels between tiles of different splits.
    """
    gone: set[int] = set()
    rank, split = np.asarray(strictness), np.asarray(groups)
    for group in _groups(scenes, tiles):
        own_rank, own_split = rank[group.numbers], split[group.numbers]
        stays = np.ones(len(group.numbers), bool)
        for level in sorted(set(own_rank.tolist()), reverse=True)[:-1]:
            strict = np.flatnonzero(stays & (own_rank == level))
            laxer = np.flatnonzero(own_rank < level)
            reach = buffer * group.pixels[strict] * (1 - (_WARPED if group.in_degrees else _ROUNDING))
            one, other = near_pairs(group.shapes[strict], group.shapes[laxer], reach, in_degrees=group.in_degrees)
            one, other = strict[one], laxer[other]
            apart = own_split[one] != own_split[other]
            one, other = one[apart], other[apart]
            if not buffer:
                other = other[_share_ground(group, tiles, one, other)]
            stays[other] = False
        gone |= set(group.numbers[~stays].tolist())
    return gone


def apart(
    scenes: Sequence[PlacedScene],
    tiles: Sequence[PlannedTile],
    earlier: Sequence[PlannedTile] = (),
    *,
    buffer: int,
) -> set[int]:
    """Return the tiles that have to go, because a tile of a stricter split or an earlier tile is too near.

    Args:
        scenes: the scenes that `PlannedTile.scene` counts.
        tiles: the tiles.
        earlier: tiles of a dataset to which the others are added. They always stay.
        buffer: pixels between tiles of different splits.
    """
    strictness = [SPLITS.index(tile.split) for tile in tiles] + [len(SPLITS)] * len(earlier)
    both = [*tiles, *earlier]
    return yielding(scenes, both, [tile.split for tile in both], strictness, buffer=buffer)


def shared_ground(
    scenes: Sequence[PlacedScene], ours: Sequence[Rectangle], theirs: Sequence[Rectangle]
) -> list[tuple[int, int, float]]:
    """Return which rectangles share ground.

    Args:
        scenes: the scenes that `Rectangle.scene` counts.
        ours: rectangles.
        theirs: other rectangles.

    Returns:
        Numbers of our rectangle and of theirs, and the share of ours that both show, 0 to 1.
    """
    found: list[tuple[int, int, float]] = []
    for group in _groups(scenes, [*ours, *theirs]):
        is_ours = group.numbers < len(ours)
        first, second = np.flatnonzero(is_ours), np.flatnonzero(~is_ours)
        one, other = near_pairs(group.shapes[first], group.shapes[second], np.zeros(len(first)))
        one, other = first[one], second[other]
        areas = shapely.area(shapely.intersection(group.shapes[one], group.shapes[other]))
        shares = (areas / shapely.area(group.shapes[one])).tolist()
        pairs = zip(group.numbers[one].tolist(), group.numbers[other].tolist(), shares, strict=True)
        found += [(i, j - len(ours), share) for i, j, share in pairs if share > _SLIVER]
    return found


def near_folds(
    scenes: Sequence[PlacedScene], tiles: Sequence[Rectangle], folds: Sequence[int | None], *, buffer: int
) -> list[tuple[int, ...]]:
    """Return for each tile the other folds that have a tile closer than the buffer.

    With a buffer of 0, tiles may touch, as in `yielding`.

    Args:
        scenes: the scenes that `Rectangle.scene` counts.
        tiles: the tiles.
        folds: the fold of each tile, None outside folds.
        buffer: pixels between tiles of different folds.
    """
    found: list[set[int]] = [set() for _ in tiles]
    for group in _groups(scenes, tiles):
        reach = buffer * group.pixels * (1 - (_WARPED if group.in_degrees else _ROUNDING))
        one, other = near_pairs(group.shapes, group.shapes, reach, in_degrees=group.in_degrees)
        if not buffer:
            real = _share_ground(group, tiles, one, other)
            one, other = one[real], other[real]
        for i, j in zip(group.numbers[one].tolist(), group.numbers[other].tolist(), strict=True):
            own, their = folds[i], folds[j]
            if own is not None and their is not None and own != their:
                found[i].add(their)
    return [tuple(sorted(near)) for near in found]


def _share_ground(
    group: _Comparable, tiles: Sequence[Rectangle], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which pairs of tiles share more than a strip that is one pixel wide, (P,)."""
    windows = [tiles[number].window for number in group.numbers.tolist()]
    strips = 1 / np.array([min(window.width, window.height) for window in windows], float)
    return share_ground(group.shapes[one], group.shapes[other], strips[other], in_degrees=group.in_degrees)


def _groups(scenes: Sequence[PlacedScene], rectangles: Sequence[Rectangle]) -> Iterator[_Comparable]:
    by_place: dict[object, list[int]] = defaultdict(list)
    for number, rectangle in enumerate(rectangles):
        scene = scenes[rectangle.scene]
        unplaced = scene.crs is None and (scene.transform[2], scene.transform[5]) == (0, 0)
        by_place[rectangle.scene if unplaced else scene.crs is not None].append(number)
    for numbers in by_place.values():
        own = [rectangles[number] for number in numbers]
        frame = draw_footprints(scenes, own)
        in_degrees = len({scenes[rectangle.scene].crs for rectangle in own}) > 1
        pixel = {number: _pixel(scenes[number], in_degrees) for number in {rectangle.scene for rectangle in own}}
        pixels = np.array([pixel[rectangle.scene] for rectangle in own])
        yield _Comparable(np.array(numbers), frame.geometry.to_numpy(), pixels, in_degrees)


def _pixel(scene: PlacedScene, in_metres: bool) -> float:
    if in_metres:
        return scene.grid.gsd_m or 0.0
    a, b, _, d, e, _ = scene.transform
    return float(max(np.hypot(a, d), np.hypot(b, e)))


def _reached(
    scenes: Sequence[PlacedScene],
    blocks: Sequence[Rectangle],
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    buffer: int,
) -> NDArray[np.int64]:
    """Return the parts of our blocks within the buffer of theirs, in pixels of our scenes (P, 4)."""
    forth = np.array([scenes[block.scene].transform for block in blocks])
    back = np.array([tuple(~Affine(*row))[:6] for row in forth.tolist()])
    low = np.array([(block.window.col_off, block.window.row_off) for block in blocks], float)
    high = low + np.array([(block.window.width, block.window.height) for block in blocks], float)
    ends = np.stack([low, high, np.stack([high[:, 0], low[:, 1]], 1), np.stack([low[:, 0], high[:, 1]], 1)], axis=1)
    moved = _apply(back[ours], _apply(forth[theirs], ends[theirs]))
    first = np.floor(moved.min(axis=1) - buffer + _ROUNDING)
    last = np.ceil(moved.max(axis=1) + buffer - _ROUNDING)
    return np.concatenate([np.maximum(first, low[ours]), np.minimum(last, high[ours])], axis=1).astype(np.int64)


def _apply(transforms: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply a transform (P, 6) to each group of points (P, 4, 2)."""
    a, b, c, d, e, f = transforms.T[:, :, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=2)


def _lost(reached: NDArray[np.int64], sides: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Estimate the share of blocks (P,) that is lost with a part, in whole tiles where the part is not a strip."""
    part = (reached[:, 2:] - reached[:, :2]).astype(float)
    spans = part >= sides - 0.5
    strip = np.where(sides - part < np.minimum(size, sides), sides, part) / sides  # what is left must hold a tile
    tiles = np.minimum(np.ceil(part / size) * size, sides) / sides
    corner = tiles.prod(axis=1)
    return np.where(
        spans.all(axis=1), 1.0, np.where(spans[:, 0], strip[:, 1], np.where(spans[:, 1], strip[:, 0], corner))
    )
