"""Many scenes → a folder of maps; one that fails does not stop the others."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from rasterio.windows import Window

from cwsam_cli.console import log
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World, choose_device
from cwsam_cli.errors import CwsamError, UsageError, as_user_error
from cwsam_cli.predict.checks import Estimate
from cwsam_cli.predict.mapfile import beside
from cwsam_cli.predict.pipeline import (
    MapResult,
    made_before,
    make_map,
    stay_alive,
    wait_for_others,
)
from cwsam_cli.predict.plan import Layout, Model, lay_out
from cwsam_cli.predict.request import MapOptions, check_names
from cwsam_cli.predict.sharded import Lockstep, own_scorer
from cwsam_cli.raster.sources import map_names


@dataclass(frozen=True, slots=True)
class Archive:
    """What became of many scenes."""

    maps: list[MapResult]
    present: list[Path]
    """Maps that an earlier run made from the same scenes, model and options."""
    failed: dict[str, str]
    """What stood in the way, by scene."""


def predict_many(
    scenes: Sequence[str],
    checkpoint: Path,
    folder: Path,
    options: MapOptions | None = None,
    *,
    overwrite: bool = False,
    command: str = "",
) -> Archive:
    """Classify scenes into a folder, or those of them that are missing there.

    Args:
        scenes: see `predict`.
        checkpoint: a `model_epoch_*.pth`.
        folder: where the maps go, each under its scene's name.
        options: how; several processes take whole scenes.
        overwrite: replace older maps.
        command: the command line, for the record.
    """
    options = options or MapOptions()
    if options.preview:
        raise UsageError("--preview draws one map", hint="predict that scene alone")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"`{folder}` is a file, and several scenes need a folder", hint="name a folder: -o maps/")
    work = list(zip(scenes, [folder / name for name in map_names(scenes)], strict=True))
    _refuse_shared_names(work, options)
    if options.gpus == 1:
        alone = World(choose_device(options.device))
        return _make(work, checkpoint, options, alone, overwrite=overwrite, command=command)
    digest = Model.load(checkpoint, options).digest
    with tempfile.TemporaryDirectory(prefix="cwsam-") as scratch:
        launch(_share, work, checkpoint, digest, options, overwrite, command, Path(scratch), cluster=options.cluster)
        parts = [json.loads(path.read_text("utf-8")) for path in sorted(Path(scratch).glob("*.json"))]
    return Archive(
        [MapResult(**raw | {"path": Path(raw["path"])}) for part in parts for raw in part["maps"]],
        [Path(path) for part in parts for path in part["present"]],
        {scene: reason for part in parts for scene, reason in part["failed"].items()},
    )


def _refuse_shared_names(work: Sequence[tuple[str, Path]], options: MapOptions) -> None:
    whose: dict[Path, str] = {}
    for scene, target in work:
        for path in (target, *(beside(target, kind) for kind in options.kinds)):
            other = whose.setdefault(path, scene)
            if other != scene:
                raise UsageError(f"`{other}` and `{scene}` would both give `{path}`", hint="map one of them alone")


def estimate_many(
    scenes: Sequence[str], checkpoint: Path, options: MapOptions
) -> tuple[list[Estimate], dict[str, str]]:
    """What `predict` would do with scenes, and what stands in the way of the others."""
    model = Model.load(checkpoint, options)
    layouts, failed = [], {}
    for scene in scenes:
        try:
            layouts.append(lay_out(scene, model, options))
        except CwsamError as error:
            if len(scenes) == 1:
                raise
            failed[scene] = str(error)
            log.error("%s; hint: %s", error, error.hint)
    seconds = None
    if layouts and not model.shared:  # else this process alone cannot hold it
        seconds = _seconds_a_window(model, options, max(layout.job.batch for layout in layouts))
    return [_estimate(layout, model, options, seconds=seconds) for layout in layouts], failed


def _estimate(layout: Layout, model: Model, options: MapOptions, *, seconds: float | None) -> Estimate:
    """What a scene's map will cost, if a window takes so many seconds; None is unknown."""
    job, grid = layout.job, layout.sheet.grid
    rows, cols = job.lattice.touching(job.shown)
    columns = list(pairwise(job.col_cuts))
    strips = [Window(left, job.shown.row_off, right - left, job.shown.height) for left, right in columns]
    across = sum(len(job.lattice.touching(strip)[1]) for strip in strips)
    return Estimate(
        scene=job.scene,
        grid=str(grid),
        windows=len(rows) * len(cols),
        batch=job.batch,
        columns=len(columns),
        precision=model.precision,
        seconds=None if seconds is None else seconds * len(rows) * across / options.gpus,
        memory=layout.crew.together(layout.memory),
        disk=grid.width * grid.height * job.layers.count * (3 if options.format == "COG" else 2),
        warnings=tuple(layout.oddities),
    )


def _seconds_a_window(model: Model, options: MapOptions, batch: int) -> float:
    """Time one batch."""
    arch = model.trained.architecture
    images = torch.zeros(batch, arch.num_bands, arch.inp_size, arch.inp_size)
    score = model.scorer(options)
    score(images[:1])  # the first pass of all is slower
    start = time.perf_counter()
    score(images)
    return (time.perf_counter() - start) / len(images)


def _make(
    work: Sequence[tuple[str, Path]],
    checkpoint: Path,
    options: MapOptions,
    world: World,
    *,
    overwrite: bool,
    command: str,
    digest: str = "",
) -> Archive:
    model = Model.load(checkpoint, options, digest=digest)
    score = own_scorer(model, world, options)
    archive = Archive([], [], {})
    for number, (scene, target) in enumerate(work, start=1):
        stay_alive(world)
        try:
            check_names(scene, checkpoint, target, options)
            with world.pause_watchdog():  # a large scene takes long to hash
                if not overwrite and made_before(target, scene, model, options):
                    archive.present.append(target)
                    continue
            log.info("%d/%d `%s` → `%s`", number, len(work), scene, target)
            made = make_map(scene, model, score, target, options, world, overwrite=overwrite, command=command)
            archive.maps.append(made)
        except Exception as error:
            told = as_user_error(error)
            if told is None:
                raise
            archive.failed[scene] = str(told)
            log.error("%s; hint: %s", told, told.hint)
    if isinstance(score, Lockstep):
        score.finish()
    return archive


def _share(
    world: World,
    work: Sequence[tuple[str, Path]],
    checkpoint: Path,
    digest: str,
    options: MapOptions,
    overwrite: bool,
    command: str,
    scratch: Path,
) -> None:
    """What each of several processes does for many maps."""
    own = work[world.rank :: world.size]
    here = replace(options, device=str(world.device))
    archive = _make(own, checkpoint, here, world, overwrite=overwrite, command=command, digest=digest)
    (scratch / f"{world.rank}.json").write_text(json.dumps(asdict(archive), default=str), "utf-8")
    wait_for_others(world, scratch)
