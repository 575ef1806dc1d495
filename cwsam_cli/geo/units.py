"""Sizes as people write them, `1ha` or `15m`, on a map's grid."""

import re

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.errors import UsageError
from cwsam_cli.geo.grid import Grid, geodesic
from cwsam_cli.geo.sieve import Weights

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


def metres_a_step(grid: Grid) -> NDArray[np.float64]:
    """Metres a pixel step by line (dx/dcol, dx/drow, dy/dcol, dy/drow); one row where all lines are equal."""
    t = grid.transform
    steps = np.array([[t.a, t.b, t.d, t.e]])
    if grid.pixel_area_m2 is not None:
        return steps * np.sqrt(grid.pixel_area_m2 / abs(t.determinant))
    if grid.crs is None:
        return steps
    geod = geodesic(grid.crs)
    latitude = np.radians(np.clip(t.f + t.e * np.arange(grid.height + 1) + t.d * grid.width / 2, -90, 90))
    root = np.sqrt(1 - geod.es * np.sin(latitude) ** 2)
    east, north = geod.a / root * np.cos(latitude), geod.a * (1 - geod.es) / root**3
    return np.radians(steps) * np.stack([east, east, north, north], axis=1)


def sieve_weights(grid: Grid, size: float, in_pixels: bool) -> tuple[Weights, int]:
    """What counts by row, and below how much of it a region is too small."""
    steps = np.broadcast_to(metres_a_step(grid), (grid.height + 1, 4))
    across, down = np.hypot(steps[:, 0], steps[:, 2]), np.hypot(steps[:, 1], steps[:, 3])
    scale = _EDGE / max(across.max(), down.max())
    edges = np.round(across * scale).astype(np.int64), np.round(down[:-1] * scale).astype(np.int64)
    pixel = grid.pixel_area_m2
    if in_pixels or pixel is not None:
        minimum = int(np.ceil(size / (1.0 if in_pixels else pixel or 1.0) * (1 - 1e-12)))
        return Weights(np.ones(grid.height, np.int64), *edges), minimum
    middle = (steps[1:] + steps[:-1]) / 2
    areas = np.abs(middle[:, 0] * middle[:, 3] - middle[:, 1] * middle[:, 2])
    unit = areas.max() / _EDGE
    return Weights(np.round(areas / unit).astype(np.int64), *edges), int(np.ceil(size / unit))
