"""Tiles as files: an image, its labels, and the index that shows them in QGIS."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import geopandas
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from cwsam_cli.console import track
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import Scene, not_written, open_scene
from cwsam_cli.raster.style import colormap
from cwsam_cli.taxonomy import IGNORE, Taxonomy
from cwsam_cli.tile.labels import NO_LABEL, Codes, Labels, raster_labels, vector_labels
from cwsam_cli.tile.split import Block
from cwsam_cli.vector.layers import write_frame

T = TypeVar("T")

_PROFILE = {"driver": "GTiff", "compress": "zstd", "zstd_level": 1, "tiled": False}


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A scene with the labels on its grid."""

    scene: Scene
    labels: Labels

    def codes(self, window: Window) -> Codes:
        """Labels of a window, none where the scene has no data."""
        codes = self.labels.read(window)
        _, valid = self.scene.read(window)
        codes[~valid] = NO_LABEL
        return codes


@dataclass(eq=False, slots=True)
class Source:
    """A scene and where its labels come from; their files are open only while they are read."""

    name: str
    path: Path
    labels: Path
    polygons: geopandas.GeoDataFrame | None
    """Of `labels`, unless that is a raster."""
    grid: Grid
    band_names: tuple[str, ...]
    dtype: str
    blocks: list[Block] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, path: Path, labels: Path, polygons: geopandas.GeoDataFrame | None) -> "Source":
        """Look into a scene and its labels.

        Raises:
            DataError: one of them cannot be used.
        """
        with open_scene(path) as scene:
            source = cls(name, path, labels, polygons, scene.grid, scene.band_names, scene.dtype)
        if polygons is None:
            with raster_labels(labels, source.grid, path):
                pass
        return source

    @contextmanager
    def opened(self) -> Iterator[OpenSource]:
        """Open the scene, and its labels on its grid."""
        with ExitStack() as stack:
            scene = stack.enter_context(open_scene(self.path))
            if self.polygons is not None:
                labels: Labels = vector_labels(self.polygons, self.grid, self.path)
            else:
                labels = stack.enter_context(raster_labels(self.labels, self.grid, self.path))
            yield OpenSource(scene, labels)


def each_opened(work: Iterable[tuple[Source, T]], what: str, unit: str) -> Iterator[tuple[OpenSource, T]]:
    """Go through work that is sorted by source, with one source open at a time.

    Args:
        work: sources, each with what is to be done there.
        what: the progress bar's words.
        unit: what there is to do, one of it.
    """
    for source, items in groupby(track(work, what, unit=unit), key=itemgetter(0)):
        with source.opened() as opened:
            for _, item in items:
                yield opened, item


@dataclass(slots=True)
class Tile:
    """A tile to be written."""

    source: Source
    window: Window
    split: str
    shared: tuple[int, int] = (0, 0)
    """Rows at the top and columns at the left that earlier tiles show too."""
    overlap: int = 0
    """How many of the shared rows and columns keep their labels; the others have none here."""
    footprint: Any = None
    valid: float = 0.0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def name(self) -> str:
        """The files' stem."""
        return f"{self.source.name}_r{int(self.window.row_off):05d}_c{int(self.window.col_off):05d}"


def footprints(tiles: list[Tile]) -> geopandas.GeoDataFrame:
    """Tile outlines in the scenes' CRS, or in degrees where scenes differ."""
    crs = {source.grid.crs.to_wkt() if source.grid.crs else None for source in (t.source for t in tiles)}
    common = next(iter(crs)) if len(crs) == 1 else "EPSG:4326"
    series = [
        geopandas.GeoSeries([shapely.Polygon(tile.source.grid.corners(tile.window))], crs=tile.source.grid.crs)
        for tile in tiles
    ]
    if common is not None and len(crs) > 1:
        series = [one.to_crs(common) if one.crs else one.set_crs(common) for one in series]
    return geopandas.GeoDataFrame(geometry=[one.iloc[0] for one in series], crs=common)


def write_pair(
    tile: Tile,
    scene: Scene,
    image: NDArray[np.generic],
    valid: NDArray[np.bool_],
    codes: NDArray[np.uint8],
    taxonomy: Taxonomy,
    folder: Path,
    size: int,
) -> None:
    """Write an image tile and its label tile, padded to `size` where the scene is smaller."""
    below, beside = size - image.shape[1], size - image.shape[2]
    nodata = scene.dataset.nodata
    fill = 0 if nodata is None else nodata
    image = np.where(valid, image, np.asarray(fill).astype(image.dtype))
    image = np.pad(image, ((0, 0), (0, below), (0, beside)), constant_values=fill)
    valid = np.pad(valid, ((0, below), (0, beside)))
    codes = np.pad(codes, ((0, below), (0, beside)), constant_values=IGNORE)
    place = {
        "width": size,
        "height": size,
        "crs": scene.grid.crs,
        "transform": window_transform(tile.window, scene.grid.transform),
    }
    predictor = 3 if np.issubdtype(image.dtype, np.floating) else 2
    layout = {"count": len(image), "dtype": image.dtype, "predictor": predictor, "interleave": "pixel"}
    path = f"{tile.split}/{tile.name}.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        _tile_file(folder / "images" / path, **place, **layout, nodata=nodata) as target,
    ):
        target.descriptions = scene.band_names
        target.write(image)
        if nodata is None and not valid.all():
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


def write_index(tiles: list[Tile], taxonomy: Taxonomy, folder: Path) -> None:
    """`tiles.gpkg`: one footprint a tile."""
    rows = [
        {
            "tile": tile.name,
            "split": tile.split,
            "scene": str(tile.source.path),
            "col_off": int(tile.window.col_off),
            "row_off": int(tile.window.row_off),
            "width": int(tile.window.width),
            "height": int(tile.window.height),
            "valid": tile.valid,
            "labelled": float(tile.pixels.sum() / (tile.window.width * tile.window.height)),
            **{
                f"share_{code}": float(pixels / tile.pixels.sum())
                for code, pixels in zip(taxonomy.codes, tile.pixels, strict=True)
            },
        }
        for tile in tiles
    ]
    frame = footprints(tiles)
    index = geopandas.GeoDataFrame(rows, geometry=frame.geometry, crs=frame.crs)
    write_frame(index, folder / "tiles.gpkg", layer="tiles")
