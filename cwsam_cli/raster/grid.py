"""Describe a raster's pixel grid: its place, the size of its pixels, and the windows that cover it.

Windows are on the scene's own pixel grid, so no pixel is resampled. Windows at the edge shift
inwards instead of being padded, unless the scene is smaller than a window.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, floor, sqrt

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS as ProjCRS
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster import ground
from cwsam_cli.raster.ground import Plane, area_of, central_form, scale_errors

ALIGNED = 1e-3
"""Pixels. Two grids whose pixels lie this close count as equal, and resampling is as exact."""
_SNAP = 1e-6  # pixels; a bound this close to a pixel's edge counts as on it
_KEPT = 0.005
"""Largest scale error of a plane that counts as none. Within a UTM zone the areal scale is wrong by up to 0.2 %."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Size and place of a raster."""

    crs: CRS | None
    transform: Affine
    width: int
    height: int

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader) -> "Grid":
        """Read the grid of an open raster."""
        return cls(dataset.crs, dataset.transform, dataset.width, dataset.height)

    @property
    def is_geographic(self) -> bool:
        """Whether coordinates are angles."""
        return self.crs is not None and self.crs.is_geographic

    @property
    def in_degrees(self) -> Affine:
        """Transform of a geographic grid in degrees, for any unit of angles."""
        assert self.crs is not None
        degrees = math.degrees(ProjCRS.from_wkt(self.crs.to_wkt()).axis_info[0].unit_conversion_factor)
        return self.transform if math.isclose(degrees, 1) else Affine.scale(degrees) @ self.transform

    @property
    def unit_m(self) -> float | None:
        """Metres per unit of a projected or engineering grid, otherwise None."""
        if self.crs is None or self.is_geographic:
            return None
        try:
            return float(self.crs.linear_units_factor[1])
        except CRSError:  # an engineering CRS
            axes = ProjCRS.from_wkt(self.crs.to_wkt()).axis_info
            return axes[0].unit_conversion_factor if axes else 1.0

    @property
    def plane(self) -> Plane | None:
        """Pixels of a projected grid, otherwise None."""
        if self.crs is None or not self.crs.is_projected or self.unit_m is None:
            return None
        return Plane(self.crs.to_wkt(), self.transform, self.width, self.height, self.unit_m)

    @property
    def keeps_areas(self) -> bool:
        """Whether areas in the grid's plane equal those on the ground, within 0.5 % everywhere."""
        return not self.is_geographic and (self.plane is None or scale_errors(self.plane)[0] <= _KEPT)

    @property
    def keeps_lengths(self) -> bool:
        """Whether lengths in the grid's plane equal those on the ground, within 0.5 % everywhere."""
        return not self.is_geographic and (self.plane is None or scale_errors(self.plane)[1] <= _KEPT)

    @property
    def pixel_area_m2(self) -> float | None:
        """Area of every pixel in m². None if pixels differ or there is no CRS."""
        if self.unit_m is None or not self.keeps_areas:
            return None
        return abs(self.transform.determinant) * self.unit_m**2

    def pixel_areas(self, top: int, rows: int) -> NDArray[np.float64]:
        """Areas on the ground in m² of the pixels in some rows, (rows, 1) or (rows, width) where a row's pixels differ.

        Args:
            top: the first row; the grid needs a CRS.
            rows: how many.
        """
        if self.pixel_area_m2 is not None:
            return np.full((rows, 1), self.pixel_area_m2)
        if self.plane is not None:
            return ground.metric_field(self.plane).areas(top, rows, self.width).astype(np.float64)
        assert self.crs is not None
        geod, t = geodesic(self.crs), self.in_degrees
        edges = ground.area_to_equator(t.f + t.e * np.arange(top, top + rows + 1, dtype=np.float64), geod.a, geod.es)
        return np.asarray(np.abs(np.diff(edges) * np.radians(t.a))[:, None])

    @property
    def gsd_m(self) -> float | None:
        """Ground sampling distance in metres per pixel, at the centre if pixels differ. None without a CRS."""
        if self.crs is None:
            return None
        if self.unit_m is not None:
            if self.plane is None or self.keeps_areas or self.keeps_lengths:
                return sqrt(abs(self.transform.determinant)) * self.unit_m
            return sqrt(area_of(central_form(self.plane)))
        lon, lat = self.in_degrees @ (self.width / 2, self.height / 2)
        beside, below = self.in_degrees @ (self.width / 2 + 1, self.height / 2 + 1)
        geod = geodesic(self.crs)
        lat, below = max(-90, min(90, lat)), max(-90, min(90, below))
        return sqrt(geod.inv(lon, lat, beside, lat)[2] * geod.inv(lon, lat, lon, below)[2])

    @property
    def flipped(self) -> "Grid":
        """The grid with its rows in the opposite order."""
        flip = Affine.translation(0, self.height) @ Affine.scale(1, -1)
        return Grid(self.crs, self.transform @ flip, self.width, self.height)

    def corners(self, window: Window) -> list[tuple[float, float]]:
        """Return the four corners of a window in the grid's CRS, clockwise from the upper left."""
        left, top = window.col_off, window.row_off
        right, bottom = left + window.width, top + window.height
        return [self.transform @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom))]

    def transects(self, count: int = 17) -> Iterator[NDArray[np.float64]]:
        """Yield columns and rows (N, 2) of all pixel corners along `count` rows and `count` columns, edges included."""
        across, down = np.arange(self.width + 1.0), np.arange(self.height + 1.0)
        for row in np.linspace(0, self.height, count):
            yield np.stack([across, np.full_like(across, row)], axis=1)
        for column in np.linspace(0, self.width, count):
            yield np.stack([np.full_like(down, column), down], axis=1)

    def within(self, bounds: Sequence[float]) -> Window:
        """Return the window of all pixels that the bounds touch, cut to the grid.

        Args:
            bounds: west, south, east and north in the grid's CRS.

        Raises:
            DataError: the bounds touch no pixel.
        """
        west, south, east, north = bounds
        corners = [~self.transform @ corner for corner in ((west, south), (west, north), (east, south), (east, north))]
        cols, rows = zip(*corners, strict=True)
        left, top = (max(0, floor(min(ends) + _SNAP)) for ends in (cols, rows))
        right, bottom = min(self.width, ceil(max(cols) - _SNAP)), min(self.height, ceil(max(rows) - _SNAP))
        if left >= right or top >= bottom:
            raise DataError(
                f"the bounds {' '.join(f'{edge:g}' for edge in bounds)} lie outside the scene ({self})",
                hint="give west south east north in the CRS of the scene",
            )
        return Window(left, top, right - left, bottom - top)

    def part(self, window: Window) -> "Grid":
        """Return the grid of a window."""
        transform = self.transform @ Affine.translation(window.col_off, window.row_off)
        return Grid(self.crs, transform, int(window.width), int(window.height))

    def __str__(self) -> str:
        code = self.crs.to_epsg() if self.crs else None
        crs = f"EPSG:{code}" if code else "unnamed CRS" if self.crs else "no CRS"
        size = f", {self.gsd_m:.3g} m" if self.gsd_m else ""
        return f"{self.width} × {self.height} pixels, {crs}{size}"


