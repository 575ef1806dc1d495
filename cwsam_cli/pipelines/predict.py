"""Scenes and a checkpoint → classified GeoTIFFs on the scenes' own grids."""

import hashlib
import json
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from cwsam_cli import __version__
from cwsam_cli.console import log
from cwsam_cli.errors import CwsamError, OutputExists, UsageError
from cwsam_cli.files import refuse_existing, refuse_input, sha256, staged, sweep
from cwsam_cli.geo.aoi import read_area
from cwsam_cli.geo.budget import BLOCK, Costs, cut
from cwsam_cli.geo.grid import Lattice
from cwsam_cli.geo.layers import LayerPlan
from cwsam_cli.geo.mapfile import FORMATS, Sheet, beside, check_creation, cuts, write_map
from cwsam_cli.geo.quicklook import draw_map
from cwsam_cli.geo.raster import ALPHA_RULES, GDAL_CACHE_MB, Scene, open_scene
from cwsam_cli.geo.scenes import fingerprint, gdal_settings, is_plain_file, map_names
from cwsam_cli.geo.stitch import PROFILES
from cwsam_cli.journal import journal
from cwsam_cli.pipelines.checks import Estimate, check_room, oddities, resident_memory
from cwsam_cli.pipelines.pieces import Job, fill
from cwsam_cli.pipelines.score import AUGMENTATIONS, PRECISIONS, Scorer, activation_bytes, choose_precision
from cwsam_cli.train.checkpoint import Checkpoint, load_checkpoint
from cwsam_cli.train.launch import choose_device

_MEMORY = 4_000_000_000  # bytes beside the weights, unless --max-memory says otherwise
_BATCH = 8
_HIGH_BLOCKS = 1 << 30  # bytes of cache for them, at most

_KNOWN: dict[str, Collection[str | None]] = {
    "window": PROFILES,
    "blend": ("logits", "probabilities"),
    "tta": AUGMENTATIONS,
    "precision": PRECISIONS,
    "format": FORMATS,
    "alpha": (None, *ALPHA_RULES),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """How maps are made; the command line's options of the same names."""

    overlap: float = 0.25
    """Share of a window that its neighbours see too, 0 to 0.9."""
    window: str = "hann"
    blend: str = "logits"
    """What is averaged, `logits` or `probabilities`."""
    tta: str = "none"
    precision: str = "auto"
    batch_size: int = _BATCH
    """Windows at a time, at most."""
    max_memory: int | None = None
    """Bytes of main memory; None is 4 GB beside the weights."""
    device: str = "auto"
    bounds: tuple[float, float, float, float] | None = None
    """West, south, east, north in the scene's CRS."""
    aoi: Path | None = None
    bands: tuple[str, ...] = ()
    """Names or numbers of the scene's bands in the model's order."""
    alpha: str | None = None
    confidence: bool = False
    probabilities: bool = False
    entropy: bool = False
    min_confidence: float = 0.0
    """Per cent."""
    format: str = "GTiff"
    creation: Mapping[str, str] = field(default_factory=dict)
    preview: Path | None = None

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                names = ", ".join(str(each) for each in known if each)
                raise UsageError(f"--{name} `{getattr(self, name)}` is not known", hint=f"one of {names}")
        check_creation(self.creation)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Layers beside the map."""
        return tuple(kind for kind in ("confidence", "probabilities", "entropy") if getattr(self, kind))


@dataclass(frozen=True, slots=True)
class MapResult:
    """What a map shows."""

    path: Path
    width: int
    height: int
    pixels: dict[str, int] = field(default_factory=dict)
    """Mapped pixels by class name."""
    nodata: int = 0


@dataclass(frozen=True, slots=True)
class Archive:
    """What became of many scenes."""

    maps: list[MapResult]
    present: list[Path]
    """Maps that an earlier run made from the same scenes, model and options."""
    failed: dict[str, str]
    """What stood in the way, by scene."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A checkpoint, ready to score."""

    path: Path
    digest: str
    trained: Checkpoint
    weights: int
    """Bytes."""
    score: Scorer

    @classmethod
    def load(cls, path: Path, options: MapOptions) -> "_Model":
        trained = load_checkpoint(path)
        device = choose_device(options.device)
        weights = check_room(trained, device)
        score = Scorer(
            trained.model().to(device),
            device,
            views=AUGMENTATIONS[options.tta],
            precision=choose_precision(options.precision, device),
            probabilities=options.blend == "probabilities",
            hidden=trained.hidden_class,
        )
        return cls(path, sha256(path), trained, weights, score)


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
    _check_output(str(scene), checkpoint, output, options, overwrite=overwrite)
    return _map(str(scene), _Model.load(checkpoint, options), output, options, overwrite=overwrite, command=command)


def predict_many(
    scenes: Sequence[str],
    checkpoint: Path,
    folder: Path,
    options: MapOptions | None = None,
    *,
    overwrite: bool = False,
    command: str = "",
) -> Archive:
    """Classify scenes into a folder; one that fails does not stop the others.

    Args:
        scenes: see `predict`.
        checkpoint: a `model_epoch_*.pth`.
        folder: where the maps go, each under its scene's name.
        options: how.
        overwrite: replace older maps.
        command: the command line, for the record.
    """
    options = options or MapOptions()
    if options.preview:
        raise UsageError("--preview draws one map", hint="predict that scene alone")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"`{folder}` is a file, and several scenes need a folder", hint="name a folder: -o maps/")
    model = _Model.load(checkpoint, options)
    archive = Archive([], [], {})
    for number, (scene, name) in enumerate(zip(scenes, map_names(scenes), strict=True), start=1):
        target = folder / name
        try:
            if not overwrite and _made_before(target, scene, model, options):
                archive.present.append(target)
                continue
            _check_output(scene, checkpoint, target, options, overwrite=overwrite)
            log.info("%d/%d `%s`", number, len(scenes), scene)
            archive.maps.append(_map(scene, model, target, options, overwrite=overwrite, command=command))
        except (CwsamError, OSError) as error:
            archive.failed[scene] = str(error)
            log.error("%s", error)
    return archive


