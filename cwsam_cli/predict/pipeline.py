"""A scene and a checkpoint → a classified GeoTIFF on the scene's own grid."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from cwsam_cli import __version__
from cwsam_cli.console import log
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import OutputExists
from cwsam_cli.files import staged, sweep
from cwsam_cli.journal import Journal, folder_of, journal
from cwsam_cli.predict.layers import KINDS
from cwsam_cli.predict.mapfile import beside, write_map
from cwsam_cli.predict.pieces import Job, Score, fill
from cwsam_cli.predict.plan import Model, lay_out
from cwsam_cli.predict.provenance import KEY, MapKey, read_tags
from cwsam_cli.predict.request import MapOptions, refuse_early
from cwsam_cli.predict.sharded import Lockstep, own_scorer
from cwsam_cli.raster.quicklook import draw_map
from cwsam_cli.raster.scene import GDAL_CACHE, open_raster, reading
from cwsam_cli.taxonomy import IGNORE, Taxonomy


@dataclass(frozen=True, slots=True)
class MapResult:
    """What a map shows."""

    path: Path
    width: int
    height: int
    pixels: dict[str, int] = field(default_factory=dict)
    """Mapped pixels by class name."""
    nodata: int = 0


def predict(
    scene: str | Path,
    checkpoint: Path,
    output: Path,
    options: MapOptions | None = None,
    *,
    overwrite: bool = False,
    command: str = "",
) -> MapResult:
    """Classify a scene.

    Args:
        scene: any raster with the bands that the model was trained on; a path, a URL, or one of
            GDAL's virtual paths.
        checkpoint: a `model_epoch_*.pth`.
        output: a GeoTIFF of class codes; what explains it goes beside it.
        options: how.
        overwrite: replace an older map.
        command: the command line, for the record.

    Raises:
        DataError: the scene cannot be read, or lacks bands.
        CheckpointError: the checkpoint cannot be read.
        MachineError: memory, disk or another process stands in the way.
    """
    options = options or MapOptions()
    refuse_early(str(scene), checkpoint, output, options, overwrite=overwrite)
    model = Model.load(checkpoint, options)
    if not overwrite and made_before(output, str(scene), model, options):
        return read_result(output, model.trained.taxonomy)
    score = model.scorer(options) if options.gpus == 1 else None
    alone = World(model.device)
    return make_map(str(scene), model, score, output, options, alone, overwrite=overwrite, command=command)


def made_before(output: Path, scene: str, model: Model, options: MapOptions) -> bool:
    """Whether a map is there already, made from the same scene and model with the same options.

    Raises:
        OutputExists: another one is.
    """
    if not output.exists():
        return False
    own = read_tags(output).get(KEY)
    if own is None or own != (key := MapKey.of(scene, model, options, output)).digest:
        raise OutputExists(output)
    if folder_of(output).exists():  # killed when all was done but this
        with journal(output, key.content, {}):
            _sweep(output, options)
    return all(beside(output, kind).exists() for kind in options.kinds)


def _sweep(output: Path, options: MapOptions) -> None:
    for target in [output, *([options.preview] if options.preview else [])]:
        sweep(target)


def read_result(output: Path, taxonomy: Taxonomy) -> MapResult:
    """What a map that is there shows."""
    counts = np.zeros(256, np.int64)
    with open_raster(output) as dataset, reading(output):
        for _, window in dataset.block_windows(1):
            counts += np.bincount(dataset.read(1, window=window).ravel(), minlength=256)
        return _result(output, dataset.width, dataset.height, counts, taxonomy)


def _result(output: Path, width: int, height: int, counts: NDArray[np.int64], taxonomy: Taxonomy) -> MapResult:
    pixels = {entry.name: int(counts[entry.code]) for entry in taxonomy.classes}
    return MapResult(output, width, height, pixels, int(counts[IGNORE]))


def make_map(
    scene: str,
    model: Model,
    score: Score | None,
    output: Path,
    options: MapOptions,
    world: World,
    *,
    overwrite: bool,
    command: str,
) -> MapResult:
    """Make one map, or what an earlier run left missing of it.

    Args:
        scene: see `predict`.
        model: the checkpoint.
        score: its network; None where other processes score.
        output: the map.
        options: how.
        world: this process, among others that make other maps.
        overwrite: replace an older map.
        command: the command line, for the record.
    """
    layout = lay_out(scene, model, options)
    for remark in layout.oddities:
        log.warning("%s", remark)
    with world.pause_watchdog():  # large scenes take long to hash
        key = MapKey.of(scene, model, options, output)
    key.refuse_others(output, model, options, overwrite=overwrite)
    again = overwrite or output.exists()  # and is our own; one of its layers is missing
    allowed = {"max-memory": options.max_memory, "batch-size": options.batch_size, "gpus": options.gpus}
    job = layout.job
    plan = {"batch": job.batch, "group": job.group, "col_cuts": job.col_cuts}

    def fits(older: Mapping[str, Any]) -> bool:
        fitting = older["batch"] <= options.batch_size and layout.crew.together(older["memory"]) <= layout.limit
        return fitting or bool(older["allowed"] == allowed)

    with journal(output, key.content, plan | {"memory": layout.memory, "allowed": allowed}, fits=fits) as kept:
        _sweep(output, options)
        batch, group, col_cuts = (kept.plan[name] for name in plan)
        job = replace(job, batch=batch, group=group, col_cuts=tuple(col_cuts))
        sheet = replace(layout.sheet, col_cuts=job.col_cuts)
        if score is None:
            for stale in kept.folder.glob("*.done"):
                stale.unlink()
            launch(_share, job, model.path, model.digest, options, kept.folder, cluster=options.cluster)
            kept.scan()
        else:
            fill(job, score, kept, beat=partial(stay_alive, world))
        tags = {
            "CWSAM_VERSION": __version__,
            "CWSAM_CHECKPOINT_SHA256": model.digest,
            "CWSAM_COMMAND": command,
            **key.tags,
        }
        with (
            world.pause_watchdog(),
            rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE),
            staged(output, overwrite=again) as target,
        ):
            counts = write_map(
                target,
                sheet,
                kept.read,
                job.layers,
                driver=options.format,
                creation=options.creation,
                tags=tags,
                scratch=kept.folder,
            )
            if options.preview:
                draw_map(target, job.layers.taxonomy, options.preview, {KEY: key.digest})
    for kind in set(KINDS) - set(job.layers.kinds) if overwrite else ():
        if KEY in read_tags(beside(output, kind)):  # of an older map, and would speak of this one
            beside(output, kind).unlink()
    result = _result(output, sheet.grid.width, sheet.grid.height, counts, job.layers.taxonomy)
    if result.nodata == result.width * result.height:
        sure = " of that confidence" if options.min_confidence else ""
        log.warning("`%s` holds no valid pixel%s, and neither does its map", scene, sure)
    return result


def _share(world: World, job: Job, checkpoint: Path, digest: str, options: MapOptions, folder: Path) -> None:
    """What each of several processes does for one map."""
    kept = Journal(folder, {})
    kept.scan(repair=False)
    world.barrier()  # shares are of what is missing; all must have seen the same
    model = Model.load(checkpoint, replace(options, device=str(world.device)), digest=digest)
    score = own_scorer(model, world, options)
    fill(job, score, kept, rank=world.rank, world=world.size, beat=partial(stay_alive, world))
    if isinstance(score, Lockstep):
        score.finish()
    wait_for_others(world, folder)


def stay_alive(world: World) -> None:
    """Say that this process gets on; end it if Ctrl-C asked for that."""
    if world.interruption.is_requested:
        raise KeyboardInterrupt
    world.beat()


def wait_for_others(world: World, folder: Path) -> None:
    """Wait however long it takes; shares are not equally heavy, and waiting is no standing still."""
    (folder / f"{world.rank}.done").touch()
    while any(not (folder / f"{rank}.done").exists() for rank in range(world.size)):
        stay_alive(world)
        time.sleep(0.1)
    world.barrier()
    (folder / f"{world.rank}.done").unlink()
