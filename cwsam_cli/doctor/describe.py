"""Describe a scene, a dataset, a model, a configuration or a map from what the file itself records."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cwsam_cli.dataset.manifest import SPLITS, Band, read_manifest
from cwsam_cli.errors import ConfigError, DataError
from cwsam_cli.raster.sources.network import is_plain_file
from cwsam_cli.taxonomy import Taxonomy

if TYPE_CHECKING:
    from rasterio.io import DatasetReader  # only maps need it

Kind = Literal["scene", "dataset", "model", "configuration", "map"]

_TAG = "CWSAM_"
_SMALL_MODEL = 4_000_000_000  # bytes whose values are all checked; a larger model would take minutes
_WIDE_BLOCK = 1 << 24  # pixels: a window of a scene needs whole blocks
_SHOWN_BANDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a file or folder says of itself."""

    path: str
    kind: Kind
    facts: dict[str, str]
    """Name and value of each line."""
    bands: tuple[Band, ...] = ()
    classes: list[dict[str, Any]] = field(default_factory=list)
    """Code, name and colour of each; for a dataset also its labelled pixels by split."""
    configuration: str = ""
    """The YAML that a model was trained with."""
    oddities: tuple[str, ...] = ()
    """Sentences on what may be wrong with it."""


def describe(path: str) -> Description:
    """Describe a scene, a dataset, a model, a configuration or a map.

    Args:
        path: a raster, a folder that `cwsam tile` wrote, a `.pth`, an `.onnx` of `cwsam export`, or a YAML file or
            shipped name of a configuration.

    Raises:
        DataError: it is none of these.
        CheckpointError: the checkpoint cannot be read.
        ConfigError: the configuration is not valid.
    """
    place = Path(path)
    if is_plain_file(path):
        if place.is_dir():
            return _dataset(place)
        if place.suffix.lower() in (".yaml", ".yml"):
            return _configuration(path)
        if not place.is_file():
            try:
                return _configuration(path)  # a shipped one has no file here
            except ConfigError:
                raise DataError(f"there is no file `{path}`", hint="check the path") from None
        if place.suffix.lower() in (".pth", ".onnx"):
            return _model(place)
    return _raster(path)


def _dataset(folder: Path) -> Description:
    manifest = read_manifest(folder)
    facts = {
        "tiles": _tiles(manifest.tiles),
        "images": f"{len(manifest.bands)} bands, {manifest.dtype}",
        "pixel size": _pixel_size(manifest.gsd_m),
        "command": manifest.command,
    }
    classes = _classes(manifest.taxonomy)
    for number, row in enumerate(classes):
        row["pixels"] = {split: counts[number] for split, counts in manifest.pixels.items()}
    found = {split: len([*(folder / "images" / split).glob("*.*")]) for split in SPLITS}
    odd = [
        f"`{folder / 'images' / split}` has {found[split]:,} files, but dataset.yaml names {count:,} tiles"
        for split, count in manifest.tiles.items()
        if found.get(split) != count
    ]
    odd += [f"`{folder}` has no {split} tiles" for split in SPLITS if not manifest.tiles.get(split)]
    unseen = [row["name"] for row in classes if not row["pixels"].get("train", 1)]
    if unseen:
        odd.append(f"no training pixel of `{folder}` shows {', '.join(unseen)}, so a model cannot learn it")
    return Description(
        path=str(folder),
        kind="dataset",
        facts=_known(facts),
        bands=manifest.bands,
        classes=classes,
        oddities=tuple(odd),
    )


def _model(path: Path) -> Description:
    from cwsam_cli.checkpoints.exported import open_model

    checkpoint, digest = open_model(path)
    arch, origin = checkpoint.architecture, checkpoint.provenance
    groups = arch.moe_num_expert_groups
    facts = {
        "parameters": f"{sum(tensor.numel() for tensor in checkpoint.weights.values()):,}",
        "experts": f"{groups} groups × {arch.moe_experts_per_group}" if groups else "none",
        "input": f"{arch.inp_size} × {arch.inp_size} pixels, {arch.num_bands} bands, {checkpoint.dtype}",
        "pixel size": _pixel_size(checkpoint.gsd_m),
        "epoch": str(checkpoint.epoch),
        "validation": ", ".join(f"{name} {value:.3f}" for name, value in checkpoint.metrics.items()),
    }
    facts |= {"started from": checkpoint.started_from}
    if origin is not None:
        versions = ", ".join(" ".join(pair) for pair in origin.versions.items())
        facts |= {
            "trained": f"{origin.date}, with {versions}",
            "data": f"{origin.data}: {_tiles(origin.tiles)}; SHA-256 of its list of files {origin.data_sha256}",
        }
    if checkpoint.calibration is not None:
        facts |= {"calibration": checkpoint.calibration.as_text()}
    facts |= {"exported from": f"weights {digest}" if digest else ""}
    odd = [] if checkpoint.metrics else [f"`{path}` was not validated"]
    if checkpoint.weights and not digest and path.stat().st_size < _SMALL_MODEL:
        for name in checkpoint.weights:
            checkpoint.finite_weight(name)
    return Description(
        path=str(path),
        kind="model",
        oddities=tuple(odd),
        facts=_known(facts),
        bands=checkpoint.bands,
        classes=_classes(checkpoint.taxonomy),
        configuration=origin.config if origin is not None else "",
    )


