"""A scene and a checkpoint → a classified GeoTIFF on the scene's own grid."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from torch import nn

from cwsam_cli import __version__
from cwsam_cli.console import log, track
from cwsam_cli.data.manifest import Band
from cwsam_cli.data.transforms import normalize
from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, refuse_input, sha256, staged
from cwsam_cli.geo.grid import lattice
from cwsam_cli.geo.raster import GDAL_CACHE_MB, Scene, open_scene, verify_written, writing
from cwsam_cli.geo.stitch import aligned, stitch
from cwsam_cli.geo.style import tag_classes, write_sidecar
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.train.checkpoint import load_checkpoint
from cwsam_cli.train.launch import choose_device

BLOCK = 256
"""Pixels a side of the map file's blocks."""

_TILED: dict[str, Any] = {
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "compress": "deflate",
    "bigtiff": "if_safer",
}
_FIXED = {"driver", "width", "height", "count", "dtype", "nodata", "crs", "transform"}


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
    scene_path: Path,
    checkpoint: Path,
    output: Path,
    *,
    overlap: float = 0.25,
    batch_size: int = 8,
    device: str = "auto",
    creation: Mapping[str, str] | None = None,
    overwrite: bool = False,
    command: str = "",
) -> MapResult:
    """Classify a scene.

    Args:
        scene_path: any raster with the bands that the model was trained on.
        checkpoint: a `model_epoch_*.pth`.
        output: a GeoTIFF of class codes; `<output>.aux.xml` beside it names the classes.
        overlap: share of a window that neighbours see too, 0 to 0.9.
        batch_size: windows at a time.
        device: `cpu`, `cuda` or `auto`.
        creation: GDAL's creation options for the GeoTIFF.
        overwrite: replace an older map.
        command: the command line, for the record.

    Raises:
        DataError: the scene cannot be read, or lacks bands.
        CheckpointError: the checkpoint cannot be read.
    """
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"`{output}` is no GeoTIFF's name", hint="give it the suffix .tif")
    fixed = _FIXED & {key.lower() for key in creation or {}}
    if fixed:
        raise UsageError(f"--co {fixed.pop().upper()}: the map's own, not an option", hint="say: --co COMPRESS=ZSTD")
    trained = load_checkpoint(checkpoint)
    refuse_input(output, scene_path, checkpoint)
    refuse_existing(output, overwrite=overwrite)
    where = choose_device(device)
    model = trained.model().to(where)
    size = trained.architecture.inp_size
    taxonomy = trained.taxonomy
    to_code = np.frombuffer(taxonomy.index_to_code(), np.uint8)
    counts = np.zeros(256, np.int64)
    wanted = [band.name for band in trained.bands]
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB),
        open_scene(scene_path, wanted_bands=wanted) as scene,
        staged(output, overwrite=overwrite) as target,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        grid = scene.grid
        if grid.crs is None:
            log.warning("`%s` has no coordinate reference system, so the map has none either", scene_path)
        if trained.gsd_m and grid.gsd_m and not 0.5 <= grid.gsd_m / trained.gsd_m <= 2:
            log.warning(
                "`%s` has pixels of %.3g m, the model was trained on %.3g m: resample it for a better map",
                scene_path,
                grid.gsd_m,
                trained.gsd_m,
            )
        if scene.dtype != trained.dtype:
            log.warning(
                "`%s` holds %s values, the model was trained on %s: are they of the same scale?",
                scene_path,
                scene.dtype,
                trained.dtype,
            )
        windows = list(lattice(grid.width, grid.height, size, int(size * overlap)))
        scored = _score(model, scene, windows, trained.bands, size, batch_size, where, trained.hidden_class)
        options = _TILED | {key.lower(): value for key, value in (creation or {}).items()}
        with (
            writing(output),
            rasterio.open(
                target,
                "w",
                driver="GTiff",
                width=grid.width,
                height=grid.height,
                count=1,
                dtype="uint8",
                nodata=IGNORE,
                crs=grid.crs,
                transform=grid.transform,
                **options,
            ) as written,
        ):
            tag_classes(written, taxonomy)
            written.update_tags(
                CWSAM_VERSION=__version__, CWSAM_CHECKPOINT_SHA256=sha256(checkpoint), CWSAM_COMMAND=command
            )
            for top, index in aligned(stitch(scored, grid.width, grid.height), BLOCK):
                window = Window(0, top, grid.width, len(index))
                codes = np.where(scene.read_north_up(window)[1], to_code[index], np.uint8(IGNORE))
                counts += np.bincount(codes.ravel(), minlength=256)
                if scene.is_south_up:
                    codes, window = codes[::-1], scene.mirrored(window)
                written.write(codes, 1, window=window)
        verify_written(target)
        write_sidecar(target, taxonomy)
    if counts[IGNORE] == grid.width * grid.height:
        log.warning("`%s` holds no valid pixel, and neither does its map", scene_path)
    pixels = {entry.name: int(counts[entry.code]) for entry in taxonomy.classes}
    return MapResult(output, grid.width, grid.height, pixels, int(counts[IGNORE]))


def _score(
    model: nn.Module,
    scene: Scene,
    windows: list[Window],
    bands: tuple[Band, ...],
    size: int,
    batch_size: int,
    device: torch.device,
    hidden: int | None,
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Each window with its logits (K, size, size); the hidden class never wins."""
    for start in track(range(0, len(windows), batch_size), "predicting"):
        batch = windows[start : start + batch_size]
        images = torch.zeros(len(batch), len(bands), size, size)
        for slot, window in zip(images, batch, strict=True):
            image, valid = scene.read_north_up(window)
            slot[:, : image.shape[1], : image.shape[2]] = normalize(image, valid, bands)
        with torch.inference_mode():
            logits = model(images.to(device)).cpu().numpy()
        if hidden is not None:
            logits[:, hidden] = -np.inf
        yield from zip(batch, logits, strict=True)
