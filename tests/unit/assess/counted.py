"""Evaluations made from confusion matrices alone, for tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.assess.counts import Counts
from cwsam_cli.assess.evaluation import Evaluation, evaluate_counts
from cwsam_cli.assess.places import Places
from cwsam_cli.taxonomy import Taxonomy


def places(*cells: tuple[str, str], has_blocks: bool = True) -> Places:
    """Tiles of these scenes and blocks."""
    scenes, blocks = zip(*cells, strict=True)
    return Places(scenes=scenes, blocks=blocks, windows=(None,) * len(cells), has_blocks=has_blocks)


def counted(matrices: NDArray[Any], where: Places, groups: int = 0) -> Counts:
    """The counts of one tile per confusion matrix (N, K, K). All but the first group of experts serve no pixel."""
    count, classes = len(matrices), matrices.shape[1]
    counts = Counts.empty(count, count, classes)
    counts.matrices[:] = matrices
    counts.tiles[:, 0] = matrices.sum(axis=(1, 2))
    counts.tiles[:, 1] = np.trace(matrices, axis1=1, axis2=2)
    counts.bins[:, 9, 0], counts.bins[:, 9, 1] = counts.tiles.T
    counts.bins[:, 9, 2] = 0.62 * counts.tiles[:, 0]
    counts.boundaries[:] = [10, 5, 20, 8]
    cells, names = where.cells()
    grouped = Counts.empty(len(names), count, classes, groups)
    if groups:
        np.add.at(grouped.groups[:, 0], cells, counts.tiles)
    for name in ("matrices", "boundaries", "bins"):
        np.add.at(getattr(grouped, name), cells, getattr(counts, name))
    grouped.tiles[:] = counts.tiles
    return grouped


def evaluation(
    matrices: NDArray[Any],
    taxonomy: Taxonomy,
    where: Places | None = None,
    *,
    groups: int = 0,
    distances_m: NDArray[np.float64] | None = None,
) -> Evaluation:
    """The evaluation of one tile per confusion matrix (N, K, K), each a block of its own by default."""
    tiles = [f"tile_{number}" for number in range(len(matrices))]
    where = where or places(*(("scene.tif", tile) for tile in tiles))
    return evaluate_counts(counted(matrices, where, groups), where, tiles, taxonomy, 2, distances_m)
