"""Sizes of pixels on the ground, for simplifying and for the smallest mapping unit."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.config.sizes import Size
from cwsam_cli.raster.grid import Grid, geodesic
from cwsam_cli.raster.ground import area_of, metric_field
from cwsam_cli.regions.clusters import Int64
from cwsam_cli.regions.sieve import Weights

_EDGE = 2**20
"""The length of the longest pixel edge in `Weights`."""


def step_jacobians(grid: Grid) -> NDArray[np.float64]:
    """Return metres per pixel step by line.

    Returns:
        [[dx/dcol, dx/drow], [dy/dcol, dy/drow]] on each line (H + 1, 2, 2), or one matrix (1, 2, 2) if all lines
        are equal. Where the pixels of a line differ, these are the longest steps of the line.
    """
    if grid.plane is not None and not grid.keeps_lengths:
        found = metric_field(grid.plane)
        e, f, g = np.moveaxis(found.forms, 2, 0)
        across = np.sqrt(e)
        steps = np.stack([across, f / across, np.zeros_like(e), np.sqrt(g - f**2 / e)], axis=2)
        longest = np.take_along_axis(steps, np.abs(steps).argmax(axis=1)[:, None], axis=1)[:, 0]
        return found.along(np.arange(grid.height + 1.0), longest).reshape(-1, 2, 2)
    t = grid.in_degrees if grid.is_geographic else grid.transform
    steps = np.array([[[t.a, t.b], [t.d, t.e]]])
    if grid.crs is None or not grid.is_geographic:
        return steps * (grid.unit_m or 1.0)
    geod = geodesic(grid.crs)
    latitude = np.radians(np.clip(t.f + t.e * np.arange(grid.height + 1) + t.d * grid.width / 2, -90, 90))
    root = np.sqrt(1 - geod.es * np.sin(latitude) ** 2)
    east, north = geod.a / root * np.cos(latitude), geod.a * (1 - geod.es) / root**3
    return np.radians(steps) * np.stack([east, north], axis=1)[:, :, None]


@dataclass(frozen=True, slots=True)
class PixelSizes:
    """Areas of pixels as whole numbers, computed for the rows that are indexed."""

    grid: Grid
    unit: float
    """The area in m² that counts 1."""

    def __getitem__(self, rows: slice) -> Int64:
        areas = self.grid.pixel_areas(rows.start, min(rows.stop, self.grid.height) - rows.start)
        return np.rint(areas / self.unit).astype(np.int64)


def sieve_weights(grid: Grid, size: Size) -> tuple[Weights, int]:
    """Return the sizes of pixels as whole numbers, and the smallest mapping unit in the same measure.

    Args:
        grid: the map's grid.
        size: the smallest mapping unit, in m² or pixels.
    """
    steps = np.broadcast_to(step_jacobians(grid), (grid.height + 1, 2, 2))
    across, down = np.hypot(steps[:, 0, 0], steps[:, 1, 0]), np.hypot(steps[:, 0, 1], steps[:, 1, 1])
    scale = _EDGE / max(across.max(), down.max())
    edges = np.round(across * scale).astype(np.int64), np.round(down[:-1] * scale).astype(np.int64)
    pixel = grid.pixel_area_m2
    if not size.in_pixels and pixel is None and grid.plane is not None:
        sizes = PixelSizes(grid, float(area_of(metric_field(grid.plane).forms).max()) / _EDGE)
        return Weights(sizes, *edges), int(np.ceil(size.value / sizes.unit))
    if size.in_pixels or pixel is not None:
        minimum = int(np.ceil(size.value / (1.0 if size.in_pixels else pixel or 1.0) * (1 - 1e-12)))
        return Weights(np.ones(grid.height, np.int64), *edges), minimum
    middle = (steps[1:] + steps[:-1]) / 2
    areas = np.abs(middle[:, 0, 0] * middle[:, 1, 1] - middle[:, 0, 1] * middle[:, 1, 0])
    unit = areas.max() / _EDGE
    return Weights(np.round(areas / unit).astype(np.int64), *edges), int(np.ceil(size.value / unit))
