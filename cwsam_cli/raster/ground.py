"""Compute the size of pixels on the ellipsoid, if a projected CRS distorts areas or lengths.

The first fundamental form describes the size of a pixel. Take one pixel step along columns and
one along rows as vectors in space. E and G are their squared lengths and F is their scalar
product, all in m². They vary smoothly, also across the antimeridian and at a pole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS as ProjCRS
from pyproj import Transformer

Floats = NDArray[np.float64]
Place = Callable[[Floats, Floats], Floats]

_COARSE, _FINE = 8, 256
"""Intervals along each axis at which the form is sampled: to find the scale errors, and to measure regions."""
_HALF_STEP_M = 500.0
"""Half the distance over which steps are measured, in m. PROJ's rounding and the Earth's curvature are negligible."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Pixels of a raster in a projected CRS."""

    wkt: str
    transform: Affine
    width: int
    height: int
    unit_m: float
    """Metres per unit of the CRS."""

    @property
    def name(self) -> str:
        """Name of the CRS."""
        return str(ProjCRS.from_wkt(self.wkt).name)

    @property
    def form(self) -> Floats:
        """E, F and G of a pixel in the plane of the CRS."""
        t = self.transform
        return np.array([t.a**2 + t.d**2, t.a * t.b + t.d * t.e, t.b**2 + t.e**2]) * self.unit_m**2


@dataclass(frozen=True, slots=True)
class MetricField:
    """E, F and G at a grid of points over a map."""

    rows: Floats
    """Rows of the points, in pixels from the map's upper edge."""
    columns: Floats
    """Columns of the points, in pixels from the map's left edge."""
    forms: Floats
    """E, F and G, (rows, columns, 3)."""

    def along(self, rows: Floats, values: Floats) -> Floats:
        """Interpolate values (rows of points, ...) at other rows."""
        first, share = _between(rows, self.rows)
        share = share.reshape(-1, *[1] * (values.ndim - 1))
        return values[first] * (1 - share) + values[first + 1] * share

    def areas(self, top: int, rows: int, width: int) -> NDArray[np.float32]:
        """Compute the areas of pixels (rows, width) in m², from row `top` on."""
        first, share = _between(np.arange(width, dtype=np.float64) + 0.5, self.columns)
        by_row = self.along(np.arange(top, top + rows, dtype=np.float64) + 0.5, area_of(self.forms))
        return np.asarray(by_row[:, first] * (1 - share) + by_row[:, first + 1] * share, np.float32)

    def lengths(self, starts: Floats, ends: Floats) -> Floats:
        """Compute the lengths in m of short straight lines between points (N, 2) of column and row."""
        middle = (starts + ends) / 2
        column, across = _between(middle[:, 0], self.columns)
        row, down = _between(middle[:, 1], self.rows)
        across, down = across[:, None], down[:, None]
        upper = self.forms[row, column] * (1 - across) + self.forms[row, column + 1] * across
        lower = self.forms[row + 1, column] * (1 - across) + self.forms[row + 1, column + 1] * across
        e, f, g = (upper * (1 - down) + lower * down).T
        dx, dy = (ends - starts).T
        return np.asarray(np.sqrt(e * dx**2 + 2 * f * dx * dy + g * dy**2))


def area_of(form: Floats) -> Floats:
    """Compute the area of a pixel in m² from E, F and G (..., 3)."""
    return np.asarray(np.sqrt(form[..., 0] * form[..., 2] - form[..., 1] ** 2))


@lru_cache(maxsize=32)
def scale_errors(plane: Plane) -> tuple[float, float]:
    """Return the largest errors |scale - 1| of the areal and the linear scale over the whole map."""
    forms = _sample_field(plane, _COARSE).forms
    flat, determinant = plane.form, forms[..., 0] * forms[..., 2] - forms[..., 1] ** 2
    ratio = (flat[0] * flat[2] - flat[1] ** 2) / determinant
    half_trace = (forms[..., 2] * flat[0] - 2 * forms[..., 1] * flat[1] + forms[..., 0] * flat[2]) / determinant / 2
    spread = np.sqrt(np.maximum(half_trace**2 - ratio, 0))
    linear = np.sqrt(np.maximum(np.stack([half_trace - spread, half_trace + spread]), 0))
    if np.isnan(linear).any():
        return 0.0, 0.0  # no point of the map is on the Earth
    return float(np.abs(np.sqrt(ratio) - 1).max()), float(np.abs(linear - 1).max())


