"""Sizes as people write them, `1ha` or `15m`, on a map's grid."""

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.errors import UsageError
from cwsam_cli.raster.grid import Grid, geodesic
from cwsam_cli.raster.ground import area_of, metric_field
from cwsam_cli.vectorize.clusters import Int64
from cwsam_cli.vectorize.measure import pixel_areas
from cwsam_cli.vectorize.sieve import Weights

AREAS = {"px": 0.0, "m2": 1.0, "ha": 1e4, "km2": 1e6}
LENGTHS = {"px": 0.0, "m": 1.0, "km": 1e3}

_EDGE = 2**20
"""What the longest pixel edge counts."""


def quantity(text: str, units: dict[str, float], option: str) -> tuple[float, bool]:
    """A size in the units' base, or in pixels (then the second value is true).

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+2?)\s*", text.lower().replace("²", "2"))
    if match is None or match[2] not in units or float(match[1]) <= 0:
        examples = ", ".join(f"10{unit}" for unit in units)
        raise UsageError(f"{option} `{text}` is not a size", hint=f"a number with its unit: {examples}")
    return float(match[1]) * (units[match[2]] or 1.0), match[2] == "px"


def area_text(area_m2: float) -> str:
    """An area for people: whole hectares, or three digits of a small one."""
    value, unit = (area_m2 / 1e4, "ha") if area_m2 >= 1e3 else (area_m2, "m²")
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(0, digits)}f} {unit}"


def metres_a_step(grid: Grid) -> NDArray[np.float64]:
    """Metres per pixel step by line (dx/dcol, dx/drow, dy/dcol, dy/drow); one row where all lines are equal.

    Where the pixels of a line differ, these are the longest steps of the line.
    """
    if grid.plane is not None and not grid.keeps_lengths:
        found = metric_field(grid.plane)
        e, f, g = np.moveaxis(found.forms, 2, 0)
        across = np.sqrt(e)
        steps = np.stack([across, f / across, np.zeros_like(e), np.sqrt(g - f**2 / e)], axis=2)
        longest = np.take_along_axis(steps, np.abs(steps).argmax(axis=1)[:, None], axis=1)[:, 0]
        return found.along(np.arange(grid.height + 1.0), longest)
    t = grid.in_degrees if grid.is_geographic else grid.transform
    steps = np.array([[t.a, t.b, t.d, t.e]])
    if grid.crs is None or not grid.is_geographic:
        return steps * (grid.unit_m or 1.0)
    geod = geodesic(grid.crs)
    latitude = np.radians(np.clip(t.f + t.e * np.arange(grid.height + 1) + t.d * grid.width / 2, -90, 90))
    root = np.sqrt(1 - geod.es * np.sin(latitude) ** 2)
    east, north = geod.a / root * np.cos(latitude), geod.a * (1 - geod.es) / root**3
    return np.radians(steps) * np.stack([east, east, north, north], axis=1)


@dataclass(frozen=True, slots=True)
class PixelSizes:
    """What pixels count by their area on the ground, row by row as they are asked for."""

    grid: Grid
    unit: float
    """m² that count 1."""

    def __getitem__(self, rows: slice) -> Int64:
        areas = pixel_areas(self.grid, rows.start, min(rows.stop, self.grid.height) - rows.start)
        return np.rint(areas / self.unit).astype(np.int64)


def sieve_weights(grid: Grid, size: float, in_pixels: bool) -> tuple[Weights, int]:
    """What counts by row, and below how much of it a region is too small."""
    steps = np.broadcast_to(metres_a_step(grid), (grid.height + 1, 4))
    across, down = np.hypot(steps[:, 0], steps[:, 2]), np.hypot(steps[:, 1], steps[:, 3])
    scale = _EDGE / max(across.max(), down.max())
    edges = np.round(across * scale).astype(np.int64), np.round(down[:-1] * scale).astype(np.int64)
    pixel = grid.pixel_area_m2
    if not in_pixels and pixel is None and grid.plane is not None:
        sizes = PixelSizes(grid, float(area_of(metric_field(grid.plane).forms).max()) / _EDGE)
        return Weights(sizes, *edges), int(np.ceil(size / sizes.unit))
    if in_pixels or pixel is not None:
        minimum = int(np.ceil(size / (1.0 if in_pixels else pixel or 1.0) * (1 - 1e-12)))
        return Weights(np.ones(grid.height, np.int64), *edges), minimum
    middle = (steps[1:] + steps[:-1]) / 2
    areas = np.abs(middle[:, 0] * middle[:, 3] - middle[:, 1] * middle[:, 2])
    unit = areas.max() / _EDGE
    return Weights(np.round(areas / unit).astype(np.int64), *edges), int(np.ceil(size / unit))
