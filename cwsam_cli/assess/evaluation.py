"""Figures of an evaluation, with intervals, by class, by scene and by tile, from counts.

# G cells of ground, K classes
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.assess.breakdown import PartResult, as_length, measure_parts, measure_ranges
from cwsam_cli.assess.counts import Counts, find_worst
from cwsam_cli.assess.places import Places
from cwsam_cli.metrics.bootstrap import ENOUGH_BLOCKS, Arrays, bootstrap
from cwsam_cli.metrics.boundary import boundary_f1
from cwsam_cli.metrics.confusion import Matrix, Metrics, compute_metrics, compute_scores, or_none
from cwsam_cli.metrics.reliability import calibration_error
from cwsam_cli.taxonomy import Taxonomy

Interval = tuple[float, float] | None
"""Lower and upper end of a 95 % interval; None if there is none."""

_WORST = 10  # least accurate tiles named


@dataclass(frozen=True, slots=True)
class SceneResult:
    """Accuracy on one scene."""

    scene: str
    """Name of the scene's file; empty where the dataset does not say."""
    tiles: int
    pixels: int
    accuracy: float | None
    mean_iou: float | None
    kappa: float | None


@dataclass(frozen=True, slots=True)
class TileResult:
    """Accuracy on one tile."""

    tile: str
    scene: str
    block: str
    pixels: int
    """Labelled pixels."""
    accuracy: float | None
    """None if no pixel is labelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Accuracy of a model on a split of a dataset."""

    taxonomy: Taxonomy
    matrix: Matrix
    """Rows reference, columns map (K, K)."""
    metrics: Metrics
    boundary_f1: tuple[float | None, ...]
    """By class."""
    mean_boundary_f1: float | None
    """Over the classes that have a boundary in the reference."""
    tolerance: int
    """Pixels at which boundaries match."""
    calibration_error: float | None
    bins: NDArray[np.float64]
    """Pixels by confidence; see `metrics.reliability.count_bins`."""
    blocks: int
    """Number of blocks with labelled pixels."""
    has_blocks: bool
    """Whether the dataset names its blocks of ground; else each tile is one."""
    class_blocks: tuple[int, ...]
    """Number of blocks in which each class occurs in the reference."""
    intervals: Mapping[str, Interval]
    """95 % intervals of the overall figures by name."""
    class_intervals: Mapping[str, tuple[Interval, ...]]
    """95 % intervals of the classes' figures by name."""
    scenes: tuple[SceneResult, ...]
    tiles: tuple[TileResult, ...]
    """The least accurate first."""
    worst: tuple[TileResult, ...]
    """The least accurate tiles without those of which hardly a pixel is labelled."""
    experts: tuple[PartResult, ...]
    """Accuracy by the group of experts with the largest weight; nothing for a model with fewer than two groups."""
    distances: tuple[PartResult, ...]
    """Accuracy by distance from the nearest training tile; nothing if distances are unknown or equal."""

    @property
    def is_reliable(self) -> bool:
        """Whether there are enough blocks for intervals that can be relied on."""
        return self.blocks >= ENOUGH_BLOCKS


def compute_figures(sums: Arrays) -> Arrays:
    """Compute all figures that have intervals.

    Args:
        sums: `matrices` (..., K, K), `boundaries` (..., K, 4) and `bins` (..., N, 3).

    Returns:
        By name, (..., K) or (...).
    """
    scores = compute_scores(sums["matrices"])
    boundary = boundary_f1(sums["boundaries"])
    has_boundary = ~np.isnan(boundary)
    mean = np.where(has_boundary, boundary, 0).sum(axis=-1) / np.maximum(has_boundary.sum(axis=-1), 1)
    return {each.name: getattr(scores, each.name) for each in fields(scores)} | {
        "boundary_f1": boundary,
        "mean_boundary_f1": np.where(has_boundary.any(axis=-1), mean, np.nan),
        "calibration_error": calibration_error(sums["bins"]),
    }


