"""Make a map as its plan says: pieces into a journal, alone or as one of several processes, and files from the journal.

A process takes a stretch of the pieces that the journal lacks. It begins with the group of window rows that its first
piece needs, so it repeats some windows that another process, or a run before a crash, has passed above. It repeats
them in the same batches, so every piece has the same bytes whichever process makes it.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch import Tensor

from cwsam_cli.console import log, track
from cwsam_cli.dataset.transforms import normalize
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError
from cwsam_cli.files import staged, sweep
from cwsam_cli.journal import Journal, folder_of, journal
from cwsam_cli.predict.aoi import read_area
from cwsam_cli.predict.blend import Blender, Layers, Mask, Scores, WindowScores, cut_rows
from cwsam_cli.predict.mapfile import Tally, is_made, read_tally, refuse_others, remove_stale_layers, write_map
from cwsam_cli.predict.plan import MapPlan, make_plan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scorer import Heap, Lockstep, Model
from cwsam_cli.predict.windows import Seen, batches
from cwsam_cli.raster.network import GDAL_CACHE, gdal_settings
from cwsam_cli.raster.prefetch import prefetch
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.taxonomy import IGNORE

ScoreWindows = Callable[[Tensor], Scores]
"""Normalised windows (B, C, S, S) → scores (B, K, S, S)."""


@dataclass(frozen=True, slots=True)
class MapResult:
    """What a map shows."""

    path: Path
    width: int
    height: int
    pixels: dict[str, int] = field(default_factory=dict)
    """Number of pixels by class name."""
    nodata: int = 0
    """Number of pixels without a class."""
    hectares: dict[str, float] = field(default_factory=dict)
    """Ground by class name; nothing if the map has no CRS."""
    areas: str = ""
    """`planar` where the CRS keeps areas within 0.5 %, else `geodesic`; empty if the map has no CRS."""


def predict(request: MapRequest) -> MapResult:
    """Classify a scene.

    Raises:
        UsageError: the output is there already, or would replace an input.
        DataError: the scene cannot be read, or lacks bands.
        CheckpointError: the checkpoint cannot be read.
        MachineError: memory, disk or another process stands in the way.
    """
    request.refuse_early()
    model = Model.open(request)
    plan = make_plan(request, model)
    if is_ready(plan):
        return _result(plan, read_tally(plan))
    score = model.scorer(request) if request.gpus == 1 else None
    return make_map(plan, score, World(model.device))


def is_ready(plan: MapPlan) -> bool:
    """Whether the map is there already; if a run was killed when only its journal was left, remove that.

    Raises:
        OutputExists: another map is there, and the request does not say that it may be replaced.
    """
    if not is_made(plan):
        return False
    if folder_of(plan.request.target).exists():
        with journal(plan.request.target, plan.key, {}):
            _sweep(plan.request)
    return True


def _sweep(request: MapRequest) -> None:
    for target in [request.target, *([request.preview] if request.preview else [])]:
        sweep(target)


def _result(plan: MapPlan, tally: Tally) -> MapResult:
    grid, classes = plan.grid, plan.layers.taxonomy.classes
    return MapResult(
        path=plan.request.target,
        width=grid.width,
        height=grid.height,
        pixels={entry.name: int(tally.pixels[entry.code]) for entry in classes},
        nodata=int(tally.pixels[IGNORE]),
        hectares={entry.name: float(tally.areas_m2[entry.code]) / 10_000 for entry in classes} if grid.crs else {},
        areas="" if grid.crs is None else "planar" if grid.keeps_areas else "geodesic",
    )


def make_map(plan: MapPlan, score: ScoreWindows | None, world: World) -> MapResult:
    """Make a map, or the pieces that an earlier run left unfinished.

    Args:
        plan: of the map.
        score: the network; None starts further processes, each with its own.
        world: this process, among others that make other maps.
    """
    request, output = plan.request, plan.request.target
    plan.log_warnings()
    refuse_others(plan)
    may_replace = request.overwrite or output.exists()  # a map that is there is ours, and lacks a layer
    with journal(output, plan.key, plan.to_json(), fits=partial(_can_follow, plan)) as kept:
        _sweep(request)
        plan = plan.cut_like(MapPlan.from_json(kept.plan))
        if score is None:
            for stale in kept.folder.glob("*.done"):
                stale.unlink()
            launch(_share, plan, kept.folder, cluster=request.cluster)
            kept.scan()
        else:
            make_pieces(plan, score, kept, beat=partial(stay_alive, world))
        with (
            world.pause_watchdog(),
            rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE),
            staged(output, overwrite=may_replace) as target,
        ):
            tally = write_map(target, plan, kept.read, scratch=kept.folder)
    if request.overwrite:
        remove_stale_layers(plan)
    result = _result(plan, tally)
    if result.nodata == result.width * result.height:
        sure = " of that confidence" if request.min_confidence else ""
        log.warning("`%s` holds no valid pixel%s, and neither does its map", request.scene, sure)
    return result


def _can_follow(plan: MapPlan, raw: Mapping[str, Any]) -> bool:
    """Whether an older plan of the same map, from a journal, suits this request: pieces depend on how they are cut."""
    try:
        older = MapPlan.from_json(raw)
    except (KeyError, TypeError, ValueError):  # another version wrote it
        return False
    request, before = plan.request, older.request
    if (request.max_memory, request.batch_size, request.gpus) == (before.max_memory, before.batch_size, before.gpus):
        return True
    together = older.memory * request.gpus + plan.waiting_memory
    return older.batch <= request.batch_size and together <= plan.memory_limit


def _share(world: World, plan: MapPlan, folder: Path) -> None:
    """Make one process's share of the pieces."""
    kept = Journal(folder, {})
    kept.scan(repair=False)
    world.barrier()  # each takes its share of what is missing, so all must have seen the same
    model = Model.open(plan.request, digest=plan.checkpoint_sha256, device=world.device)
    score = model.scorer(plan.request, world)
    make_pieces(plan, score, kept, rank=world.rank, world=world.size, beat=partial(stay_alive, world))
    if isinstance(score, Lockstep):
        score.finish()
    wait_for_others(world, folder)


