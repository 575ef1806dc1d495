"""Count the pixels of each stratum, and find pixels by their number within a stratum.

The map is read twice, in cells of a few blocks. The first reading counts each cell. The second reads
only the cells in which points lie. So memory does not grow with the map, except for the counts.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.console import track
from cwsam_cli.maps.strips import ClassRaster
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.prefetch import prefetch

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Strata = Callable[[Window, NDArray[Any], NDArray[np.bool_]], tuple[NDArray[Any], NDArray[np.bool_]]]
"""From a window, its map codes and where they are missing: stratum values (H, W), and where there is none."""

_STRIP_PIXELS = 2**20
_CELL_COLUMNS = 256
_ROW_OF_BLOCKS = 2**25
"""Largest number of pixels in a row of blocks for which strips end where blocks end."""
_DENSE = 2**20
"""Largest range of values that is counted with one bin per value."""


@dataclass(frozen=True, slots=True)
class Population:
    """All pixels of a map, by stratum."""

    grid: Grid
    cells: tuple[Window, ...]
    values: Counts
    """The value of each stratum: a class code or the number of a region, (H,), ascending."""
    counts: Counts
    """Pixels by cell and stratum, (cells, H)."""
    areas_m2: Floats | None
    """Area of each stratum on the ground, (H,); None without a CRS."""
    sha256: str
    """Hash of the map's codes and grid."""

    @property
    def pixels(self) -> Counts:
        """Pixels of each stratum, (H,)."""
        return np.asarray(self.counts.sum(axis=0))


