"""Many scenes → a folder of maps, and estimates for a dry run; a scene that fails does not stop the others."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path

import torch
from rasterio.windows import Window

from cwsam_cli.console import log, size_text
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.scheduler import LostScheduler
from cwsam_cli.distributed.world import World, choose_device
from cwsam_cli.errors import CwsamError, OutputExists, UsageError, log_failure
from cwsam_cli.files import refuse_existing, reserved, sha256
from cwsam_cli.locking import locked
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.planning import make_plan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Lockstep, Model
from cwsam_cli.predict.work import MapResult, is_ready, make_map, stay_alive
from cwsam_cli.predict.workers.fleet import make_on, plan_on, workers_of
from cwsam_cli.predict.workers.parts import take_place
from cwsam_cli.raster.mapfile import beside
from cwsam_cli.raster.sources.catalog import COLLECTION, identifier, item_path, make_collection, read_own, write_json
from cwsam_cli.raster.sources.network import stored_name
from cwsam_cli.raster.sources.scenes import scene_names
from cwsam_cli.raster.sources.uploads import upload_all
from cwsam_cli.raster.sources.vsi import read_headers


@dataclass(frozen=True, slots=True)
class Maps:
    """What became of many scenes."""

    maps: list[MapResult]
    present: list[Path | str]
    """Maps that an earlier run made from the same scenes, model and options."""
    failed: dict[str, str]
    """Reasons, by scene."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scene's map will cost, and what may make it worse than it could be."""

    scene: str
    grid: str
    windows: int
    batch: int
    """Largest number of windows per batch."""
    columns: int
    """Parts that the scene's width is cut into."""
    precision: str
    seconds: float | None
    """Time in the model, from one timed batch. None if no process holds the model alone."""
    memory: int
    """Bytes of main memory at the peak."""
    device_memory: int
    """Bytes of one accelerator at the peak; 0 on the CPU."""
    disk: int
    """Bytes while working, at most: the finished pieces and the files made from them."""
    warnings: tuple[str, ...]

    def as_text(self) -> str:
        """A few lines for people."""
        if self.seconds is None:
            time = "not timed, because several processes share the model"
        else:
            time = f"about {self.seconds:.0f} s" if self.seconds < 120 else f"about {self.seconds / 60:.0f} min"
            time += " in the model"
        gpu = f", {size_text(self.device_memory)} on each GPU" if self.device_memory else ""
        return "\n".join(
            [
                f"{self.scene}: {self.grid}",
                f"  {self.windows} windows, {self.batch} at a time, {self.columns} column(s), {self.precision}",
                f"  {time}, {size_text(self.memory)} of memory{gpu}, at most {size_text(self.disk)} of disk",
            ]
        )


def predict_many(request: MapRequest, scenes: Sequence[str]) -> Maps | None:
    """Classify scenes into a folder, or those of them whose maps are missing there.

    Returns:
        The maps. None in all processes but the first of those that torchrun or srun started to share a model.

    Args:
        request: how; its output is the folder, and each map has its scene's name. Each of several processes takes
            whole scenes.
        scenes: see `MapRequest.scene`.
    """
    request = take_place(request)
    folder = request.target
    if request.preview:
        raise UsageError("--preview draws one map", hint="predict that scene alone")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"`{folder}` is a file, and several scenes need a folder", hint="name a folder: -o maps/")
    requests = [
        request.of_scene(scene, folder / f"{name}.tif") for scene, name in zip(scenes, scene_names(scenes), strict=True)
    ]
    if request.stac:
        request, requests = _in_collection(request, requests)
    _refuse_shared_names(requests)
    made = _predict_all(request, requests)
    if request.stac and made is not None:
        _write_collection(request)
    return made


