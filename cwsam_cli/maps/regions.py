"""Polygons and points with a value each, on a map's grid."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.raster.sources.external import refuse_unusable_layer

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

NOWHERE = -1
"""The value of a pixel in no region."""


@dataclass(frozen=True, slots=True)
class PlacedPolygons:
    """Polygons on a grid.

    They are kept in columns and rows of the grid. So a pixel whose centre lies on a border has the same value in every
    window: with coordinates in degrees, rounding would differ from window to window.
    """

    shapes: shapely.STRtree
    values: NDArray[np.int32]

    @classmethod
    def of(cls, frame: "GeoDataFrame", grid: Grid) -> "PlacedPolygons":
        """Place polygons on a grid.

        Args:
            frame: polygons in the CRS of the grid, with a column `value` of whole numbers from 0 on.
            grid: the grid.
        """
        inverse = ~grid.transform

        def to_pixels(xy: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.stack(inverse @ (xy[:, 0], xy[:, 1]), axis=1)

        shapes = shapely.transform(frame.geometry.to_numpy(), to_pixels)
        return cls(shapely.STRtree(shapes), frame["value"].to_numpy(np.int32))

    def read(self, window: Window, *, first_wins: bool = False) -> NDArray[np.int32]:
        """Return the value of the polygon that contains each pixel's centre, (H, W), `NOWHERE` where there is none.

        Args:
            window: a window of the grid.
            first_wins: where polygons overlap, whether the first or the last one counts.
        """
        left, top, height, width = (int(n) for n in (window.col_off, window.row_off, window.height, window.width))
        near = np.sort(self.shapes.query(shapely.box(left, top, left + width, top + height)))
        if not near.size:
            return np.full((height, width), NOWHERE, np.int32)
        if first_wins:
            near = near[::-1]
        burnt = rasterize(
            zip(self.shapes.geometries[near], self.values[near], strict=True),
            out_shape=(height, width),
            transform=Affine.translation(left, top),
            fill=NOWHERE,
            dtype="int32",
        )
        return np.asarray(burnt)


def is_raster(path: Path) -> bool:
    """Return whether a file is a raster and not a vector layer.

    Raises:
        DataError: the file is missing, or is neither.
    """
    import pyogrio

    if not path.exists():
        raise DataError(f"there is no file `{path}`", hint="check the path")
    refuse_unusable_layer(path)
    try:
        with rasterio.open(path):
            return True
    except rasterio.errors.RasterioIOError:
        pass
    try:
        if len(pyogrio.list_layers(path)):
            return False
    except pyogrio.errors.DataSourceError:
        pass
    raise DataError(f"`{path}` is neither a raster nor a vector file", hint="a GeoTIFF or a GeoPackage, for example")


def read_features(path: Path, grid: Grid, map_path: Path | str) -> "GeoDataFrame":
    """Read a vector file in the CRS of a map's grid, without features that have no geometry.

    Raises:
        DataError: the file has no CRS or no geometry, or cannot be brought into the map's CRS.
        MissingCRS: the map has no CRS.
    """
    import geopandas

    frame = geopandas.read_file(path)
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise DataError(f"`{path}` is a table without geometry", hint="give a layer of polygons or points")
    if frame.crs is None:
        raise DataError(
            f"`{path}` has no coordinate reference system, so it cannot be placed on the map",
            hint=f"if you know it: ogr2ogr -a_srs EPSG:<code> placed.gpkg {path}",
        )
    if grid.crs is None:
        raise missing_crs(map_path, grid, f"so `{path}` cannot be placed on it")
    frame = frame[frame.geometry.notna()].reset_index(drop=True)
    try:
        moved = frame.to_crs(grid.crs.to_wkt())
    except ProjError:
        raise DataError(
            f"there is no transformation from the CRS of `{path}`, {frame.crs.name}, to that of `{map_path}`",
            hint="give both a CRS that PROJ knows",
        ) from None
    if not np.isfinite(moved.total_bounds).all() and len(moved):
        raise DataError(
            f"`{path}` has features outside the CRS of `{map_path}`",
            hint=f"keep only those near the map: ogr2ogr -spat <west> <south> <east> <north> near.gpkg {path}",
        )
    return moved


def field_of(frame: "GeoDataFrame", field: str, path: Path) -> str:
    """Return a field's name.

    Raises:
        DataError: there is no such field.
    """
    known = [str(name) for name in frame.columns if name != frame.geometry.name]
    if field not in known:
        raise DataError(f"`{path}` has no field `{field}`", hint=f"its fields are: {', '.join(known)}")
    return field