def evaluate_counts(
    counts: Counts,
    places: Places,
    tiles: Sequence[str],
    taxonomy: Taxonomy,
    tolerance: int,
    distances_m: NDArray[np.float64] | None = None,
) -> Evaluation:
    """Compute all figures from counts.

    Args:
        counts: counts by cell of `places` and by tile.
        places: scenes and blocks of the tiles.
        tiles: names of the tiles.
        taxonomy: class table.
        tolerance: pixels at which boundaries match.
        distances_m: distance of each tile from the nearest training tile in metres; None if unknown.
    """
    _, cells = places.cells()
    by_tile = _evaluate_tiles(counts.tiles, places, tiles)
    by_block = sum_by_block(counts, cells)
    sums = {name: values.sum(axis=0, keepdims=True) for name, values in by_block.items()}
    figures = {name: values[0] for name, values in compute_figures(sums).items()}
    ends = bootstrap(by_block, compute_figures)
    by_group = sum_by_group(counts.groups, [block for _, block in cells])
    groups = [f"group {number}" for number in range(by_group.shape[1])]
    return Evaluation(
        taxonomy=taxonomy,
        matrix=counts.matrices.sum(axis=0),
        metrics=compute_metrics(counts.matrices.sum(axis=0)),
        boundary_f1=tuple(map(or_none, figures["boundary_f1"])),
        mean_boundary_f1=or_none(figures["mean_boundary_f1"]),
        tolerance=tolerance,
        calibration_error=or_none(figures["calibration_error"]),
        bins=counts.bins.sum(axis=0),
        blocks=len(by_block["matrices"]),
        has_blocks=places.has_blocks,
        class_blocks=tuple((by_block["matrices"].sum(axis=2) > 0).sum(axis=0).tolist()),
        intervals={name: as_interval(values) for name, values in ends.items() if values.ndim == 1},
        class_intervals={
            name: tuple(as_interval(column) for column in values.T) for name, values in ends.items() if values.ndim == 2
        },
        scenes=_evaluate_scenes(counts.matrices, [scene for scene, _ in cells], places),
        tiles=tuple(sorted(by_tile, key=lambda tile: (tile.accuracy is None, tile.accuracy, tile.tile))),
        worst=tuple(by_tile[number] for number in find_worst(counts.tiles, _WORST)),
        experts=measure_parts(by_group, groups),
        distances=() if distances_m is None else measure_ranges(distances_m, counts.tiles, places.blocks, as_length),
    )


def sum_by_block(counts: Counts, cells: Sequence[tuple[str, str]]) -> dict[str, NDArray[Any]]:
    """Sum counts over the scenes that share a block, and leave out blocks without labelled pixels."""
    blocks = [block for _, block in cells]
    is_labelled = sum_by_group(counts.matrices, blocks).sum(axis=(1, 2)) > 0
    return {
        name: sum_by_group(getattr(counts, name), blocks)[is_labelled] for name in ("matrices", "boundaries", "bins")
    }


def as_interval(ends: NDArray[np.float64]) -> Interval:
    """Return the ends (2,) of an interval as plain numbers, or None if they are unknown."""
    return None if np.isnan(ends).any() else (float(ends[0]), float(ends[1]))


def sum_by_group(values: NDArray[Any], groups: Sequence[str]) -> NDArray[Any]:
    """Sum an array (G, ...) over entries of the same group, in the order in which groups appear."""
    positions = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(positions), *values.shape[1:]), values.dtype)
    np.add.at(sums, [positions[name] for name in groups], values)
    return sums


def _evaluate_scenes(
    matrices: NDArray[np.int64], scene_of_cell: Sequence[str], places: Places
) -> tuple[SceneResult, ...]:
    tiles = Counter(places.scenes)
    found = []
    for scene, matrix in zip(dict.fromkeys(scene_of_cell), sum_by_group(matrices, scene_of_cell), strict=True):
        metrics = compute_metrics(matrix)
        name = Path(scene).name
        found.append(SceneResult(name, tiles[scene], metrics.pixels, metrics.accuracy, metrics.mean_iou, metrics.kappa))
    return tuple(found)


def _evaluate_tiles(counts: NDArray[np.int64], places: Places, tiles: Sequence[str]) -> list[TileResult]:
    rows = zip(tiles, places.scenes, places.blocks, counts.tolist(), strict=True)
    return [
        TileResult(tile, Path(scene).name, block, pixels, right / pixels if pixels else None)
        for tile, scene, block, (pixels, right) in rows
    ]