def covered_m2(plane: Plane) -> float:
    """Estimate the ground area of a map in m². NaN if no point of it is on the Earth."""
    return float(area_of(_sample_field(plane, _COARSE).forms).mean()) * plane.width * plane.height


@lru_cache(maxsize=32)
def metric_field(plane: Plane) -> MetricField:
    """Sample E, F and G over a map, finely enough to measure regions."""
    return _sample_field(plane, _FINE)


@lru_cache(maxsize=32)
def central_form(plane: Plane) -> Floats:
    """Compute E, F and G (3,) at the centre of a map."""
    return _forms(plane, np.array([plane.width / 2]), np.array([plane.height / 2]))[0]


def area_to_equator(latitudes: Floats, axis: float, es: float) -> Floats:
    """Areas in m² between the equator and latitudes in degrees, per radian of longitude; negative in the south.

    Args:
        latitudes: degrees.
        axis: the ellipsoid's larger half-axis in metres.
        es: the square of its eccentricity.
    """
    sine = np.sin(np.radians(np.clip(latitudes, -90, 90)))
    e = np.sqrt(es)
    return np.asarray(axis**2 * (1 - es) / 2 * (sine / (1 - es * sine**2) + (np.arctanh(e * sine) / e if es else sine)))


def _sample_field(plane: Plane, intervals: int) -> MetricField:
    columns, rows = (np.linspace(0, size, min(intervals, 2 * size) + 1) for size in (plane.width, plane.height))
    x, y = np.meshgrid(columns, rows)
    forms = _forms(plane, x.ravel(), y.ravel()).reshape(len(rows), len(columns), 3)
    return MetricField(rows, columns, _filled(forms))


def _forms(plane: Plane, columns: Floats, rows: Floats) -> Floats:
    """Compute E, F and G (N, 3). NaN at points that are not on the Earth."""
    place = _placer(plane)
    half = max(0.5, _HALF_STEP_M / float(area_of(plane.form)) ** 0.5)
    along = (place(columns + half, rows) - place(columns - half, rows)) / (2 * half)
    down = (place(columns, rows + half) - place(columns, rows - half)) / (2 * half)
    return np.stack([(along**2).sum(axis=1), (along * down).sum(axis=1), (down**2).sum(axis=1)], axis=1)


def _placer(plane: Plane) -> Place:
    """Make a function from columns and rows to geocentric coordinates in m, (N, 3); NaN outside the Earth."""
    to_base, radians, axis, es = _base_of(plane.wkt)
    t = plane.transform

    def place(columns: Floats, rows: Floats) -> Floats:
        found = to_base.transform(t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f)
        lon, lat = np.where(np.isfinite(found), found, np.nan) * radians
        normal = axis / np.sqrt(1 - es * np.sin(lat) ** 2)
        east = normal * np.cos(lat)
        return np.stack([east * np.cos(lon), east * np.sin(lon), normal * (1 - es) * np.sin(lat)], axis=1)

    return place


@lru_cache(maxsize=32)
def _base_of(wkt: str) -> tuple[Transformer, float, float, float]:
    """Return the way from a projected CRS to its geographic one, and the latter's unit and ellipsoid.

    PROJ takes about 2 ms for it, and thousands of scenes share a CRS.

    Returns:
        The transformer, the unit in radians, the ellipsoid's larger half-axis in m, and its squared eccentricity.
    """
    own = ProjCRS.from_wkt(wkt)
    base = own.geodetic_crs
    assert base is not None and base.ellipsoid is not None
    axis, polar = base.ellipsoid.semi_major_metre, base.ellipsoid.semi_minor_metre
    to_base = Transformer.from_crs(own, base, always_xy=True)
    return to_base, base.axis_info[0].unit_conversion_factor, axis, 1 - (polar / axis) ** 2


def _filled(forms: Floats) -> Floats:
    """Replace NaN, in place, by the nearest known point of the same row, or else by the nearest known row."""
    known = np.isfinite(forms.sum(axis=2))
    if known.all():
        return forms
    for values, found in [*zip(forms, known, strict=True), (forms, known.sum(axis=1) > 0)]:
        index = np.flatnonzero(found)
        if 0 < len(index) < len(found):
            values[:] = values[index[np.abs(np.arange(len(found))[:, None] - index).argmin(axis=1)]]
    return forms


def _between(where: Floats, points: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return the number of the point before, and the share of the way to the next. Points are evenly spaced."""
    place = where / (points[-1] / (len(points) - 1))
    first = np.clip(place.astype(np.int64), 0, len(points) - 2)
    return first, place - first