def estimate(scenes: Sequence[str], checkpoint: Path, options: MapOptions | None = None) -> list[Estimate]:
    """What `predict` would do with scenes, what it would cost, and what is odd about them."""
    options = options or MapOptions()
    model = _Model.load(checkpoint, options)
    per_window = _seconds_a_window(model, options)
    found = []
    for scene in scenes:
        job, sheet, memory, odd = _plan(scene, model, options)
        rows, cols = job.lattice.touching(job.shown)
        halo = sum(
            len(job.lattice.touching(Window(left, job.shown.row_off, right - left, job.shown.height))[1])
            for left, right in zip(job.col_cuts, job.col_cuts[1:], strict=False)
        )
        pixels = sheet.grid.width * sheet.grid.height * job.layers.count
        found.append(
            Estimate(
                scene=scene,
                grid=str(sheet.grid),
                windows=len(rows) * len(cols),
                batch=job.batch,
                columns=len(job.col_cuts) - 1,
                precision=model.score.precision,
                seconds=per_window * len(rows) * halo,
                memory=memory,
                disk=pixels * (3 if options.format == "COG" else 2),
                warnings=tuple(odd),
            )
        )
    return found


def _check_output(scene: str, checkpoint: Path, output: Path, options: MapOptions, *, overwrite: bool) -> None:
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"`{output}` is no GeoTIFF's name", hint="give it the suffix .tif")
    targets = [output, *(beside(output, kind) for kind in options.kinds)]
    inputs = [checkpoint, *([Path(scene)] if is_plain_file(scene) else []), *([options.aoi] if options.aoi else [])]
    for target in [*targets, *([options.preview] if options.preview else [])]:
        refuse_input(target, *inputs)
        refuse_existing(target, overwrite=overwrite)


def _map(scene: str, model: _Model, output: Path, options: MapOptions, *, overwrite: bool, command: str) -> MapResult:
    job, sheet, _, odd = _plan(scene, model, options)
    for remark in odd:
        log.warning("%s", remark)
    key = _key(scene, model, options)
    plan = {"batch": job.batch, "group": job.group, "col_cuts": job.col_cuts}
    with journal(output, key, plan) as kept:
        sweep(output)
        job = replace(job, batch=kept.plan["batch"], group=kept.plan["group"], col_cuts=tuple(kept.plan["col_cuts"]))
        sheet = replace(sheet, col_cuts=job.col_cuts)
        fill(job, model.score, kept)
        kept.scan()
        tags = {
            "CWSAM_VERSION": __version__,
            "CWSAM_CHECKPOINT_SHA256": model.digest,
            "CWSAM_COMMAND": command,
            "CWSAM_KEY": _digest(key),
        }
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), staged(output, overwrite=overwrite) as target:
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
                draw_map(target, job.layers.taxonomy, options.preview)
    grid = sheet.grid
    nodata = int(counts[255])
    if nodata == grid.width * grid.height:
        log.warning("`%s` holds no valid pixel, and neither does its map", scene)
    pixels = {entry.name: int(counts[entry.code]) for entry in job.layers.taxonomy.classes}
    return MapResult(output, grid.width, grid.height, pixels, nodata)


