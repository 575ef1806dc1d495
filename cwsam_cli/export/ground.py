"""The ground that a model was trained on, from its dataset if that is still there."""

from dataclasses import dataclass
from pathlib import Path

import pyogrio
import pyproj

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.dataset.manifest import NAME, Manifest, read_manifest
from cwsam_cli.errors import DataError
from cwsam_cli.raster.sources.external import refuse_unusable_layer

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGround:
    """Training tiles of a model. Every part may be unknown."""

    tiles: dict[str, int]
    """Number of training and validation tiles by split; empty if unknown."""
    bounds: Bounds | None = None
    """West, south, east, north in degrees, WGS 84."""
    shares: tuple[float, ...] = ()
    """Share of the labelled training pixels by class index; empty if unknown."""


def find_ground(checkpoint: Checkpoint) -> TrainingGround:
    """Look for the datasets that a checkpoint names.

    Bounds and shares are unknown if a dataset is gone, or is another one now: with other classes, or other numbers of
    tiles.
    """
    origin = checkpoint.provenance
    if origin is None:
        return TrainingGround(tiles={})
    folders = [Path(name).parents[1] for name in origin.data.split(", ") if len(Path(name).parts) > 2]
    try:
        manifests = [read_manifest(folder) for folder in folders if (folder / NAME).is_file()]
    except DataError:
        manifests = []
    if not folders or len(manifests) != len(folders) or not _is_same(manifests, checkpoint, origin.tiles):
        return TrainingGround(tiles=origin.tiles)
    pixels = [sum(counts) for counts in zip(*(each.pixels.get("train", []) for each in manifests), strict=True)]
    total = sum(pixels)
    return TrainingGround(
        tiles=origin.tiles,
        bounds=_join([_bounds(folder / "tiles.gpkg") for folder in folders]),
        shares=tuple(count / total for count in pixels) if total else (),
    )


def _is_same(manifests: list[Manifest], checkpoint: Checkpoint, tiles: dict[str, int]) -> bool:
    counts = {split: sum(each.tiles.get(split, 0) for each in manifests) for split in tiles}
    return counts == tiles and all(each.taxonomy.same_classes(checkpoint.taxonomy) for each in manifests)


def _bounds(path: Path) -> Bounds | None:
    """Return the bounds of the training tiles in degrees; None without a CRS or a readable file."""
    if not path.is_file():
        return None
    refuse_unusable_layer(path)
    try:
        crs = pyogrio.read_info(path)["crs"]
        _, boxes = pyogrio.read_bounds(path, where="split = 'train'")
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError):
        return None
    if crs is None or not boxes.shape[1]:
        return None
    box = (boxes[0].min(), boxes[1].min(), boxes[2].max(), boxes[3].max())
    west, south, east, north = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform_bounds(*box)
    return float(west), float(south), float(east), float(north)


def _join(boxes: list[Bounds | None]) -> Bounds | None:
    known = [box for box in boxes if box is not None]
    if len(known) < len(boxes):
        return None
    west, south, east, north = zip(*known, strict=True)
    return min(west), min(south), max(east), max(north)
