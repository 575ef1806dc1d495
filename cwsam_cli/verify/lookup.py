"""Find the points of a sample on a map."""

from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.maps.strips import ClassRaster
from cwsam_cli.raster.grid import Grid
from cwsam_cli.survey.population import majority
from cwsam_cli.survey.samplefile import Sample, centers

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]

_TOLERANCE = 0.01  # of a pixel


def place_points(sample: Sample, grid: Grid) -> tuple[Floats, Floats]:
    """Return the column and row of each unit's middle on a grid, (N,) each; whole numbers are edges of pixels."""
    x, y = centers(_on(sample, grid))
    columns, rows = ~grid.transform @ (x, y)
    return columns, rows


def look_up(sample: Sample, source: ClassRaster) -> tuple[Codes, Floats | None]:
    """Return the map's class of each unit, (N,), and the size of its ground in m²; None without a CRS.

    Raises:
        DataError: the map has no class at a unit, or a block does not consist of whole pixels of the map.
    """
    grid, windows = source.grid, _windows(sample, source)
    codes, sizes = np.zeros(len(windows), np.int64), np.full(len(windows), np.nan)
    outside = 0
    for place in sorted(range(len(windows)), key=lambda number: windows[number].row_off):
        row, column, height, width = _inside(windows[place], grid)
        if height <= 0 or width <= 0:
            outside += 1
            continue
        values, empty = source.read(Window(column, row, width, height))
        if empty.all():
            outside += 1
            continue
        best, pixels = majority(values, empty, max(height, width))
        codes[place] = best[0, 0]
        if grid.crs is not None:
            areas = grid.pixel_areas(row, 1)[0]
            sizes[place] = areas[min(column, len(areas) - 1)] * pixels[0, 0]
    if outside:
        raise DataError(
            f"`{source.path}` has no class at {outside:,} of {len(windows):,} points of `{sample.path}`",
            hint="assess a map that covers all points",
        )
    return codes, None if grid.crs is None else sizes


def _on(sample: Sample, grid: Grid) -> "GeoDataFrame":
    frame = sample.frame
    return frame if frame.crs is None or grid.crs is None else frame.to_crs(grid.crs.to_wkt())


def _windows(sample: Sample, source: ClassRaster) -> list[Window]:
    """Return the pixels of each unit, which may lie outside of the map."""
    if sample.design is None or sample.design.block_pixels == 1:
        columns, rows = (np.floor(part).astype(int).tolist() for part in place_points(sample, source.grid))
        return [Window(column, row, 1, 1) for column, row in zip(columns, rows, strict=True)]
    outlines, to_pixels = _on(sample, source.grid).geometry.to_numpy(), ~source.grid.transform
    placed = shapely.transform(outlines, lambda xy: np.stack(to_pixels @ (xy[:, 0], xy[:, 1]), axis=1))
    corners = shapely.get_coordinates(placed)
    if np.abs(corners - corners.round()).max() > _TOLERANCE:
        raise DataError(
            f"the blocks of `{sample.path}` are not whole pixels of `{source.path}`",
            hint="assess a map on the grid of the map that the sample was drawn from",
        )
    edges = shapely.bounds(placed).round().astype(int).tolist()
    return [Window(left, top, right - left, bottom - top) for left, top, right, bottom in edges]


def _inside(window: Window, grid: Grid) -> tuple[int, int, int, int]:
    """Return first row and column, height and width of the part of a window that lies on a grid."""
    top, left = max(0, int(window.row_off)), max(0, int(window.col_off))
    bottom, right = (
        min(grid.height, int(window.row_off + window.height)),
        min(grid.width, int(window.col_off + window.width)),
    )
    return top, left, bottom - top, right - left
