"""Coordinates that start again at the antimeridian: degrees, and maps with straight, parallel meridians.

There the same ground has many x coordinates, one width of the globe apart.
"""

from functools import cache
from math import pi
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

Floats = NDArray[np.float64]

_SAMPLES = 360


@cache
def globe_width(wkt: str) -> float | None:
    """Measure a parallel in the units of a CRS, or tell that x there does not start again.

    Args:
        wkt: the CRS.

    Returns:
        360 for degrees, 40,075,017 for Web Mercator, None where meridians bend or converge.
    """
    crs = CRS.from_wkt(wkt)
    geodetic = crs.geodetic_crs
    if geodetic is None:
        return None
    turn = 2 * pi / geodetic.axis_info[0].unit_conversion_factor
    longitude = turn * ((np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5)
    try:
        projection = Transformer.from_crs(geodetic, crs, always_xy=True)
    except ProjError:
        return None
    equator, north = (
        np.asarray(projection.transform(longitude, np.full(_SAMPLES, latitude))[0]) for latitude in (0, turn / 6)
    )
    if not np.isfinite(equator).all() or not np.isfinite(north).all():
        return None
    steps = np.diff(equator)
    step = float(np.median(steps))
    tolerance = 1e-6 * abs(step)
    is_straight = bool((np.abs(equator - north) < tolerance).all())
    is_even = int((np.abs(steps - step) > tolerance).sum()) <= 1  # one step leads back round the globe
    return abs(step) * _SAMPLES if step and is_straight and is_even else None


def unwrap(moved: NDArray[Any], before: NDArray[Any], width: float, width_before: float | None) -> NDArray[Any]:
    """Undo the jumps round the globe that a projection has put into geometries.

    Args:
        moved: geometries after the projection.
        before: the same geometries before it.
        width: of the globe after it, see `globe_width`.
        width_before: of the globe before it.

    Returns:
        The geometries; x may go on beyond the edge of the globe.
    """
    scale = width / width_before if width_before else 0.0
    result = moved.copy()
    (west, _, east, _), (west_before, _, east_before, _) = shapely.bounds(moved).T, shapely.bounds(before).T
    wide, expected = east - west, scale * (east_before - west_before)
    for i in np.flatnonzero((np.maximum(wide, expected) > width / 2) & (np.abs(wide - expected) > 1e-6 * width)):
        pairs = zip(shapely.get_parts(moved[i]), shapely.get_parts(before[i]), strict=True)
        parts = [_unwrapped(*pair, width, scale) for pair in pairs]
        result[i] = type(moved[i])(parts) if hasattr(moved[i], "geoms") else parts[0]
    return result


def _unwrapped(moved: Any, before: Any, width: float, scale: float) -> Any:
    if moved.geom_type != "Polygon":
        return shapely.set_coordinates(moved, _line(moved, before, width, scale)) if not moved.is_empty else moved
    shell, *holes = (
        _ring(_line(*pair, width, scale), width)
        for pair in zip(shapely.get_rings(moved), shapely.get_rings(before), strict=True)
    )
    middle = (shell[:, 0].min() + shell[:, 0].max()) / 2
    for hole in holes:
        hole[:, 0] += width * np.round((middle - (hole[:, 0].min() + hole[:, 0].max()) / 2) / width)
    return shapely.Polygon(shell, holes)


def _line(moved: Any, before: Any, width: float, scale: float) -> Floats:
    xy = shapely.get_coordinates(moved)
    jumps = np.diff(xy[:, 0]) - scale * np.diff(shapely.get_coordinates(before)[:, 0])
    xy[1:, 0] -= width * np.cumsum(np.round(jumps / width))
    return xy


def _ring(xy: Floats, width: float) -> Floats:
    """Close a ring; one that runs round a pole takes it in."""
    if xy[0, 0] == xy[-1, 0] or abs(xy[0, 0] - xy[-1, 0]) < width / 2:
        return xy
    beyond = np.copysign(width, xy[:, 1].mean())
    return np.concatenate([xy, [[xy[-1, 0], beyond], [xy[0, 0], beyond], xy[0]]])