def _configuration(name: str) -> Description:
    from cwsam_cli.config.load import load_config

    config = load_config(name)
    args, settings, data = config.model.args, config.training_settings, config.train_dataset
    facts = {
        "model": config.model.name,
        "input": f"{args.inp_size} × {args.inp_size} pixels",
        "starts from": config.sam_checkpoint or "random weights",
        "epochs": str(config.epochs),
        "batch": f"{data.batch_size} × {settings.grad_accum_steps} accumulated",
        "precision": settings.precision,
        "data": ", ".join(str(images) for images, _ in data.dataset.args.folders),
    }
    missing = [str(images) for images, _ in data.dataset.args.folders if not images.is_dir()]
    odd = [f"there is no folder `{folder}`, which `{name}` names" for folder in missing]
    start = config.sam_checkpoint or ""
    if ("/" in start or start.endswith(".pth")) and "://" not in start and not Path(start).is_file():
        odd.append(f"there is no checkpoint `{start}`, which `{name}` names")
    return Description(path=name, kind="configuration", facts=_known(facts), oddities=tuple(odd))


def _raster(path: str) -> Description:
    from rasterio.enums import ColorInterp

    from cwsam_cli.raster.grid import Grid
    from cwsam_cli.raster.scene import open_raster
    from cwsam_cli.raster.style import CLASSES_TAG

    with open_raster(path) as dataset:
        tags, grid = dataset.tags(), Grid.of(dataset)
        is_palette = dataset.count == 1 and dataset.colorinterp[0] == ColorInterp.palette  # another program's map
        if CLASSES_TAG not in tags and not is_palette:
            return _scene(path)
        taxonomy = map_taxonomy(dataset)
    own = {name.removeprefix(_TAG): value for name, value in tags.items() if name.startswith(_TAG)}
    facts = {"grid": str(grid)} | {
        name.lower().replace("_", " "): value for name, value in own.items() if _TAG + name != CLASSES_TAG and value
    }
    odd = [] if grid.crs is not None else [f"`{path}` has no coordinate reference system, so areas have no unit"]
    if taxonomy is None:
        expand = f"gdal_translate -expand rgb {path} rgb.tif"
        odd.append(f"`{path}` has colours, but no class names; if it is a picture, expand it: {expand}")
    return Description(
        path=path, kind="map", facts=facts, classes=_classes(taxonomy) if taxonomy else [], oddities=tuple(odd)
    )


def map_taxonomy(dataset: "DatasetReader") -> Taxonomy | None:
    """Return the class table of a map, or None if it has no class names."""
    from cwsam_cli.raster.style import CLASSES_TAG, band_names, read_taxonomy

    has_names = CLASSES_TAG in dataset.tags() or any(band_names(dataset).values())
    return read_taxonomy(dataset, ()) if has_names else None


def _scene(path: str) -> Description:
    from cwsam_cli.dataset.radiometry import sample
    from cwsam_cli.raster.scene import open_scene

    with open_scene(path) as scene:
        values, dataset = sample(scene), scene.dataset
        rows, columns = dataset.block_shapes[scene.bands[0] - 1]
        facts = {
            "grid": str(scene.grid),
            "bands": ", ".join(scene.band_names),
            "dtype": scene.dtype,
            "nodata": "none" if dataset.nodata is None else f"{dataset.nodata:g}",
            "blocks": f"{columns} × {rows} pixels, {dataset.compression.value if dataset.compression else 'plain'}",
            "overviews": ", ".join(map(str, dataset.overviews(scene.bands[0]))) or "none",
        }
        odd = [] if scene.grid.crs is not None else [f"`{path}` has no coordinate reference system"]
        if scene.is_south_up:
            odd.append(f"the first row of `{path}` is the southernmost; so is that of its map")
        if rows * columns > _WIDE_BLOCK:
            odd.append(f"`{path}` has blocks of {columns:,} × {rows:,} pixels, so each window reads many more pixels")
        if not scene.hides_pixels:
            odd.append(f"`{path}` has neither nodata nor a mask, so black borders get classes, too")
        if not values.shape[1]:
            odd.append(f"a sample of `{path}` holds no valid pixel")
    for name, own in zip(scene.band_names[:_SHOWN_BANDS], values, strict=False):
        known = own[np.isfinite(own)]
        if known.size:
            low, middle, high = np.percentile(known, (2, 50, 98))
            facts[f"band {name}"] = f"{low:.4g} to {high:.4g}, median {middle:.4g} (2nd to 98th percentile of a sample)"
            if known.min() == known.max():
                odd.append(f"band {name} of `{path}` holds only {known.min():g} in a sample")
    return Description(path=path, kind="scene", facts=facts, oddities=tuple(odd))


def _classes(taxonomy: Taxonomy) -> list[dict[str, Any]]:
    return [dataclasses.asdict(entry) for entry in taxonomy.classes]


def _tiles(tiles: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in tiles.items())


def _pixel_size(gsd_m: float | None) -> str:
    return "" if gsd_m is None else f"{gsd_m:g} m"


def _known(facts: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if value}
