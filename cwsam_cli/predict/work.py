"""Make a map as its plan says: pieces into a journal, alone or beside other processes, and files from the journal."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import rasterio

from cwsam_cli.console import log
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import UsageError
from cwsam_cli.files import staged, sweep
from cwsam_cli.journal import Journal, folder_of, journal
from cwsam_cli.predict.mapfile import (
    is_item_of,
    is_made,
    read_tally,
    refuse_others,
    remove_stale_layers,
    remove_stale_uploads,
    write_item,
    write_map,
)
from cwsam_cli.predict.pieces import ScoreWindows, make_pieces
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.planning import make_plan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Lockstep, Model
from cwsam_cli.raster.mapfile import Tally, files_of_map
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.raster.sources.catalog import item_path
from cwsam_cli.raster.sources.fingerprint import changed, fingerprint
from cwsam_cli.raster.sources.network import GDAL_CACHE, is_remote
from cwsam_cli.raster.sources.uploads import upload_all
from cwsam_cli.taxonomy import IGNORE


@dataclass(frozen=True, slots=True)
class MapResult:
    """What a map shows."""

    path: Path | str
    """A path, or the address in an object store."""
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
    return map_scene(request, model, lambda: model.scorer(request) if request.gpus == 1 else None)


def map_scene(
    request: MapRequest, model: Model, score: Callable[[], ScoreWindows | None], *, warns_of_crs: bool = True
) -> MapResult:
    """Classify a scene with an open model.

    Args:
        request: of the map.
        model: the request's checkpoint.
        score: returns the network, and is called only if the map is not there; None starts processes that share it.
        warns_of_crs: whether a missing CRS is worth a warning.
    """
    plan = make_plan(request, model)
    if is_ready(plan):
        return result_of(plan, read_tally(plan))
    if not warns_of_crs:
        plan = plan.without_crs_warning()
    return make_map(plan, score(), World(model.device))


def is_ready(plan: MapPlan) -> bool:
    """Whether the map is there already; if a run was killed when only its journal was left, remove that.

    If only its STAC item or its upload is left to do, do that.

    Raises:
        OutputExists: another map is there, and the request does not say that it may be replaced.
        MachineError: the map could not be uploaded.
    """
    if not is_made(plan):
        return False
    if folder_of(plan.request.target).exists():
        with journal(plan.request.target, plan.key, {}):
            sweep_targets(plan.request)
    if plan.request.stac and plan.request.target.exists() and not is_item_of(plan):
        refuse_others(plan)
        write_item(plan, plan.request.target)
    deliver(plan)
    return True


def deliver(plan: MapPlan) -> None:
    """Upload a map that is complete, if it goes to an object store and is not there yet.

    Raises:
        MachineError: it could not be uploaded.
    """
    request = plan.request
    if request.upload and request.target.exists():
        if request.overwrite:
            remove_stale_uploads(plan)
        upload_all(
            files_of_map(request.target), request.upload, kept=[item_path(request.target)] * bool(request.collection)
        )


def sweep_targets(request: MapRequest) -> None:
    """Remove what killed processes left half-written of a map; call it only while the map is reserved."""
    for target in [request.target, *([request.preview] if request.preview else [])]:
        sweep(target)


def result_of(plan: MapPlan, tally: Tally) -> MapResult:
    """Describe a map that is written."""
    grid, classes = plan.grid, plan.layers.taxonomy.classes
    return MapResult(
        path=plan.request.place,
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
        score: the network; None starts further processes that share it.
        world: this process, among others that make other maps.
    """

    def work(plan: MapPlan, kept: Journal) -> None:
        if score is None:
            launch(make_share, plan, kept.folder, cluster=plan.request.cluster)
        else:
            make_pieces(plan, score, kept, device=world.device, beat=partial(stay_alive, world))

    return make_map_by(work, plan, world)


def make_map_by(
    work: Callable[[MapPlan, Journal], None],
    plan: MapPlan,
    world: World,
    *,
    writing: AbstractContextManager[Any] | None = None,
) -> MapResult:
    """Make a map from the pieces that `work` makes; hold `writing` while its files are written."""
    plan.log_warnings()
    refuse_others(plan)
    with journal(plan.request.target, plan.key, plan.to_json(), fits=partial(can_follow, plan)) as kept:
        sweep_targets(plan.request)
        plan = plan.cut_like(MapPlan.from_json(kept.plan))
        work(plan, kept)
        kept.scan()
        with world.pause_watchdog(), writing or nullcontext():
            result = write_files(plan, kept)
    with world.pause_watchdog():
        deliver(plan)
    return result


def write_files(plan: MapPlan, kept: Journal) -> MapResult:
    """Write a map whose pieces are finished.

    Raises:
        DataError: the scene was changed since the plan was made.
    """
    request, output = plan.request, plan.request.target
    known = {placed.scene: placed.fingerprint for placed in plan.scenes} or {request.scene: plan.scene_fingerprint}
    for name in known:
        if is_remote(name):
            continue
        with open_raster(name) as scene:
            if fingerprint(name, scene, whole=request.verify) != known[name]:
                raise changed(name)
    may_replace = request.overwrite or output.exists()  # a map that is there is ours, and lacks a layer
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), staged(output, overwrite=may_replace) as target:
        tally = write_map(target, plan, kept.read, scratch=kept.folder)
    if request.overwrite:
        remove_stale_layers(plan)
    result = result_of(plan, tally)
    if result.nodata == result.width * result.height:
        sure = " of that confidence" if request.min_confidence else ""
        log.warning("`%s` holds no valid pixel%s, and neither does its map", "`, `".join(request.inputs[:3]), sure)
    return result


def can_follow(plan: MapPlan, raw: Mapping[str, Any]) -> bool:
    """Whether an older plan of the same map, from a journal, suits this request: pieces depend on how they are cut."""
    try:
        older = MapPlan.from_json(raw)
        is_sound = older.cuts_like(plan)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):  # another version wrote it, or it is damaged
        return False
    if not is_sound:
        return False
    request, before = plan.request, older.request
    names = ("max_memory", "gpu_memory", "batch_size", "gpus")
    if all(getattr(request, name) == getattr(before, name) for name in names):
        return True
    together = older.memory * request.gpus + plan.waiting_memory
    fits = together <= plan.memory_limit and older.device_memory <= plan.device_limit
    return fits and older.batch <= request.batch_size


def make_share(world: World, plan: MapPlan, folder: Path) -> None:
    """Make the share of the pieces of one of several processes that share the model; they end together."""
    kept = Journal(folder, {})
    kept.scan()
    world.barrier()  # each takes its share of what is missing, so all must have seen the same
    model = Model.open(plan.request, digest=plan.checkpoint_sha256, device=world.device)
    score = model.scorer(plan.request, world)
    beat = partial(stay_alive, world)
    make_pieces(plan, score, kept, device=world.device, rank=world.rank, world=world.size, beat=beat)
    if isinstance(score, Lockstep):
        score.finish()


def stay_alive(world: World) -> None:
    """Tell the watchdog that this process works; end it if Ctrl-C asked for that."""
    if world.interruption.is_requested:
        raise KeyboardInterrupt
    world.beat()
