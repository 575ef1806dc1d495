"""Handle CRSs whose x coordinates repeat after one turn of the globe: degrees and cylindrical projections.

The same ground has several x coordinates there, one globe's width apart. The globe's width is the length
of a parallel in the units of the CRS.
"""

from contextlib import ExitStack
from functools import cache
from math import pi
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio import DatasetReader
from rasterio.vrt import WarpedVRT

from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import on_pixels_of

Floats = NDArray[np.float64]

_SAMPLES = 360


@cache
def globe_width(wkt: str) -> float | None:
    """Return the globe's width in the units of a CRS.

    Args:
        wkt: the CRS.

    Returns:
        360 for degrees, 40,075,017 for Web Mercator, None if meridians are curved or converge.
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
    is_even = int((np.abs(steps - step) > tolerance).sum()) <= 1  # one step crosses the antimeridian
    return abs(step) * _SAMPLES if step and is_straight and is_even else None


def views_on(grid: Grid, dataset: DatasetReader, stack: ExitStack, **options: Any) -> tuple[WarpedVRT, ...]:
    """Open a raster on a grid, and again with its coordinates shifted by one globe's width to either side.

    GDAL's warper finds ground only under the coordinates that a projection returns. The shifted views find the
    ground on the other side of the antimeridian.

    Args:
        grid: the grid of the views.
        dataset: the raster.
        stack: closes the views.
        options: more options of `WarpedVRT`.

    Returns:
        One view, or three if the x coordinates of the raster's CRS repeat.
    """
    own = Grid.of(dataset)
    assert own.crs is not None
    width = globe_width(own.crs.to_wkt())
    places = [own.transform]
    if width is not None:
        # Without these options, GDAL reads nothing of the last pixels before the antimeridian.
        options |= {"SAMPLE_STEPS": "ALL", "SOURCE_EXTRA": "2"}
        places += [Affine.translation(turn * width, 0) @ own.transform for turn in (1, -1)]
    views = [on_pixels_of(grid, dataset, src_transform=place, **options) for place in places]
    return tuple(stack.enter_context(view) for view in views)


def unwrap(moved: NDArray[Any], before: NDArray[Any], width: float, width_before: float | None) -> NDArray[Any]:
    """Remove the jumps of one globe's width that a projection has made in geometries.

    Args:
        moved: geometries (N,) after the projection.
        before: the same geometries before the projection.
        width: the globe's width after the projection, see `globe_width`.
        width_before: the globe's width before the projection, None if x does not repeat.

    Returns:
        The geometries (N,). Their x may continue beyond the antimeridian.
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
    """Close a ring; a ring around a pole then encloses the pole."""
    if xy[0, 0] == xy[-1, 0] or abs(xy[0, 0] - xy[-1, 0]) < width / 2:
        return xy
    beyond = np.copysign(width, xy[:, 1].mean())
    return np.concatenate([xy, [[xy[-1, 0], beyond], [xy[0, 0], beyond], xy[0]]])
