"""Describe a checkpoint, a map or a dataset from what the file itself records."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cwsam_cli.dataset.manifest import Band, read_manifest
from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import Taxonomy

_TAG = "CWSAM_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a file or folder says of itself."""

    path: Path
    kind: Literal["model", "map", "dataset"]
    facts: dict[str, str]
    """Name and value of each line."""
    bands: tuple[Band, ...] = ()
    classes: list[dict[str, Any]] = field(default_factory=list)
    """Code, name and colour of each; for a dataset also its labelled pixels by split."""
    configuration: str = ""
    """The YAML that a model was trained with."""


def inform(path: Path) -> Description:
    """Describe a checkpoint, an exported model, a map or a dataset.

    Args:
        path: a `.pth`, an `.onnx` of `cwsam export`, a GeoTIFF that `cwsam predict` wrote, or a folder that
            `cwsam tile` wrote.

    Raises:
        DataError: it is none of these.
        CheckpointError: the checkpoint cannot be read.
    """
    if path.is_dir():
        return _dataset(path)
    if not path.is_file():
        raise DataError(f"there is no file `{path}`", hint="check the path")
    if path.suffix.lower() in (".pth", ".onnx"):
        return _model(path)
    return _map(path)


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
    return Description(path=folder, kind="dataset", facts=_known(facts), bands=manifest.bands, classes=classes)


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
    return Description(
        path=path,
        kind="model",
        facts=_known(facts),
        bands=checkpoint.bands,
        classes=_classes(checkpoint.taxonomy),
        configuration=origin.config if origin is not None else "",
    )


def _map(path: Path) -> Description:
    from cwsam_cli.raster.grid import Grid
    from cwsam_cli.raster.scene import open_raster
    from cwsam_cli.raster.style import CLASSES_TAG, read_taxonomy

    with open_raster(path) as dataset:
        tags = dataset.tags()
        if CLASSES_TAG not in tags:
            raise DataError(
                f"`{path}` is not a map that `cwsam predict` wrote", hint=f"for any raster: gdalinfo {path}"
            )
        facts = {"grid": str(Grid.of(dataset))}
        taxonomy = read_taxonomy(dataset, ())
    own = {name.removeprefix(_TAG): value for name, value in tags.items() if name.startswith(_TAG)}
    facts |= {
        name.lower().replace("_", " "): value for name, value in own.items() if _TAG + name != CLASSES_TAG and value
    }
    return Description(path=path, kind="map", facts=facts, classes=_classes(taxonomy))


def _classes(taxonomy: Taxonomy) -> list[dict[str, Any]]:
    return [dataclasses.asdict(entry) for entry in taxonomy.classes]


def _tiles(tiles: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in tiles.items())


def _pixel_size(gsd_m: float | None) -> str:
    return "" if gsd_m is None else f"{gsd_m:g} m"


def _known(facts: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if value}