def stay_alive(world: World) -> None:
    """Tell the watchdog that this process works; end it if Ctrl-C asked for that."""
    if world.interruption.is_requested:
        raise KeyboardInterrupt
    world.beat()


def wait_for_others(world: World, folder: Path) -> None:
    """Wait until all processes have finished, without a time limit: shares differ in their work."""
    (folder / f"{world.rank}.done").touch()
    while any(not (folder / f"{rank}.done").exists() for rank in range(world.size)):
        stay_alive(world)
        time.sleep(0.1)
    world.barrier()
    (folder / f"{world.rank}.done").unlink()


def make_pieces(
    plan: MapPlan,
    score: ScoreWindows,
    journal: Journal,
    *,
    rank: int = 0,
    world: int = 1,
    beat: Callable[[], None] | None = None,
) -> None:
    """Make this process's share of the missing pieces.

    Args:
        plan: of the map.
        score: the network.
        journal: of the map.
        rank: number of this process.
        world: number of processes.
        beat: called for every batch; an exception that it raises ends the work.
    """
    todo = [(column, row) for column, row in plan.pieces if (row, column) not in journal.pieces]
    own = todo[rank * len(todo) // world : (rank + 1) * len(todo) // world]
    bar = track(range(len(own)), "predicting", unit="piece")
    with journal.appending(rank) as append:
        for column, first, last in _stretches(own):
            with closing(_pieces(plan, score, beat, column, first, last)) as made:
                for row, layers in made:
                    append(row, column, layers.tobytes())
                    next(bar, None)
    next(bar, None)


def _stretches(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Join neighbouring pieces of a column: column, first row, last row."""
    start = 0
    for at in range(1, len(pieces) + 1):
        if at == len(pieces) or pieces[at] != (pieces[at - 1][0], pieces[at - 1][1] + 1):
            yield pieces[start][0], pieces[start][1], pieces[at - 1][1]
            start = at


def _pieces(
    plan: MapPlan, score: ScoreWindows, beat: Callable[[], None] | None, column: int, first: int, last: int
) -> Generator[tuple[int, Layers], None, None]:
    """Rows of pieces with their layers; the model and the reader each work in a thread of their own."""
    left, right = plan.col_cuts[column], plan.col_cuts[column + 1]
    row_cuts = plan.row_cuts[first : last + 2]
    area = Window(left, row_cuts[0], right - left, row_cuts[-1] - row_cuts[0])
    rows, cols = plan.lattice.touching(area)
    every, _ = plan.lattice.touching(plan.shown)
    begin = every.start + (rows.start - every.start) // plan.group * plan.group
    end = min(every.stop, every.start - (every.start - rows.stop) // plan.group * plan.group)
    blender = Blender(plan.lattice, plan.layers.finisher(), layers=plan.layers.count)
    windows = prefetch(_scored(plan, score, beat, range(begin, end), cols))
    with closing(windows):
        for number, layers in cut_rows(blender.blend(windows, area), row_cuts):
            yield first + number, layers


def _scored(
    plan: MapPlan, score: ScoreWindows, beat: Callable[[], None] | None, rows: range, cols: range
) -> Iterator[WindowScores]:
    heap = Heap()
    with closing(prefetch(_images(plan, rows, cols))) as read:
        for places, images in read:
            if beat is not None:
                beat()
            scores = score(images)
            heap.after_batch()
            for (row, col, wanted), own in zip(places, scores, strict=True):
                _refuse_nonfinite(own, wanted, plan, row, col)
                yield WindowScores(row, col, own, wanted)


def _refuse_nonfinite(scores: Scores, wanted: Mask, plan: MapPlan, row: int, col: int) -> None:
    """Stop where no class has the best score; the score of a hidden class is minus infinity."""
    best = scores[: len(plan.layers.taxonomy)].max(axis=0)
    if not np.isfinite(best[: wanted.shape[0], : wanted.shape[1]][wanted]).all():
        left, top = max(0, plan.lattice.cols[col]), max(0, plan.lattice.rows[row])
        raise CheckpointError(
            f"the model's scores are not finite in the window at column {left}, row {top} of `{plan.request.scene}`",
            hint="try --precision fp32; if that does not help, train the model again with a lower lr",
        )


def _images(plan: MapPlan, rows: range, cols: range) -> Iterator[tuple[list[tuple[int, int, Mask]], Tensor]]:
    """Batches (B, C, S, S) for the model, with each window's row, column and the pixels that the map shows."""
    request = plan.request
    with (
        rasterio.Env(**gdal_settings(request.scene, cache=plan.gdal_cache)),
        open_scene(
            request.scene,
            wanted_bands=[band.name for band in plan.bands],
            chosen_bands=request.bands,
            alpha=request.alpha,
            pixel_m=plan.pixel_m,
        ) as scene,
    ):
        inside = read_area(request.aoi, scene.north_up) if request.aoi else None
        found = batches(
            scene, plan.lattice, rows, cols, shown=plan.shown, inside=inside, batch=plan.batch, group=plan.group
        )
        for batch in found:
            yield [(item.row, item.col, item.wanted.copy()) for item in batch], _stacked(batch, plan)


def _stacked(batch: list[Seen], plan: MapPlan) -> Tensor:
    size = plan.lattice.size
    images = torch.zeros(len(batch), len(plan.bands), size, size)
    for slot, item in zip(images, batch, strict=True):
        height, width = item.valid.shape
        slot[:, :height, :width] = normalize(item.image, item.valid, plan.bands)
    return images