def _plan(scene: str, model: _Model, options: MapOptions) -> tuple[Job, Sheet, int, list[str]]:
    """The work, its layout, its memory in bytes, and what is odd about the scene."""
    trained = model.trained
    layers = LayerPlan(trained.taxonomy, options.kinds, options.min_confidence, model.score.probabilities)
    with (
        warnings.catch_warnings(),
        rasterio.Env(**gdal_settings(scene)),
        open_scene(
            scene,
            wanted_bands=[band.name for band in trained.bands],
            chosen_bands=options.bands,
            alpha=options.alpha,
        ) as opened,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        odd = oddities(opened, trained)
        north = opened.north_up
        if options.aoi:
            read_area(options.aoi, north)
        shown = north.within(options.bounds) if options.bounds else Window(0, 0, north.width, north.height)
        part = opened.mirrored(shown) if opened.is_south_up else shown
        size = trained.architecture.inp_size
        lattice = Lattice.over(north.width, north.height, size, int(size * options.overlap))
        cache_mb, costs = _costs(opened, model, layers)
        limit = options.max_memory or _MEMORY + model.weights
        chosen = cut(lattice, int(shown.width), costs, batch=options.batch_size, limit=limit)
        sheet = Sheet(
            grid=opened.grid.part(part),
            row_cuts=cuts(int(shown.row_off), int(shown.height), BLOCK, from_end=opened.is_south_up),
            col_cuts=cuts(int(shown.col_off), int(shown.width), chosen.columns),
            south_up=opened.is_south_up,
        )
    job = Job(
        scene=scene,
        bands=trained.bands,
        chosen_bands=options.bands,
        alpha=options.alpha,
        aoi=options.aoi,
        lattice=lattice,
        shown=shown,
        row_cuts=sheet.row_cuts,
        col_cuts=sheet.col_cuts,
        batch=chosen.batch,
        group=chosen.group,
        profile=options.window,
        layers=layers,
        cache_mb=cache_mb,
    )
    return job, sheet, chosen.bytes, odd


def _costs(scene: Scene, model: _Model, layers: LayerPlan) -> tuple[int, Costs]:
    """GDAL's cache in MB, and what takes memory."""
    on_cpu = model.score.device.type == "cpu"
    height = int(scene.dataset.block_shapes[0][0])
    image_bytes = np.dtype(scene.dtype).itemsize
    row_of_blocks = height * scene.grid.width * len(scene.bands) * image_bytes
    # Blocks too high to hold as rows of pixels are held as blocks, or each would be decoded for every row of windows.
    high = height > max(512, model.trained.architecture.inp_size)
    cache_mb = GDAL_CACHE_MB + (min(row_of_blocks * 5 // 4, _HIGH_BLOCKS) >> 20 if high else 0)
    return cache_mb, Costs(
        fixed=resident_memory() + (model.weights if on_cpu else 0) + (cache_mb << 20),
        model=activation_bytes(model.trained.architecture, views=len(model.score.views)) if on_cpu else 0,
        bands=len(scene.bands),
        image_bytes=image_bytes,
        classes=len(layers.taxonomy),
        layers=layers.count,
        block_height=height,
    )


def _seconds_a_window(model: _Model, options: MapOptions) -> float:
    arch = model.trained.architecture
    images = torch.zeros(options.batch_size, arch.num_bands, arch.inp_size, arch.inp_size)
    model.score(images[:1])
    start = time.perf_counter()
    model.score(images)
    return (time.perf_counter() - start) / len(images)


def _key(scene: str, model: _Model, options: MapOptions) -> dict[str, Any]:
    """What a map's pixels depend on, and its file."""
    return (
        {
            "scene": fingerprint(scene),
            "checkpoint": model.digest,
            "version of cwsam": __version__,
            "precision": model.score.precision,
            "device": model.score.device.type,
            "area of interest": fingerprint(str(options.aoi)) if options.aoi else None,
        }
        | {
            name.replace("_", "-"): getattr(options, name)
            for name in (
                *("overlap", "window", "blend", "tta", "batch_size", "max_memory", "bounds", "bands", "alpha"),
                *("confidence", "probabilities", "entropy", "min_confidence", "format"),
            )
        }
        | {"creation": dict(options.creation)}
    )


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _made_before(target: Path, scene: str, model: _Model, options: MapOptions) -> bool:
    """Whether a map is there already, made from the same scene and model with the same options.

    Raises:
        OutputExists: another one is.
    """
    if not target.exists():
        return False
    try:
        with rasterio.open(target) as dataset:
            tag = dataset.tags().get("CWSAM_KEY")
    except rasterio.errors.RasterioError:
        tag = None
    if tag != _digest(_key(scene, model, options)):
        raise OutputExists(target)
    return all(beside(target, kind).exists() for kind in options.kinds)
