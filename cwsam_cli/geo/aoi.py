"""An area of interest: polygons on a scene's grid."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from geopandas import GeoSeries
from pyproj import Transformer
from rasterio.features import geometry_mask
from rasterio.windows import Window

from cwsam_cli.errors import DataError, MissingCRS
from cwsam_cli.geo.grid import Grid
from cwsam_cli.geo.stitch import Mask


@dataclass(frozen=True, slots=True)
class AreaOfInterest:
    """Polygons in a scene's CRS; a pixel is inside if its centre is."""

    polygons: shapely.STRtree
    grid: Grid
    """Of the scene, counted from the north."""

    def touches(self, window: Window) -> bool:
        """Whether a window may share a pixel with a polygon."""
        return bool(self._near(window).size)

    def mask(self, window: Window) -> Mask:
        """Pixels inside, (h, w)."""
        near = self._near(window)
        shape = (int(window.height), int(window.width))
        if not near.size:
            return np.zeros(shape, bool)
        transform = self.grid.part(window).transform
        return np.asarray(geometry_mask(list(self.polygons.geometries[near]), shape, transform, invert=True), bool)

    def _near(self, window: Window) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        found: np.ndarray[tuple[int], np.dtype[np.int64]] = self.polygons.query(
            shapely.Polygon(self.grid.corners(window)), predicate="intersects"
        )
        return found


def read_area(path: Path, grid: Grid) -> AreaOfInterest:
    """Read polygons and bring them into a grid's CRS.

    Raises:
        DataError: no polygon is in the file, or none lies on the grid.
        MissingCRS: only one of both has a CRS.
    """
    try:
        frame = pyogrio.read_dataframe(path, columns=[])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise DataError(f"`{path}` holds no polygons that can be read: {error}", hint="try: ogrinfo -al -so") from None
    shapes = frame.geometry[frame.geometry.geom_type.isin(["Polygon", "MultiPolygon"])]
    if shapes.empty:
        raise DataError(f"`{path}` holds no polygon", hint="--aoi takes polygons")
    if (shapes.crs is None) != (grid.crs is None):
        raise MissingCRS(path if shapes.crs is None else "the scene", "so nobody knows where the polygons lie on it")
    if grid.crs is not None:
        shapes = _around(shapes, grid).to_crs(grid.crs.to_wkt())
    area = AreaOfInterest(shapely.STRtree(shapely.make_valid(shapes.to_numpy())), grid)
    if not area.touches(Window(0, 0, grid.width, grid.height)):
        raise DataError(f"no polygon of `{path}` lies on the scene ({grid})", hint="do both show the same ground?")
    return area


def _around(shapes: GeoSeries, grid: Grid) -> GeoSeries:
    """What of polygons lies on a scene and as far around: ground far away has no place in many projections."""
    assert grid.crs is not None
    x, y = zip(*grid.corners(Window(0, 0, grid.width, grid.height)), strict=True)
    way = Transformer.from_crs(grid.crs.to_wkt(), shapes.crs, always_xy=True)
    left, bottom, right, top = way.transform_bounds(min(x), min(y), max(x), max(y))
    wide, high = right - left, top - bottom
    if not (np.isfinite([left, bottom, right, top]).all() and wide > 0 and high > 0):  # across the antimeridian, say
        return shapes
    near = shapely.clip_by_rect(
        shapely.make_valid(shapes.to_numpy()), left - wide, bottom - high, right + wide, top + high
    )
    near = near[~shapely.is_empty(near)]
    return GeoSeries(shapely.segmentize(near, min(wide, high) / 64), crs=shapes.crs)  # straight lines may bend
