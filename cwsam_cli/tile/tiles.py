"""Write tiles: images, labels, and the index that shows their outlines in QGIS."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from cwsam_cli.raster.scene import Scene, not_written
from cwsam_cli.raster.style import colormap
from cwsam_cli.taxonomy import IGNORE, Taxonomy
from cwsam_cli.tile.footprints import PlannedTile, draw_footprints
from cwsam_cli.tile.scenes import LabelledScene
from cwsam_cli.vector.layers import write_frame

_PROFILE = {"driver": "GTiff", "compress": "zstd", "zstd_level": 1, "tiled": False, "interleave": "band"}
"""Band by band: 0.7 × the time of writing and of reading pixels with interleaved bands, at the same size."""


@dataclass(frozen=True, slots=True)
class WrittenTile:
    """A tile that was written, and what it contains."""

    planned: PlannedTile
    name: str
    valid: float
    """The share of its pixels with data, 0 to 1."""
    pixels: NDArray[np.int64]
    """Labelled pixels by class index (K,)."""


def tile_name(scene: LabelledScene, tile: PlannedTile) -> str:
    """Return the name of a tile's files, without suffix."""
    return f"{scene.name}_r{tile.row_off:05d}_c{tile.col_off:05d}"


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of a tile."""

    image: NDArray[np.generic]
    """(C, H, W)"""
    valid: NDArray[np.bool_]
    """(H, W)"""
    codes: NDArray[np.uint8]
    """Class codes (H, W), `IGNORE` where there is no label."""


def write_pair(
    path: Path, window: Window, scene: Scene, pixels: Pixels, taxonomy: Taxonomy, folder: Path, size: int
) -> None:
    """Write an image tile and its label tile, padded to `size` pixels if the scene is smaller.

    Args:
        path: the path of both files below `images` and `labels`.
        window: the tile's window in the scene.
        scene: the scene.
        pixels: the tile's pixels.
        taxonomy: the class table, for the colours of the labels.
        folder: the dataset.
        size: pixels per side of a tile.

    Raises:
        MachineError: a file could not be written whole.
    """
    image, valid, codes = pixels.image, pixels.valid, pixels.codes
    below, beside = size - image.shape[1], size - image.shape[2]
    nodata = scene.dataset.nodata
    fill = 0 if nodata is None else nodata
    is_whole = bool(valid.all())
    if not is_whole:
        image = np.where(valid, image, np.asarray(fill).astype(image.dtype))
    if below or beside:
        is_whole = False
        image = np.pad(image, ((0, 0), (0, below), (0, beside)), constant_values=fill)
        valid = np.pad(valid, ((0, below), (0, beside)))
        codes = np.pad(codes, ((0, below), (0, beside)), constant_values=IGNORE)
    place = {
        "width": size,
        "height": size,
        "blockysize": size,  # one strip
        "crs": scene.grid.crs,
        "transform": window_transform(window, scene.grid.transform),
    }
    predictor = 3 if np.issubdtype(image.dtype, np.floating) else 2
    layout = {"count": len(image), "dtype": image.dtype, "predictor": predictor}
    with _tile_file(folder / "images" / path, **place, **layout, nodata=nodata) as target:
        target.descriptions = scene.band_names
        target.write(image)
        if nodata is None and not is_whole:
            target.write_mask(valid)
    with _tile_file(folder / "labels" / path, **place, count=1, dtype="uint8", nodata=IGNORE) as target:
        target.write_colormap(1, colormap(taxonomy))
        target.write(codes, 1)


@contextmanager
def _tile_file(path: Path, **profile: Any) -> Iterator[DatasetWriter]:
    """Open a GeoTIFF for writing that is built in memory and reaches the disk when the block ends.

    GDAL does not report every failed write when it closes a file. On a disk quota it missed 4 of 24.
    Python reports all of them, so the tile need not be read back.

    Raises:
        MachineError: the file could not be written whole.
    """
    with MemoryFile(ext=".tif") as memory:
        with memory.open(**_PROFILE, **profile) as target:
            yield target
        try:
            path.write_bytes(memory.getbuffer())
        except OSError as error:
            raise not_written(path, error.strerror or str(error)) from None


def write_index(
    scenes: Sequence[LabelledScene], tiles: Sequence[WrittenTile], taxonomy: Taxonomy, folder: Path
) -> None:
    """Write `tiles.gpkg`, with one outline per tile.

    Args:
        scenes: the scenes that `PlannedTile.scene` counts.
        tiles: the tiles.
        taxonomy: the class table.
        folder: the dataset.
    """
    rows = [
        {
            "tile": tile.name,
            "split": tile.planned.split,
            "scene": str(scenes[tile.planned.scene].path),
            "col_off": tile.planned.col_off,
            "row_off": tile.planned.row_off,
            "width": tile.planned.width,
            "height": tile.planned.height,
            "valid": tile.valid,
            "labelled": float(tile.pixels.sum() / (tile.planned.width * tile.planned.height)),
            **{
                f"share_{code}": float(pixels / tile.pixels.sum())
                for code, pixels in zip(taxonomy.codes, tile.pixels, strict=True)
            },
        }
        for tile in tiles
    ]
    frame = draw_footprints(scenes, [tile.planned for tile in tiles])
    index = geopandas.GeoDataFrame(rows, geometry=frame.geometry, crs=frame.crs)
    write_frame(index, folder / "tiles.gpkg", layer="tiles")
