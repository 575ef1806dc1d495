"""A raster's pixel grid: where it lies, how large its pixels are, and how windows tile it.

Windows lie on the scene's own pixel grid, so no pixel is ever resampled. Edge windows shift
inwards rather than pad: every window holds only real pixels, unless the scene is smaller.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import rasterio
from affine import Affine
from pyproj import CRS as ProjCRS
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window


@dataclass(frozen=True, slots=True)
class Grid:
    """A raster's size and place."""

    crs: CRS | None
    transform: Affine
    width: int
    height: int

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader) -> "Grid":
        """The grid of an open raster."""
        return cls(dataset.crs, dataset.transform, dataset.width, dataset.height)

    @property
    def is_geographic(self) -> bool:
        """Whether coordinates are degrees."""
        return self.crs is not None and self.crs.is_geographic

    @property
    def pixel_area_m2(self) -> float | None:
        """One pixel's area in m² on a projected (or engineering) grid, else None."""
        if self.crs is None or self.is_geographic:
            return None
        try:
            metres = float(self.crs.linear_units_factor[1])
        except CRSError:  # an engineering CRS
            axes = ProjCRS.from_wkt(self.crs.to_wkt()).axis_info
            metres = axes[0].unit_conversion_factor if axes else 1.0
        return abs(self.transform.determinant) * metres**2

    @property
    def gsd_m(self) -> float | None:
        """Ground sampling distance in metres a pixel (in the middle, on a geographic grid)."""
        if self.pixel_area_m2 is not None:
            return sqrt(self.pixel_area_m2)
        if self.crs is None:
            return None
        lon, lat = self.transform * (self.width / 2, self.height / 2)
        beside, below = self.transform * (self.width / 2 + 1, self.height / 2 + 1)
        geod = geodesic(self.crs)
        lat, below = max(-90, min(90, lat)), max(-90, min(90, below))
        return sqrt(geod.inv(lon, lat, beside, lat)[2] * geod.inv(lon, lat, lon, below)[2])

    def corners(self, window: Window) -> list[tuple[float, float]]:
        """The four corners of a window in the grid's CRS."""
        left, top = window.col_off, window.row_off
        right, bottom = left + window.width, top + window.height
        return [self.transform * corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom))]

    def __str__(self) -> str:
        code = self.crs.to_epsg() if self.crs else None
        crs = f"EPSG:{code}" if code else "unnamed CRS" if self.crs else "no CRS"
        size = f", {self.gsd_m:.3g} m" if self.gsd_m else ""
        return f"{self.width} × {self.height} pixels, {crs}{size}"


def geodesic(crs: CRS) -> Geod:
    """The CRS's own ellipsoid, for lengths and areas on the ground."""
    geod = ProjCRS.from_wkt(crs.to_wkt()).get_geod()
    return geod if geod is not None else Geod(ellps="WGS84")


def offsets(length: int, size: int, stride: int) -> list[int]:
    """Where windows start along one axis; the last one shifts inwards to end at the edge."""
    if length <= size:
        return [0]
    return [*range(0, length - size, stride), length - size]


def lattice(width: int, height: int, size: int, overlap: int) -> Iterator[Window]:
    """Windows of `size` pixels that cover a rectangle, row by row.

    Args:
        width: pixels of the rectangle.
        height: pixels of the rectangle.
        size: pixels a side of a window.
        overlap: pixels that neighbours share, at least.
    """
    for row in offsets(height, size, size - overlap):
        for col in offsets(width, size, size - overlap):
            yield Window(col, row, min(size, width), min(size, height))