def _in_collection(request: MapRequest, requests: list[MapRequest]) -> tuple[MapRequest, list[MapRequest]]:
    """Let the maps of a folder belong to a collection.

    Raises:
        OutputExists: another collection is there, and the request does not say that it may be replaced.
        UsageError: a map's item would have the collection's name.
    """
    path = request.target / COLLECTION
    if path.exists() and not read_own(path):
        refuse_existing(path, overwrite=request.overwrite)
    stored = f"{request.upload}/{COLLECTION}"
    if request.upload and not path.exists() and not request.overwrite and read_headers(stored_name(stored)):
        raise OutputExists(stored)  # it may list maps whose items are not here
    taken = next((each.scene for each in requests if item_path(each.target) == path), None)
    if taken is not None:
        raise UsageError(f"the STAC item of `{taken}` and the collection would both be `{path}`", hint="rename it")
    name = identifier(str(request.place).rstrip("/").rpartition("/")[2]) or "maps"
    return replace(request, collection=name), [replace(each, collection=name) for each in requests]


def _write_collection(request: MapRequest) -> None:
    """Write the collection of a folder's items, also those of earlier runs and other parts."""
    folder = request.target
    if not folder.is_dir():  # no map was made
        return
    with reserved(folder / COLLECTION, wait_s=inf):  # another part may be writing it, too
        found = {path.name: read_own(path) for path in sorted(folder.glob("*.json")) if path.name != COLLECTION}
        items = {name: item for name, item in found.items() if item}
        if not items:
            return
        write_json(folder / COLLECTION, make_collection(request.collection, items))
        if request.upload:
            upload_all([folder / COLLECTION], f"{request.upload}/{COLLECTION}", kept=[folder / COLLECTION])


def _predict_all(request: MapRequest, requests: Sequence[MapRequest]) -> Maps | None:
    if request.is_part:
        return _make_part(request, requests)
    if request.scheduler:
        return _make_on_cluster(request, requests)
    if request.gpus == 1:
        return _make(request, requests, World(choose_device(request.device)))
    parts = launch(_share, request, requests, sha256(request.checkpoint), cluster=request.cluster)
    if parts is None:
        return None
    return Maps(
        [result for part in parts for result in part.maps],
        [path for part in parts for path in part.present],
        {scene: reason for part in parts for scene, reason in part.failed.items()},
    )


def _make_part(request: MapRequest, requests: Sequence[MapRequest]) -> Maps:
    """Make the maps of a part: each N-th scene."""
    assert request.part is not None
    number, parts = request.part
    request.target.mkdir(parents=True, exist_ok=True)
    lock = request.target / f".part-{number}.lock"
    with locked(lock, f"part {number} of `{request.target}` is being made by another process"):
        try:
            own = [replace(each, part=None) for each in requests[number - 1 :: parts]]
            return _make(request, own, World(choose_device(request.device)))
        finally:
            with suppress(OSError):  # Windows cannot remove an open file
                lock.unlink()


def _refuse_shared_names(requests: Sequence[MapRequest]) -> None:
    whose: dict[Path, str] = {}
    for request in requests:
        for path in (request.target, *(beside(request.target, kind) for kind in request.kinds)):
            other = whose.setdefault(path, request.scene)
            if other != request.scene:
                raise UsageError(
                    f"`{other}` and `{request.scene}` would both give `{path}`", hint="map one of them alone"
                )


def _make(common: MapRequest, requests: Sequence[MapRequest], world: World, *, digest: str = "") -> Maps:
    """Make maps with one model; without a map to make, help the other processes that share the model."""
    model = Model.open(common, digest=digest, device=world.device)
    score = model.scorer(common, world)
    made = Maps([], [], {})
    for number, request in enumerate(requests, start=1):
        stay_alive(world)
        try:
            request.check_names()
            with world.pause_watchdog():  # a slow server, or hashing a large scene, may take long
                plan = make_plan(request, model)
                if is_ready(plan):
                    made.present.append(request.place)
                    continue
            log.info("%d/%d `%s` → `%s`", number, len(requests), request.scene, request.place)
            made.maps.append(make_map(plan, score, world))
        except Exception as error:
            made.failed[request.scene] = str(log_failure(error))
    if isinstance(score, Lockstep):
        score.finish()
    return made


