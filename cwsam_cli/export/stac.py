"""A STAC item of a model, with the extension MLM (Machine Learning Model).

Source: https://github.com/stac-extensions/mlm, version 1.6.0
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.checkpoints.exported import DIVISOR, INPUT, OUTPUT
from cwsam_cli.export.ground import Bounds, TrainingGround
from cwsam_cli.raster.sources.catalog import CLASSIFICATION, FILE, class_entry, identifier

_EXTENSIONS = ["https://stac-extensions.github.io/mlm/v1.6.0/schema.json", CLASSIFICATION, FILE]
_FORMATS = {
    ".onnx": ("ONNX", "onnx", "application/octet-stream; application=onnx"),
    ".pt2": ("PyTorch", "torch.export.save", "application/zip; application=pytorch"),
    ".safetensors": ("PyTorch", "safetensors", "application/octet-stream; application=safetensors"),
}
"""Framework, kind of artifact and media type by ending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The exported file."""

    href: str
    """Path from the item's folder."""
    ending: str
    file: Mapping[str, Any]
    """Its size and hash, see `file_fields`."""


def make_item(name: str, artifact: Artifact, checkpoint: Checkpoint, ground: TrainingGround) -> dict[str, Any]:
    """Return a STAC item 1.1.

    Args:
        name: of the model.
        artifact: the exported file.
        checkpoint: the model.
        ground: what it was trained on. Without bounds the item has no geometry.
    """
    framework, kind, media_type = _FORMATS[artifact.ending]
    arch, origin = checkpoint.architecture, checkpoint.provenance
    bands = [{"name": band.name} for band in checkpoint.bands]
    when = datetime.fromisoformat(origin.date) if origin else datetime.now(UTC)
    properties = {
        "datetime": when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "description": f"Land cover, {len(checkpoint.taxonomy)} classes",
        "bands": bands,
        "mlm:name": name,
        "mlm:architecture": "ClassWise-SAM",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": framework,
        "mlm:total_parameters": sum(tensor.numel() for tensor in checkpoint.weights.values()),
        "mlm:input": [_input(checkpoint, artifact.ending)],
        "mlm:output": [_output(checkpoint)],
    }
    if checkpoint.gsd_m is not None:
        properties["gsd"] = checkpoint.gsd_m
    asset = {
        "href": artifact.href,
        "type": media_type,
        "title": f"Model for windows of {arch.inp_size} pixels",
        "roles": ["mlm:model"],
        "mlm:artifact_type": kind,
        **artifact.file,
        "bands": bands,  # STAC forbids bands of the item without bands of an asset, and MLM wants those of the item
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": _EXTENSIONS,
        "id": identifier(name),
        **_place(ground.bounds),
        "properties": properties,
        "links": [],
        "assets": {"model": asset},
    }


def _place(bounds: Bounds | None) -> dict[str, Any]:
    if bounds is None:
        return {"geometry": None}
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": list(bounds)}


def _input(checkpoint: Checkpoint, ending: str) -> dict[str, Any]:
    size = checkpoint.architecture.inp_size
    scaling: list[dict[str, Any]] = []
    if ending == ".onnx":
        scaling = [{"type": "scale", "value": DIVISOR}]
    elif ending == ".safetensors":  # the other formats normalise bands themselves
        scaling = [{"type": "z-score", "mean": band.mean, "stddev": band.std} for band in checkpoint.bands]
    return {
        "name": INPUT,
        "bands": [band.name for band in checkpoint.bands],
        "input": _array(len(checkpoint.bands), size, "bands"),
        **({"value_scaling": scaling} if scaling else {}),
    }


def _output(checkpoint: Checkpoint) -> dict[str, Any]:
    classes = [
        class_entry(
            index,
            entry.name,
            entry.color,
            description=f"{entry.name} (code {entry.code} in maps)",
            fallback=f"class_{entry.code}",
        )
        for index, entry in enumerate(checkpoint.taxonomy.classes)
    ]
    return {
        "name": OUTPUT,
        "tasks": ["semantic-segmentation"],
        "result": _array(len(classes), checkpoint.architecture.inp_size, "classes"),
        "classification:classes": classes,
    }


def _array(planes: int, size: int, first: str) -> dict[str, Any]:
    return {"shape": [1, planes, size, size], "dim_order": ["batch", first, "height", "width"], "data_type": "float32"}
