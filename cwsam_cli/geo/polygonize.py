"""Turn a class raster into polygons that follow its pixel edges exactly.

Rings are traced in pixel coordinates, where every corner is a whole number, and moved to
ground coordinates at the end: a polygon's area is its pixel count times the pixel's area.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Geod
from rasterio.features import shapes
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cwsam_cli.geo.grid import Grid, geodesic


@dataclass(frozen=True, slots=True)
class Region:
    """One 4-connected run of equal class code."""

    code: int
    geometry: BaseGeometry
    """A polygon with its holes, in the grid's CRS."""
    area_m2: float
    """Geodesic on a geographic grid, else the CRS's own."""


def polygonize(codes: NDArray[np.generic], grid: Grid, *, valid: NDArray[np.bool_] | None = None) -> Iterator[Region]:
    """Yield one region per 4-connected run of equal class code.

    Args:
        codes: class codes (H, W), any integer dtype up to 32 bits.
        grid: their grid; it must have a CRS.
        valid: where they count (H, W); everywhere if None.
    Source: what GDAL calls polygonize, https://gdal.org/programs/gdal_polygonize.html
    """
    pixel_area = grid.pixel_area_m2
    geod = geodesic(grid.crs) if pixel_area is None and grid.crs is not None else None
    source = codes if codes.dtype in (np.uint8, np.int16, np.uint16) else codes.astype(np.int32)
    for rings, value in shapes(source, mask=valid, connectivity=4, transform=Affine.identity()):
        pixels = shape(rings)
        geometry = shapely.transform(pixels, lambda xy: _to_ground(xy, grid.transform))
        area = _geodesic_area(geometry, geod) if geod is not None else pixels.area * (pixel_area or 0.0)
        yield Region(int(value), geometry, area)


def _to_ground(xy: NDArray[np.float64], transform: Affine) -> NDArray[np.float64]:
    x, y = xy[:, 0], xy[:, 1]
    t = transform
    return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1)


def _geodesic_area(geometry: Any, geod: Geod) -> float:
    """m² between meridians and parallels, as pixels have them: exact for edges of any length.

    Source: the integral of the authalic latitude's q, Snyder 1987, eq. 3-12.
    """
    rings = [abs(_swept(np.asarray(ring.coords), geod)) for ring in (geometry.exterior, *geometry.interiors)]
    return rings[0] - sum(rings[1:])


def _swept(degrees: NDArray[np.float64], geod: Geod) -> float:
    sine = np.sin(np.radians(degrees[:, 1].clip(-90, 90)))
    e = np.sqrt(geod.es)
    q = sine / (1 - geod.es * sine**2) + (np.arctanh(e * sine) / e if e else sine)
    band = geod.a**2 * (1 - geod.es) / 2 * q
    return float((np.diff(np.radians(degrees[:, 0])) * (band[1:] + band[:-1]) / 2).sum())