def _share(world: World, common: MapRequest, requests: Sequence[MapRequest], digest: str) -> list[Maps]:
    """Make the share of the maps of one of several processes that share the model, and return the shares of all."""
    return world.gather(_make(common, requests[world.rank :: world.size], world, digest=digest))


def _make_on_cluster(common: MapRequest, requests: Sequence[MapRequest]) -> Maps:
    """Make maps on a cluster, several at the same time."""
    found: dict[str, MapResult | CwsamError | None] = {}

    with workers_of(common) as workers:

        def make(number: int, request: MapRequest) -> None:
            try:
                request.check_names()
                plan = plan_on(workers, request)
                if is_ready(plan):
                    found[request.scene] = None
                    return
                log.info("%d/%d `%s` → `%s`", number, len(requests), request.scene, request.place)
                found[request.scene] = make_on(workers, plan, scenes=len(requests))
            except LostScheduler:
                raise
            except Exception as error:
                found[request.scene] = log_failure(error)

        workers.in_threads(make, requests)
    results = [(request, found[request.scene]) for request in requests]
    return Maps(
        [result for _, result in results if isinstance(result, MapResult)],
        [request.place for request, result in results if result is None],
        {request.scene: str(result) for request, result in results if isinstance(result, CwsamError)},
    )


def estimate_many(request: MapRequest, scenes: Sequence[str]) -> tuple[list[Estimate], dict[str, str]]:
    """Return what maps of scenes will cost, and by scene why others cannot be made."""
    model = Model.open(request)
    plans, failed = [], {}
    for scene in scenes:
        try:
            plans.append(make_plan(request.of_scene(scene, None), model))
        except CwsamError as error:
            if len(scenes) == 1:
                raise
            failed[scene] = str(log_failure(error))
    for plan in plans:
        plan.log_warnings()
    seconds = None
    if plans and not plans[0].is_shared:  # else this process alone cannot hold the model
        seconds = _seconds_per_window(model, request, max(plan.batch for plan in plans))
    return [_estimate(plan, seconds) for plan in plans], failed


def _estimate(plan: MapPlan, seconds: float | None) -> Estimate:
    """What a map will cost, if a window takes so many seconds."""
    request, shown = plan.request, plan.shown
    columns = [Window(left, shown.row_off, right - left, shown.height) for left, right in pairwise(plan.col_cuts)]
    lattices = [
        (placed.lattice, placed.shown, [placed.within(column) for column in columns]) for placed in plan.scenes
    ] or [(plan.lattice, shown, columns)]
    windows = passes = 0
    for lattice, whole, parts in lattices:
        rows, cols = lattice.touching(whole)
        windows += len(rows) * len(cols)
        passes += len(rows) * sum(len(lattice.touching(part)[1]) for part in parts if part is not None)
    return Estimate(
        scene=", ".join(request.inputs),
        grid=str(plan.grid),
        windows=windows,
        batch=plan.batch,
        columns=len(columns),
        precision=plan.precision,
        seconds=None if seconds is None else seconds * passes / request.gpus,
        memory=plan.total_memory,
        device_memory=plan.device_memory,
        disk=plan.grid.width * plan.grid.height * plan.layers.count * (3 if request.format == "COG" else 2),
        warnings=plan.warnings,
    )


def _seconds_per_window(model: Model, request: MapRequest, batch: int) -> float:
    """Time one batch."""
    arch = model.trained.architecture
    images = torch.zeros(batch, arch.num_bands, arch.inp_size, arch.inp_size, device=model.device)
    score = model.scorer(request)
    score(images[:1])  # the first pass of all is slower
    device = torch.get_device_module(model.device)
    device.synchronize()
    start = time.perf_counter()
    score(images)
    device.synchronize()
    return (time.perf_counter() - start) / len(images)