def classes_as_strata(
    window: Window, codes: NDArray[Any], empty: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the map's codes themselves: strata are classes."""
    return codes, empty


def count_population(source: ClassRaster, strata: Strata) -> Population:
    """Count the pixels of each stratum.

    Args:
        source: an open map.
        strata: see `Strata`.
    """
    grid, found = source.grid, []
    cells: list[Window] = []
    digest = hashlib.sha256(_identity(source).encode())
    for strip, codes, empty in _hashed(source, digest):
        values, none = strata(strip, codes, empty)
        areas = None if grid.crs is None or grid.pixel_area_m2 else _areas(grid, strip)
        for left in range(0, grid.width, columns := _columns(source)):
            part = np.s_[:, left : left + columns]
            cells.append(Window(left, strip.row_off, min(columns, grid.width - left), strip.height))
            found.append(_count(values[part], none[part], None if areas is None else areas[part]))
    every = np.unique(np.concatenate([values for values, *_ in found]))
    counts, ground = np.zeros((len(cells), len(every)), np.int64), np.zeros(len(every))
    for row, (values, pixels, area) in zip(counts, found, strict=True):
        places = np.searchsorted(every, values)
        row[places] = pixels
        ground[places] += area
    if grid.pixel_area_m2:
        ground = counts.sum(axis=0) * grid.pixel_area_m2
    return Population(grid, tuple(cells), every, counts, None if grid.crs is None else ground, digest.hexdigest())


def find_pixels(
    source: ClassRaster, strata: Strata, population: Population, wanted: dict[int, Counts]
) -> dict[int, tuple[Counts, Counts, Counts]]:
    """Find pixels by their numbers within their strata, counted cell by cell.

    Args:
        source: the same map as was counted.
        strata: the same strata.
        population: the counts.
        wanted: numbers of pixels, from 0, by the place of the stratum in `population.values`.

    Returns:
        By stratum, in the order of `wanted`: rows, columns and map codes.
    """
    jobs: dict[int, list[tuple[int, Counts, Counts]]] = {}
    result = {}
    for stratum, numbers in wanted.items():
        ends = np.cumsum(population.counts[:, stratum])
        where = np.searchsorted(ends, numbers, side="right")
        result[stratum] = tuple(np.zeros(len(numbers), np.int64) for _ in range(3))
        for cell in np.unique(where):
            places = np.flatnonzero(where == cell)
            before = ends[cell] - population.counts[cell, stratum]
            jobs.setdefault(int(cell), []).append((stratum, places, numbers[places] - before))
    order = sorted(jobs)
    windows = (population.cells[cell] for cell in order)
    for cell, (window, codes, empty) in zip(order, _read(source, windows, "drawing", len(order)), strict=True):
        values, none = strata(window, codes, empty)
        has_gaps = none.any()
        for stratum, places, numbers in jobs[cell]:
            chosen = values == population.values[stratum]
            inside = np.flatnonzero(chosen & ~none if has_gaps else chosen)[numbers]
            rows, columns = np.divmod(inside, codes.shape[1])
            for kept, new in zip(
                result[stratum], (rows + window.row_off, columns + window.col_off, codes[rows, columns]), strict=True
            ):
                kept[places] = new
    return result  # type: ignore[return-value] # tuples of three


def hash_of(source: ClassRaster) -> str:
    """Return the hash of a map's codes and grid, as `Population.sha256`."""
    digest = hashlib.sha256(_identity(source).encode())
    for _ in _hashed(source, digest):
        pass
    return digest.hexdigest()


def _hashed(source: ClassRaster, digest: Any) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    """Yield the whole map, and add it to a hash."""
    for window, codes, empty in _strips(source):
        digest.update(np.ascontiguousarray(codes))
        if source.has_mask:
            digest.update(np.packbits(empty))
        yield window, codes, empty


def _identity(source: ClassRaster) -> str:
    grid = source.grid
    wkt = grid.crs.to_wkt() if grid.crs else ""
    return repr((grid.width, grid.height, tuple(grid.transform)[:6], wkt, str(source.dtype), source.nodata))


def _strips(source: ClassRaster) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    """Yield the whole map from its first row to its last."""
    height, width = source.grid.height, source.grid.width
    rows = max(1, _STRIP_PIXELS // width)
    block = source.block_shape[0]
    if block * width <= _ROW_OF_BLOCKS:
        rows = block * max(1, rows // block)
    windows = [Window(0, top, width, min(rows, height - top)) for top in range(0, height, rows)]
    yield from _read(source, iter(windows), "counting", len(windows))


def _read(
    source: ClassRaster, windows: Iterator[Window], what: str, total: int
) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    stream = prefetch((window, *source.read(window)) for window in windows)
    source.readers.callback(stream.close)
    yield from track(stream, what, total=total, unit="part")


def _columns(source: ClassRaster) -> int:
    block = source.block_shape[1]
    return block * max(1, _CELL_COLUMNS // block)


def _areas(grid: Grid, strip: Window) -> NDArray[np.float64]:
    areas = grid.pixel_areas(strip.row_off, strip.height)
    return np.broadcast_to(areas, (strip.height, strip.width))


def _count(
    values: NDArray[Any], none: NDArray[np.bool_], areas: NDArray[np.float64] | None
) -> tuple[Counts, Counts, Floats]:
    """Count values where there are some: the values that occur, their pixels and their areas."""
    if none.any():
        values, areas = values[~none], areas[~none] if areas is not None else None
    flat = values.ravel()
    if not flat.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    weights = None if areas is None else areas.ravel()
    low = 0 if flat.dtype == np.uint8 else int(flat.min())
    if int(flat.max()) - low < _DENSE:
        places = flat if low == 0 else flat.astype(np.int64) - low
        counts = np.bincount(places)
        known = np.flatnonzero(counts)
        counts, ground = counts[known], np.zeros(0) if weights is None else np.bincount(places, weights)[known]
        known += low
    else:
        known, places, counts = np.unique(flat, return_inverse=True, return_counts=True)
        ground = np.zeros(0) if weights is None else np.bincount(places, weights)
    if weights is None:
        ground = np.zeros(len(known))
    return known.astype(np.int64), counts.astype(np.int64), ground.astype(np.float64)
