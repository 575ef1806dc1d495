"""Where a scene lies in the CRS of its labels, so that only labels near it are read."""

from collections.abc import Iterator
from functools import lru_cache
from math import cos, radians
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio.windows import Window

from cwsam_cli.raster.globe import globe_width, unwrap
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import open_raster

Bounds = tuple[float, float, float, float]

_POINTS = 25
"""Points per side of the lattice that stands for a scene."""
_MARGIN = 0.05
"""Share of the scene's extent that is added on each side, because lines between the points may bend."""
_DEGREE_M = 111_000.0
_STEEPEST = 0.02
"""Smallest cosine of a latitude. It bounds how far degrees and Mercator's metres stretch."""


def bounds_near(grid: Grid, wkt: str, buffer_m: float) -> Iterator[Bounds | None]:
    """Yield bounds in the CRS of a layer that contain all features near a scene.

    Args:
        grid: the scene's grid, which has a CRS.
        wkt: the layer's CRS.
        buffer_m: how far from the scene a feature may be, in metres.

    Yields:
        West, south, east and north: once, or once per turn of the globe if the layer's x coordinates repeat. None,
        once, if the scene has no place in the layer's CRS; then all features are read.
    """
    assert grid.crs is not None
    crs = CRS.from_user_input(wkt)
    own = _outline(grid)
    try:
        to_layer = _transformer(grid.crs.to_wkt(), wkt)
        moved = _moved(own, to_layer)
    except ProjError:
        yield None
        return
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        yield None
        return
    width = globe_width(crs.to_wkt())
    if width is not None:
        moved = unwrap(np.array([moved]), np.array([own]), width, globe_width(grid.crs.to_wkt()))[0]
    inside = shapely.points(np.stack(to_layer.transform(*_lattice(grid)), axis=-1))
    west, south, east, north = shapely.bounds(moved)
    _, lowest, _, highest = shapely.total_bounds(inside)
    south, north = min(south, lowest), max(north, highest)  # a pole is inside the outline, not on it
    _, latitude = center(grid)
    step = buffer_m / (_DEGREE_M if crs.is_geographic else crs.axis_info[0].unit_conversion_factor)
    step /= max(_STEEPEST, cos(radians(min(90, abs(latitude) + 1))))
    across, up = _MARGIN * (east - west) + step, _MARGIN * (north - south) + step
    if width is not None and east - west > width / 2:
        yield -1.5 * width, float(south - up), 1.5 * width, float(north + up)
        return
    for turn in (0.0,) if width is None else (0.0, width, -width):
        yield float(west - across + turn), float(south - up), float(east + across + turn), float(north + up)


def raster_place(path: Path) -> tuple[Bounds, str] | None:
    """Return the bounds of a raster with its CRS as WKT; None without a CRS."""
    with open_raster(path) as dataset:
        grid = Grid.of(dataset)
    if grid.crs is None:
        return None
    x, y = zip(*grid.corners(Window(0, 0, grid.width, grid.height)), strict=True)
    return (min(x), min(y), max(x), max(y)), grid.crs.to_wkt()


def center(grid: Grid) -> tuple[float, float]:
    """Return longitude and latitude of a grid's centre in degrees."""
    assert grid.crs is not None
    to_degrees = _transformer(grid.crs.to_wkt(), "EPSG:4326")
    longitude, latitude = to_degrees.transform(*grid.transform @ (grid.width / 2, grid.height / 2))
    return float(longitude), float(latitude)


@lru_cache(maxsize=32)
def _transformer(source: str, target: str) -> Transformer:
    """Return the way from a CRS to another. PROJ takes a few milliseconds for it, and scenes share few CRSs."""
    return Transformer.from_crs(source, target, always_xy=True)


def _outline(grid: Grid) -> shapely.Polygon:
    across, down = np.linspace(0, grid.width, _POINTS), np.linspace(0, grid.height, _POINTS)
    top, right = [(x, 0) for x in across], [(grid.width, y) for y in down]
    bottom, left = [(x, grid.height) for x in across[::-1]], [(0, y) for y in down[::-1]]
    return shapely.Polygon([grid.transform @ corner for corner in (*top, *right, *bottom, *left)])


def _lattice(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cols, rows = np.meshgrid(np.linspace(0, grid.width, _POINTS), np.linspace(0, grid.height, _POINTS))
    a, b, c, d, e, f = grid.transform[:6]
    return a * cols.ravel() + b * rows.ravel() + c, d * cols.ravel() + e * rows.ravel() + f


def _moved(shape: shapely.Polygon, way: Transformer) -> shapely.Polygon:
    x, y = way.transform(*shapely.get_coordinates(shape).T)
    return shapely.Polygon(np.stack([x, y], axis=1))
