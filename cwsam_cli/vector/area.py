"""An area of interest: polygons on a raster's grid."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from geopandas import GeoSeries
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.features import geometry_mask
from rasterio.windows import Window

from cwsam_cli.errors import DataError, MissingCRS
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.sources.external import refuse_unusable_layer


@dataclass(frozen=True, slots=True)
class AreaOfInterest:
    """Polygons in a raster's CRS; a pixel is inside if its centre is inside a polygon."""

    polygons: shapely.STRtree
    grid: Grid
    """The raster's grid, with rows counted from the north."""

    def touches(self, window: Window) -> bool:
        """Whether a window may share a pixel with a polygon."""
        return bool(self._near(window).size)

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window are inside, (h, w)."""
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


class AreaElsewhere(DataError):
    """No polygon of an area lies on a raster."""


def read_area(path: Path, grid: Grid, *, raster: str = "the scene") -> AreaOfInterest:
    """Read the polygons near a grid and transform them into its CRS.

    Args:
        path: the polygons.
        grid: a raster's grid.
        raster: the name of that raster, for messages.

    Raises:
        AreaElsewhere: no polygon lies on the grid.
        DataError: a coordinate is not finite, or the file cannot be read.
        MissingCRS: the file has a CRS and the grid has none, or the other way round.
    """
    refuse_unusable_layer(path)
    try:
        crs = pyogrio.read_info(path)["crs"]
        if (crs is None) != (grid.crs is None):
            raise MissingCRS(path if crs is None else raster, "so the place of the polygons on it is unknown")
        near = _around(grid, crs)
        shapes = pyogrio.read_dataframe(path, columns=[], bbox=near).geometry
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise DataError(f"`{path}` has no readable polygons: {error}", hint=f"try: ogrinfo -al -so {path}") from None
    shapes = shapes[shapes.geom_type.isin(["Polygon", "MultiPolygon"])]
    if not np.isfinite(shapely.get_coordinates(shapes.to_numpy())).all():
        raise DataError(
            f"a polygon of `{path}` has a coordinate that is NaN or infinite", hint="repair or remove it: ogrinfo -al"
        )
    if grid.crs is not None:
        if near is not None:
            shapes = _clipped(shapes, near)
        shapes = shapes.to_crs(grid.crs.to_wkt())
    area = AreaOfInterest(shapely.STRtree(shapely.make_valid(shapes.to_numpy())), grid)
    if not area.touches(Window(0, 0, grid.width, grid.height)):
        raise AreaElsewhere(
            f"no polygon of `{path}` lies on {raster} ({grid})", hint="check that both show the same ground"
        )
    return area


def _around(grid: Grid, crs: str | None) -> tuple[float, float, float, float] | None:
    """Bounds in a CRS of a raster and as much ground on each side; None where they are no rectangle."""
    x, y = zip(*grid.corners(Window(0, 0, grid.width, grid.height)), strict=True)
    left, bottom, right, top = min(x), min(y), max(x), max(y)
    if grid.crs is not None:
        way = Transformer.from_crs(grid.crs.to_wkt(), crs, always_xy=True)
        left, bottom, right, top = way.transform_bounds(left, bottom, right, top)
    wide, high = right - left, top - bottom
    if not (
        np.isfinite([left, bottom, right, top]).all() and wide > 0 and high > 0
    ):  # for example across the antimeridian
        return None
    return left - wide, bottom - high, right + wide, top + high


def _clipped(shapes: GeoSeries, near: tuple[float, float, float, float]) -> GeoSeries:
    """Clip polygons to a rectangle, because many projections cannot show ground that is far away."""
    left, bottom, right, top = near
    parts = shapely.clip_by_rect(shapely.make_valid(shapes.to_numpy()), *near)
    parts = parts[~shapely.is_empty(parts)]
    longest = min(right - left, top - bottom) / 192  # straight lines may become curves
    return GeoSeries(shapely.segmentize(parts, longest), crs=shapes.crs)
