"""Find the points of a sample on a map."""

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.maps.strips import ClassRaster
from cwsam_cli.raster.grid import Grid
from cwsam_cli.survey.samplefile import Sample

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


def place_points(sample: Sample, grid: Grid) -> tuple[Floats, Floats]:
    """Return each point's column and row on a grid, (N,) each; whole numbers are edges of pixels."""
    points = sample.frame.geometry
    if sample.frame.crs is not None and grid.crs is not None:
        points = points.to_crs(grid.crs.to_wkt())
    columns, rows = ~grid.transform @ (points.x.to_numpy(), points.y.to_numpy())
    return columns, rows


def look_up(sample: Sample, source: ClassRaster) -> tuple[Codes, Floats | None]:
    """Return the map's class at each point, (N,), and the size of the pixels in m²; None without a CRS.

    Raises:
        DataError: the map has no class at a point.
    """
    grid = source.grid
    columns, rows = place_points(sample, grid)
    codes, sizes = np.zeros(len(rows), np.int64), np.full(len(rows), np.nan)
    outside = 0
    for place in np.argsort(rows, kind="stable").tolist():
        row, column = int(np.floor(rows[place])), int(np.floor(columns[place]))
        if not (0 <= row < grid.height and 0 <= column < grid.width):
            outside += 1
            continue
        values, empty = source.read(Window(column, row, 1, 1))
        outside += int(empty[0, 0])
        codes[place] = values[0, 0]
        if grid.crs is not None:
            areas = grid.pixel_areas(row, 1)[0]
            sizes[place] = areas[min(column, len(areas) - 1)]
    if outside:
        raise DataError(
            f"`{source.path}` has no class at {outside:,} of {len(rows):,} points of `{sample.path}`",
            hint="assess a map that covers all points",
        )
    return codes, None if grid.crs is None else sizes
