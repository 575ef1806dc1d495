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

from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import Scene, not_written
from cwsam_cli.raster.sources.views import public_name
from cwsam_cli.raster.style import colormap
from cwsam_cli.raster.vrt import BandSource, build_vrt
from cwsam_cli.taxonomy import IGNORE, Taxonomy
from cwsam_cli.tile.footprints import PlacedScene, PlannedTile, draw_footprints
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


def tile_name(scene: PlacedScene, tile: PlannedTile) -> str:
    """Return the name of a tile's files, without suffix."""
    return f"{scene.name}_r{tile.row_off:05d}_c{tile.col_off:05d}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile lies, and where its files are written."""

    folder: Path
    """The dataset."""
    name: Path
    """The path of its files below `images` and `labels`, without suffix."""
    window: Window
    """Its window in the scene. It is smaller than the tile if the scene is smaller."""
    size: int
    """Pixels per side of the tile, which is padded beyond the window."""

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the padding of rows and columns, as `numpy.pad` takes it."""
        return (0, self.size - int(self.window.height)), (0, self.size - int(self.window.width))

    @property
    def is_padded(self) -> bool:
        """Whether the scene is smaller than the tile."""
        return self.padding != ((0, 0), (0, 0))

    def grid(self, scene: Scene) -> Grid:
        """Return the tile's grid."""
        return Grid(scene.grid.crs, window_transform(self.window, scene.grid.transform), self.size, self.size)


def write_image(place: Place, scene: Scene, image: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
    """Write an image tile.

    Args:
        place: where it lies.
        scene: the scene.
        image: its pixels (C, H, W).
        valid: where they are valid (H, W).

    Raises:
        MachineError: the file could not be written whole.
    """
    values = [scene.dataset.nodatavals[band - 1] for band in scene.bands]
    is_common = all(repr(value) == repr(values[0]) for value in values)  # NaN does not equal itself
    nodata = values[0] if is_common else None  # a tile has one nodata value, so a mask stands for several
    fill = 0 if nodata is None else nodata
    is_whole = bool(valid.all()) and not place.is_padded
    if not is_whole:
        image = np.where(valid, image, np.asarray(fill).astype(image.dtype))
        image = np.pad(image, ((0, 0), *place.padding), constant_values=fill)
        valid = np.pad(valid, place.padding)
    predictor = 3 if np.issubdtype(image.dtype, np.floating) else 2
    layout = {"count": len(image), "dtype": image.dtype, "predictor": predictor}
    path = place.folder / "images" / f"{place.name}.tif"
    with _tile_file(path, place.grid(scene), **layout, nodata=nodata) as target:
        target.descriptions = scene.band_names
        target.write(image)
        if nodata is None and not is_whole:
            target.write_mask(valid)


def write_view(place: Place, scene: Scene) -> None:
    """Write an image tile that points into the scene.

    Args:
        place: where it lies.
        scene: the scene.

    Raises:
        MachineError: the file could not be written whole.
    """
    path, window = str(scene.path), place.window
    dtypes, nodata = scene.dataset.dtypes, scene.dataset.nodatavals
    bands = [
        BandSource(path=path, band=i, name=name, dtype=dtypes[i - 1], nodata=nodata[i - 1], window=window)
        for i, name in zip(scene.bands, scene.band_names, strict=True)
    ]
    if scene.alpha:
        alpha = scene.alpha
        bands.append(BandSource(path=path, band=alpha, dtype=dtypes[alpha - 1], window=window, is_alpha=True))
    has_nodata = any(band.nodata is not None for band in bands)
    needs_mask = not has_nodata and not scene.alpha and (scene.hides_pixels or place.is_padded)
    mask = BandSource(path=path, band=f"mask,{scene.bands[0]}", window=window) if needs_mask else None
    shown = Window(0, 0, window.width, window.height)
    text = build_vrt(place.grid(scene), bands, shown=shown, mask=mask)
    _write(place.folder / "images" / f"{place.name}.vrt", text.encode())


def write_labels(place: Place, scene: Scene, codes: NDArray[np.uint8], taxonomy: Taxonomy) -> None:
    """Write a label tile.

    Args:
        place: where it lies.
        scene: the scene.
        codes: class codes (H, W), `IGNORE` where there is no label.
        taxonomy: the class table, for the colours.

    Raises:
        MachineError: the file could not be written whole.
    """
    if place.is_padded:
        codes = np.pad(codes, place.padding, constant_values=IGNORE)
    path = place.folder / "labels" / f"{place.name}.tif"
    with _tile_file(path, place.grid(scene), count=1, dtype="uint8", nodata=IGNORE) as target:
        target.write_colormap(1, colormap(taxonomy))
        target.write(codes, 1)


@contextmanager
def _tile_file(path: Path, grid: Grid, **profile: Any) -> Iterator[DatasetWriter]:
    """Open a GeoTIFF for writing that is built in memory and reaches the disk when the block ends.

    GDAL does not report every failed write when it closes a file. On a disk quota it missed 4 of 24.
    Python reports all of them, so the tile need not be read back.

    Raises:
        MachineError: the file could not be written whole.
    """
    with MemoryFile(ext=".tif") as memory:
        place = {"width": grid.width, "height": grid.height, "crs": grid.crs, "transform": grid.transform}
        with memory.open(**_PROFILE, blockysize=grid.height, **place, **profile) as target:  # one strip per band
            yield target
        _write(path, memory.getbuffer())


def _write(path: Path, content: bytes | memoryview) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise not_written(path, error.strerror or str(error)) from None


def write_index(scenes: Sequence[PlacedScene], tiles: Sequence[WrittenTile], taxonomy: Taxonomy, folder: Path) -> None:
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
            "block": tile.planned.block,
            "fold": tile.planned.fold,
            "near_folds": ",".join(map(str, tile.planned.near_folds)),
            "scene": public_name(scenes[tile.planned.scene].path),
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
    if index["fold"].isna().all():
        index = index.drop(columns=["fold", "near_folds"])
    else:
        index["fold"] = index["fold"].astype("Int64")
    write_frame(index, folder / "tiles.gpkg", layer="tiles")
