"""Score a scene and put finished pieces of its map into a journal, alone or as one of several processes.

Work is a list of pieces that the journal does not hold yet. A process takes a stretch of it
and begins with the group of window rows that its first piece needs: what another process, or
a run before a crash, did above is done again where windows overlap, in the same batches, so
that every piece comes out the same whoever makes it.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from cwsam_cli.console import track
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.transforms import normalize
from cwsam_cli.errors import CheckpointError
from cwsam_cli.journal import Journal
from cwsam_cli.predict.aoi import read_area
from cwsam_cli.predict.blend import Blender, Scored, cut_rows
from cwsam_cli.predict.heap import Heap
from cwsam_cli.predict.layers import LayerPlan
from cwsam_cli.predict.windows import Seen, batches
from cwsam_cli.raster.grid import Lattice
from cwsam_cli.raster.prefetch import prefetch
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.raster.sources import gdal_settings

Score = Callable[[Tensor], NDArray[np.float32]]
Made = Generator[tuple[int, NDArray[np.uint8]], None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A scene and how it is to be mapped."""

    scene: str
    bands: tuple[Band, ...]
    """That the model was trained on."""
    chosen_bands: tuple[str, ...] = ()
    alpha: str | None = None
    pixel_m: float | None = None
    """Resample the scene to this."""
    aoi: Path | None = None
    lattice: Lattice
    shown: Window
    """What the map shows, counted from the north."""
    row_cuts: tuple[int, ...]
    col_cuts: tuple[int, ...]
    batch: int
    group: int
    profile: str
    layers: LayerPlan
    cache: int

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """All of them, by column and row, in the order of work."""
        return [(column, row) for column in range(len(self.col_cuts) - 1) for row in range(len(self.row_cuts) - 1)]


def fill(
    job: Job,
    score: Score,
    journal: Journal,
    *,
    rank: int = 0,
    world: int = 1,
    beat: Callable[[], None] | None = None,
) -> None:
    """Make this process's share of the pieces that are missing.

    Args:
        job: the work.
        score: normalised windows (B, C, S, S) → (B, K, S, S).
        journal: of the map.
        rank: which process this is.
        world: how many there are.
        beat: called for every batch; what it raises ends the work.
    """
    todo = [(column, row) for column, row in job.pieces if (row, column) not in journal.pieces]
    own = todo[rank * len(todo) // world : (rank + 1) * len(todo) // world]
    if beat is not None:
        score = _beating(score, beat)
    bar = track(range(len(own)), "predicting")
    with journal.appending(rank) as append:
        for column, first, last in _stretches(own):
            with closing(_pieces(job, score, column, first, last)) as made:
                for row, layers in made:
                    append(row, column, layers.tobytes())
                    next(bar, None)
    next(bar, None)


def _beating(score: Score, beat: Callable[[], None]) -> Score:
    def scored(images: Tensor) -> NDArray[np.float32]:
        beat()
        return score(images)

    return scored


def _stretches(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Neighbouring pieces of a column together: column, first row, last row."""
    start = 0
    for at in range(1, len(pieces) + 1):
        if at == len(pieces) or pieces[at] != (pieces[at - 1][0], pieces[at - 1][1] + 1):
            yield pieces[start][0], pieces[start][1], pieces[at - 1][1]
            start = at


def _pieces(job: Job, score: Score, column: int, first: int, last: int) -> Made:
    """Rows of pieces with their layers; the model and the reader each work in a thread of their own."""
    left, right = job.col_cuts[column], job.col_cuts[column + 1]
    cuts = job.row_cuts[first : last + 2]
    area = Window(left, cuts[0], right - left, cuts[-1] - cuts[0])
    rows, cols = job.lattice.touching(area)
    every, _ = job.lattice.touching(job.shown)
    begin = every.start + (rows.start - every.start) // job.group * job.group
    end = min(every.stop, every.start - (every.start - rows.stop) // job.group * job.group)
    blender = Blender(job.lattice, job.layers.finisher(), layers=job.layers.count, profile=job.profile)
    scored = prefetch(_scored(job, score, range(begin, end), cols))
    with closing(scored):
        for number, layers in cut_rows(blender.blend(scored, area), cuts):
            yield first + number, layers


def _scored(job: Job, score: Score, rows: range, cols: range) -> Iterator[Scored]:
    heap = Heap()
    with closing(prefetch(_read(job, rows, cols))) as read:
        for seen, images in read:
            scores = score(images)
            heap.after_batch()
            for (row, col, wanted), own in zip(seen, scores, strict=True):
                _refuse_nonsense(own, wanted, job, row, col)
                yield Scored(row, col, own, wanted)


def _refuse_nonsense(scores: NDArray[np.float32], wanted: NDArray[np.bool_], job: Job, row: int, col: int) -> None:
    """Stop where no class has the best score; a hidden class's is minus infinity."""
    best = scores[: len(job.layers.taxonomy)].max(axis=0)
    if not np.isfinite(best[: wanted.shape[0], : wanted.shape[1]][wanted]).all():
        left, top = max(0, job.lattice.cols[col]), max(0, job.lattice.rows[row])
        raise CheckpointError(
            f"the model's scores are not finite in the window at column {left}, row {top} of `{job.scene}`",
            hint="--precision fp32 may help; else the checkpoint is of no use: train again with a lower lr",
        )


_Read = tuple[list[tuple[int, int, NDArray[np.bool_]]], Tensor]


def _read(job: Job, rows: range, cols: range) -> Iterator[_Read]:
    """Batches as the model takes them, (B, C, S, S), and which pixels of them are shown."""
    with (
        rasterio.Env(**gdal_settings(job.scene, cache=job.cache)),
        open_scene(
            job.scene,
            wanted_bands=[band.name for band in job.bands],
            chosen_bands=job.chosen_bands,
            alpha=job.alpha,
            pixel_m=job.pixel_m,
        ) as scene,
    ):
        inside = read_area(job.aoi, scene.north_up) if job.aoi else None
        found = batches(
            scene, job.lattice, rows, cols, shown=job.shown, inside=inside, batch=job.batch, group=job.group
        )
        for batch in found:
            yield [(item.row, item.col, item.wanted.copy()) for item in batch], _images(batch, job)


def _images(batch: list[Seen], job: Job) -> Tensor:
    size = job.lattice.size
    images = torch.zeros(len(batch), len(job.bands), size, size)
    for slot, item in zip(images, batch, strict=True):
        height, width = item.valid.shape
        slot[:, :height, :width] = normalize(item.image, item.valid, job.bands)
    return images
