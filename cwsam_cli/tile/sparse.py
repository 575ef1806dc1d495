"""Place tiles on the labels, in blocks of which few pixels are labelled."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.console import track
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.scenes import Inputs, OpenScene, SceneReader
from cwsam_cli.tile.split.earlier import around
from cwsam_cli.tile.split.placement import place_on_labels

_FEW = 0.25
"""Share of labelled pixels below which a block's labels are read once more, to place tiles on them."""

_LARGEST = 1 << 26
"""Pixels of the largest block whose labels are held in memory, one byte each."""


def place_on_few(
    tiles: Sequence[PlannedTile],
    inputs: Inputs,
    labelled: Mapping[tuple[int, str], float],
    taxonomy: Taxonomy,
    size: int,
) -> list[PlannedTile]:
    """Move the tiles of blocks with few labels onto the labels, where that needs fewer tiles.

    The tiles of a split in a block stay within the ground that they cover together, so splits and buffers hold. Each
    label that they show stays in one tile.

    Args:
        tiles: the tiles, which cover their blocks as a lattice.
        inputs: scenes and labels.
        labelled: share of labelled pixels by scene and block.
        taxonomy: the class table.
        size: pixels per side of a tile.
    """
    by_place: dict[tuple[int, str, str], list[PlannedTile]] = defaultdict(list)
    for tile in tiles:  # polygons can divide a block between splits
        by_place[tile.scene, tile.block, tile.split].append(tile)
    few = [place for place, own in by_place.items() if labelled[place[:2]] < _FEW and _is_lattice(own, size)]
    moved = dict(by_place)
    with closing(SceneReader(inputs.scenes, inputs.table, size)) as reader:
        for place in track(few, "looking for labels", unit="block"):
            shown = around([tile.window for tile in by_place[place]])
            known = _known(reader.open(place[0]), shown, taxonomy.codes, size)
            starts = place_on_labels(known, size)
            if starts is not None:
                moved[place] = [_moved(by_place[place][0], shown, *start, size) for start in starts]
    return [tile for own in moved.values() for tile in own]


def _is_lattice(tiles: Sequence[PlannedTile], size: int) -> bool:
    """Return whether several tiles of full size cover a rectangle that fits into memory.

    Elsewhere, some tiles of the block were left out, because they are too near to another split or outside the
    polygons of their split.
    """
    rows, columns = (sorted(set(starts)) for starts in zip(*((t.row_off, t.col_off) for t in tiles), strict=True))
    has_gap = any(later - earlier > size for starts in (rows, columns) for earlier, later in pairwise(starts))
    is_full = len(tiles) == len(rows) * len(columns) and (tiles[0].height, tiles[0].width) == (size, size)
    area = (rows[-1] - rows[0] + size) * (columns[-1] - columns[0] + size)
    return len(tiles) > 1 and is_full and not has_gap and area <= _LARGEST


def _known(opened: OpenScene, window: Window, codes: Sequence[int], rows: int) -> NDArray[np.bool_]:
    """Return which pixels of a window have a label (H, W). They are read some rows at a time."""
    known = np.zeros((int(window.height), int(window.width)), bool)
    for top in range(0, len(known), rows):
        part = known[top : top + rows]
        strip = Window(window.col_off, window.row_off + top, window.width, len(part))
        part[:] = np.isin(opened.about_codes(strip), codes)
    return known


def _moved(tile: PlannedTile, shown: Window, row: int, col: int, size: int) -> PlannedTile:
    """Return a tile of the same block at another place."""
    return PlannedTile(
        scene=tile.scene,
        row_off=int(shown.row_off) + row,
        col_off=int(shown.col_off) + col,
        height=size,
        width=size,
        split=tile.split,
        block=tile.block,
        fold=tile.fold,
    )
