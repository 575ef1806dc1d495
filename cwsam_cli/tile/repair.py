"""Give the pixels of tiles that were left out to the neighbours that share them.

Where tiles share pixels, the earlier one has the labels. Whether it becomes part of the dataset is known only when it
has been read. Its neighbours are then written again.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window, intersect

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.dataset.statistics import RunningStats
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.plan import TilePlan
from cwsam_cli.tile.scenes import Inputs
from cwsam_cli.tile.tiles import WrittenTile
from cwsam_cli.tile.work import TileWriter, writing_tiles


@dataclass(slots=True)
class Repair:
    """What changes in a dataset."""

    tiles: dict[int, WrittenTile]
    """All tiles by their number in the plan."""
    pixels: NDArray[np.int64]
    """Labelled pixels to add, by split and class index (3, K)."""
    statistics: RunningStats = field(default_factory=RunningStats)
    """Of the training pixels to add."""
    left_out: list[tuple[str, int]] = field(default_factory=list)
    """Reasons, each with the number of tiles to add."""


def repair(plan: TilePlan, inputs: Inputs, folder: Path, written: Mapping[int, WrittenTile]) -> Repair:
    """Write tiles again that shared pixels with a tile that was left out.

    Args:
        plan: the tiles.
        inputs: the labels.
        folder: where the dataset is written.
        written: the tiles that were written, by their number in the plan.
    """
    result = Repair(dict(written), np.zeros((len(SPLITS), len(plan.taxonomy)), np.int64))
    if len(written) == len(plan.tiles):
        return result
    seen: dict[tuple[int, str], list[tuple[Window, bool]]] = defaultdict(list)
    with writing_tiles(plan, inputs, folder) as writer:
        for number, tile in enumerate(plan.tiles):
            if tile.overlap == plan.size:  # a tile of --focus: its pixels never count
                continue
            earlier = [
                (window, kept) for window, kept in seen[tile.scene, tile.block] if intersect(tile.window, window)
            ]
            if not all(kept for _, kept in earlier):
                _rewrite(result, writer, number, tile, [window for window, kept in earlier if kept])
            seen[tile.scene, tile.block].append((tile.window, number in result.tiles))
    return result


def _rewrite(result: Repair, writer: TileWriter, number: int, tile: PlannedTile, earlier: Sequence[Window]) -> None:
    """Write a tile with the labels that the earlier tiles do not have."""
    before, now = writer.read(tile), writer.read(tile, ~_covered(tile, earlier, tile.overlap))
    fresh, row = ~_covered(tile, earlier, 0), result.pixels[SPLITS.index(tile.split)]
    added = fresh.copy()
    if isinstance(before, str):
        result.left_out.append((before, -1))
    else:
        row -= writer.count(before.label[tile.fresh])
        added &= ~tile.fresh
    if isinstance(now, str):
        result.left_out.append((now, 1))
        return
    row += writer.count(now.label[fresh])
    if tile.split == "train":
        result.statistics.add(now.image, now.valid & added)
    result.tiles[number] = writer.write(tile, now)


def _covered(tile: PlannedTile, others: Sequence[Window], margin: int) -> NDArray[np.bool_]:
    """Return which pixels of a tile other tiles contain (height, width).

    Args:
        tile: the tile.
        others: the windows of the others.
        margin: pixels at the edges of the others, inside the tile, that do not count.
    """
    covered = np.zeros((tile.height, tile.width), bool)
    for other in others:
        part = []
        for start, length, first, count in (
            (tile.row_off, tile.height, int(other.row_off), int(other.height)),
            (tile.col_off, tile.width, int(other.col_off), int(other.width)),
        ):
            low = first - start + margin if first > start else 0
            high = first + count - start - margin if first + count < start + length else length
            part.append(slice(low, max(low, high)))
        covered[tuple(part)] = True
    return covered
