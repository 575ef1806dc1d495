"""Place tiles in blocks of ground."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.raster.grid import offsets
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.split.blocks import Block


@dataclass(frozen=True, slots=True)
class PlacedBlock:
    """A block of a scene; satisfies `footprints.Rectangle`."""

    scene: int
    block: Block

    @property
    def window(self) -> Window:
        """Return its window in the scene."""
        return self.block.window


def place(
    placed: PlacedBlock, window: Window, split: str, fold: int | None, request: TileRequest
) -> Sequence[PlannedTile]:
    """Place tiles in a window, which is a block or a part of it."""
    size, overlap = request.size, request.overlap if split == "train" else 0
    whole = placed.window
    height, width = int(window.height), int(window.width)
    if height < min(size, whole.height) or width < min(size, whole.width):
        return ()
    return [
        PlannedTile(
            scene=placed.scene,
            row_off=int(window.row_off) + row,
            col_off=int(window.col_off) + col,
            height=min(size, height),
            width=min(size, width),
            split=split,
            block=placed.block.key,
            fold=fold,
            shared=(above, beside),
            overlap=overlap,
        )
        for (row, above), (col, beside) in product(_starts(height, size, overlap), _starts(width, size, overlap))
    ]


def _starts(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return where tiles start along an axis, each with the pixels that it shares with the tile before."""
    starts = offsets(length, size, size - overlap)
    return [(0, 0), *((later, earlier + size - later) for earlier, later in pairwise(starts))]


def without(tiles: Sequence[PlannedTile], gone: set[int], size: int) -> list[PlannedTile]:
    """Leave tiles out. What they shared with a later tile counts in that one."""
    left: dict[tuple[int, str, int, int], PlannedTile] = {}
    by_block: dict[tuple[int, str], list[PlannedTile]] = defaultdict(list)
    for number, tile in enumerate(tiles):
        if number in gone:
            continue
        above, beside = tile.shared
        up, west = tile.row_off + above - size, tile.col_off + beside - size
        has_up = above > 0 and (tile.scene, tile.block, up, tile.col_off) in left
        has_west = beside > 0 and (tile.scene, tile.block, tile.row_off, west) in left
        if above and beside and not has_up and not has_west and (tile.scene, tile.block, up, west) in left:
            continue  # it would share a corner, which `shared` cannot say
        shared = (above if has_up else 0, beside if has_west else 0)
        earlier = by_block[tile.scene, tile.block]
        if shared != tile.shared or tile.others:
            near = [each for each in earlier if _meet(each, tile)]
            tile = replace(tile, shared=shared, others=tuple((each.row_off, each.col_off) for each in near))
        left[tile.scene, tile.block, tile.row_off, tile.col_off] = tile
        earlier.append(tile)
    return list(left.values())


def _meet(one: PlannedTile, other: PlannedTile) -> bool:
    return abs(one.row_off - other.row_off) < one.height and abs(one.col_off - other.col_off) < one.width


def area(rectangles: Sequence[PlacedBlock | PlannedTile]) -> int:
    """Return the number of pixels in rectangles. A pixel in two tiles of one block counts once."""
    total = 0
    for each in rectangles:
        if isinstance(each, PlannedTile) and each.others:
            total += int(each.fresh.sum())
            continue
        above, beside = each.shared if isinstance(each, PlannedTile) else (0, 0)
        total += int((each.window.height - above) * (each.window.width - beside))
    return total


def place_on_labels(known: NDArray[np.bool_], size: int) -> list[tuple[int, int]] | None:
    """Return tiles that contain all labelled pixels and do not overlap.

    A lattice cuts small groups of labels at arbitrary lines. Here, rows with labels are covered by strips, and the
    labelled columns of each strip by tiles. Each is moved so that its labels lie in the middle, as far as its
    neighbours allow.

    Args:
        known: which pixels of a block have a label (H, W); at least `size` pixels on each side.
        size: pixels per side of a tile.

    Returns:
        First row and first column of each tile. None if a lattice needs no more tiles, or if there is no room for
        tiles that do not overlap.
    """
    rows = _cover(np.asarray(known.any(axis=1)), size)
    if rows is None:
        return None
    starts: list[tuple[int, int]] = []
    for row in rows:
        columns = _cover(np.asarray(known[row : row + size].any(axis=0)), size)
        if columns is None:
            return None
        starts += [(row, column) for column in columns]
    return starts if len(starts) < _lattice_tiles(known, size) else None


def _cover(labelled: NDArray[np.bool_], size: int) -> list[int] | None:
    """Return starts of intervals that do not overlap and contain all labelled places of an axis, or None."""
    places = np.flatnonzero(labelled).tolist()
    groups: list[tuple[int, int]] = []
    for place in places:
        if groups and place < groups[-1][0] + size:
            groups[-1] = groups[-1][0], place
        else:
            groups.append((place, place))
    last_start = len(labelled) - size
    earliest: list[int] = []
    for first, last in groups:
        start = max(0, last + 1 - size, *(earlier + size for earlier in earliest[-1:]))
        if start > min(first, last_start):
            return None
        earliest.append(start)
    starts: list[int] = []
    limit = last_start
    for (first, last), start in zip(reversed(groups), reversed(earliest), strict=True):
        middle = (first + last + 1 - size) // 2
        starts.append(min(max(middle, start), first, limit))
        limit = starts[-1] - size
    return starts[::-1]


def _lattice_tiles(known: NDArray[np.bool_], size: int) -> int:
    """Return the number of a lattice's tiles with labels."""
    rows, columns = offsets(known.shape[0], size, size), offsets(known.shape[1], size, size)
    return sum(bool(known[row : row + size, column : column + size].any()) for row in rows for column in columns)