@cache
def has_same_wkt(one: str, other: str) -> bool:
    """Return whether two CRSs are the same; rasterio's `==` also joins some that lie metres apart."""
    codes = [CRS.from_wkt(wkt).to_epsg() for wkt in (one, other)]
    return one == other or (codes[0] is not None and codes[0] == codes[1])


def join(grids: Sequence[Grid]) -> tuple[Grid, list[tuple[int, int]]] | None:
    """Return the grid that covers others, and the column and row of the first pixel of each on it.

    Returns:
        None if the pixels of the others are not pixels of one grid, or if one has no CRS.
    """
    first = grids[0].transform
    places = []
    for grid in grids:
        t = grid.transform
        is_turned = t.b != 0 or t.d != 0
        if (
            grid.crs is None
            or grids[0].crs is None
            or is_turned
            or not has_same_wkt(grid.crs.to_wkt(), grids[0].crs.to_wkt())
        ):
            return None
        col, row = ~first @ (t.c, t.f)
        drift = max(abs(t.a / first.a - 1) * grid.width, abs(t.e / first.e - 1) * grid.height)
        if max(drift, abs(col - round(col)), abs(row - round(row))) >= ALIGNED:
            return None
        places.append((round(col), round(row)))
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    right = max(col + grid.width for (col, _), grid in zip(places, grids, strict=True))
    bottom = max(row + grid.height for (_, row), grid in zip(places, grids, strict=True))
    whole = grids[0].part(Window(left, top, right - left, bottom - top))
    return whole, [(col - left, row - top) for col, row in places]


def geodesic(crs: CRS) -> Geod:
    """Return the ellipsoid of a CRS, for lengths and areas on the ground; WGS 84 if it has none."""
    geod = ProjCRS.from_wkt(crs.to_wkt()).get_geod()
    return geod if geod is not None else Geod(ellps="WGS84")


def offsets(length: int, size: int, stride: int) -> list[int]:
    """Return where windows start along one axis, in pixels. The last one shifts inwards to end at the edge."""
    if length <= size:
        return [0]
    return [*range(0, length - size, stride), length - size]


def lattice(width: int, height: int, size: int, overlap: int) -> Iterator[Window]:
    """Yield windows of `size` pixels that cover a rectangle, row by row.

    Args:
        width: width of the rectangle in pixels.
        height: height of the rectangle in pixels.
        size: side of a window in pixels.
        overlap: pixels that neighbouring windows share, at least.
    """
    for row in offsets(height, size, size - overlap):
        for col in offsets(width, size, size - overlap):
            yield Window(col, row, min(size, width), min(size, height))
