"""Count the units of each stratum, and find units by their number within a stratum.

A unit is a pixel, or a block of n × n pixels. Blocks are counted from the map's first row and column. At the right and
lower edge they are smaller. A block is of the stratum, and of the class, that most of its pixels have; of equally
frequent ones the smallest. Pixels without a stratum are not part of a block's ground.

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
_PAIRS = 2**17
"""Fewest bytes that are counted in pairs. Fewer take less time than adding up the counts of 65,536 pairs."""


@dataclass(frozen=True, slots=True)
class Population:
    """All pixels of a map, by stratum."""

    grid: Grid
    cells: tuple[Window, ...]
    values: Counts
    """The value of each stratum: a class code or the number of a region, (H,), ascending."""
    counts: Counts
    """Units by cell and stratum, (cells, H)."""
    pixels: Counts
    """Pixels of each stratum, (H,)."""
    areas_m2: Floats | None
    """Area of each stratum on the ground, (H,); None without a CRS."""
    sha256: str
    """Hash of the map's codes and grid."""
    outside: int
    """Pixels of the map that lie in no stratum."""
    side: int
    """Side of a unit in pixels."""

    @property
    def units(self) -> Counts:
        """Units of each stratum, (H,)."""
        return np.asarray(self.counts.sum(axis=0))


@dataclass(frozen=True, slots=True)
class Found:
    """Units that were found, (n,) each."""

    rows: Counts
    columns: Counts
    """First row and column of each unit."""
    codes: Counts
    """The map's class; of a block, the most frequent one."""
    pixels: Counts
    """Pixels of the unit's ground."""


def classes_as_strata(
    window: Window, codes: NDArray[Any], empty: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the map's codes themselves: strata are classes."""
    return codes, empty


def count_population(source: ClassRaster, strata: Strata, side: int = 1) -> Population:
    """Count the units of each stratum.

    Args:
        source: an open map.
        strata: see `Strata`.
        side: side of a unit in pixels.
    """
    grid, found = source.grid, []
    cells: list[Window] = []
    digest, outside = _MapHash.of(source), 0
    is_uneven = grid.crs is not None and not grid.pixel_area_m2
    for strip, codes, empty in _hashed(source, digest, side):
        values, none = strata(strip, codes, empty)
        if none is not empty:
            outside += int(np.count_nonzero(none)) - int(np.count_nonzero(empty))
        areas = _areas(grid, strip) if is_uneven else None
        for left in range(0, grid.width, columns := _columns(source, side)):
            part = np.s_[:, left : left + columns]
            cells.append(Window(left, strip.row_off, min(columns, grid.width - left), strip.height))
            found.append(_count(values[part], none[part], None if areas is None else areas[part], side))
    every = np.unique(np.concatenate([values for values, *_ in found]))
    counts, pixels, ground = np.zeros((len(cells), len(every)), np.int64), np.zeros(len(every)), np.zeros(len(every))
    for row, (values, units, cover, area) in zip(counts, found, strict=True):
        places = np.searchsorted(every, values)
        row[places] = units
        pixels[places] += cover
        ground[places] += area
    if grid.pixel_area_m2:
        ground = pixels * grid.pixel_area_m2
    return Population(
        grid=grid,
        cells=tuple(cells),
        values=every,
        counts=counts,
        pixels=pixels.astype(np.int64),
        areas_m2=None if grid.crs is None else ground,
        sha256=digest.hexdigest(),
        outside=outside,
        side=side,
    )


def find_units(
    source: ClassRaster, strata: Strata, population: Population, wanted: dict[int, Counts]
) -> dict[int, Found]:
    """Find units by their numbers within their strata, counted cell by cell.

    Args:
        source: the same map as was counted.
        strata: the same strata.
        population: the counts.
        wanted: numbers of units, from 0, by the place of the stratum in `population.values`.

    Returns:
        The units by stratum, in the order of `wanted`.
    """
    jobs: dict[int, list[tuple[int, Counts, Counts]]] = {}
    result, side = {}, population.side
    for stratum, numbers in wanted.items():
        ends = np.cumsum(population.counts[:, stratum])
        where = np.searchsorted(ends, numbers, side="right")
        result[stratum] = Found(*(np.zeros(len(numbers), np.int64) for _ in range(4)))
        for cell in np.unique(where):
            places = np.flatnonzero(where == cell)
            before = ends[cell] - population.counts[cell, stratum]
            jobs.setdefault(int(cell), []).append((stratum, places, numbers[places] - before))
    order = sorted(jobs)
    windows = (population.cells[cell] for cell in order)
    for cell, (window, codes, empty) in zip(order, _read(source, windows, "drawing", len(order)), strict=True):
        values, none = strata(window, codes, empty)
        pixels: NDArray[Any] = ~none
        if side > 1:
            codes, _ = majority(codes, none, side)
            values, pixels = majority(values, none, side)
        has_gaps = not pixels.all()
        for stratum, places, numbers in jobs[cell]:
            chosen = values == values.dtype.type(population.values[stratum])  # int64 would convert all pixels
            inside = np.flatnonzero(chosen & (pixels > 0) if has_gaps else chosen)[numbers]
            rows, columns = np.divmod(inside, codes.shape[1])
            own = result[stratum]
            own.rows[places], own.columns[places] = rows * side + window.row_off, columns * side + window.col_off
            own.codes[places], own.pixels[places] = codes[rows, columns], pixels[rows, columns]
    return result


def majority(values: NDArray[Any], none: NDArray[np.bool_], side: int) -> tuple[NDArray[Any], Counts]:
    """Return the most frequent value of each block, and the number of its pixels that have a value.

    Args:
        values: whole numbers (H, W).
        none: where there is no value, (H, W).
        side: rows and columns of a block; blocks at the right and lower edge may be smaller.
    """
    height, width = values.shape
    rows, columns = -(-height // side), -(-width // side)
    known = ~none
    if not known.any():
        return np.zeros((rows, columns), values.dtype), np.zeros((rows, columns), np.int64)
    every, places = _places(values[known])
    occurring = np.flatnonzero(np.bincount(places))
    lookup = np.zeros(len(every), np.int64)
    lookup[occurring] = np.arange(len(occurring))
    every, places = every[occurring], lookup[places]
    blocks = (np.arange(height) // side * columns)[:, None] + np.arange(width) // side
    counts = np.bincount(blocks[known] * len(every) + places, minlength=rows * columns * len(every))
    counts = counts.reshape(rows, columns, len(every))
    return every[counts.argmax(axis=2)].astype(values.dtype), counts.sum(axis=2)


def hash_of(source: ClassRaster) -> str:
    """Return the hash of a map's codes and grid, as `Population.sha256`."""
    digest = _MapHash.of(source)
    for _ in _hashed(source, digest):
        pass
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _MapHash:
    """Hash of a map. Codes and mask have hashes of their own, so the result does not depend on how strips are cut."""

    codes: Any
    mask: Any
    """None if a value says where there is no data."""

    @classmethod
    def of(cls, source: ClassRaster) -> "_MapHash":
        return cls(hashlib.sha256(_identity(source).encode()), hashlib.sha256() if source.has_mask else None)

    def update(self, codes: NDArray[Any], empty: NDArray[np.bool_]) -> None:
        self.codes.update(np.ascontiguousarray(codes))
        if self.mask is not None:
            self.mask.update(np.ascontiguousarray(empty))

    def hexdigest(self) -> str:
        own: str = self.codes.hexdigest()
        return own if self.mask is None else hashlib.sha256((own + self.mask.hexdigest()).encode()).hexdigest()


def _hashed(
    source: ClassRaster, digest: _MapHash, side: int = 1
) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    """Yield the whole map, and add it to a hash."""
    for window, codes, empty in _strips(source, side):
        digest.update(codes, empty)
        yield window, codes, empty


def _identity(source: ClassRaster) -> str:
    grid = source.grid
    wkt = grid.crs.to_wkt() if grid.crs else ""
    return repr((grid.width, grid.height, tuple(grid.transform)[:6], wkt, str(source.dtype), source.nodata))


def _strips(source: ClassRaster, side: int) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    """Yield the whole map from its first row to its last, in strips that end where units end."""
    height, width = source.grid.height, source.grid.width
    rows = max(1, _STRIP_PIXELS // width)
    block = source.block_shape[0]
    if block * width <= _ROW_OF_BLOCKS:
        rows = block * max(1, rows // block)
    rows = side * max(1, rows // side)
    windows = [Window(0, top, width, min(rows, height - top)) for top in range(0, height, rows)]
    yield from _read(source, iter(windows), "counting", len(windows))


def _read(
    source: ClassRaster, windows: Iterator[Window], what: str, total: int
) -> Iterator[tuple[Window, NDArray[Any], NDArray[np.bool_]]]:
    stream = prefetch((window, *source.read(window)) for window in windows)
    source.readers.callback(stream.close)
    yield from track(stream, what, total=total, unit="part")


def _columns(source: ClassRaster, side: int) -> int:
    block = source.block_shape[1]
    return side * -(-block * max(1, _CELL_COLUMNS // block) // side)


def _areas(grid: Grid, strip: Window) -> NDArray[np.float64]:
    areas = grid.pixel_areas(strip.row_off, strip.height)
    return np.broadcast_to(areas, (strip.height, strip.width))


def _count(
    values: NDArray[Any], none: NDArray[np.bool_], areas: Floats | None, side: int
) -> tuple[Counts, Counts, Floats, Floats]:
    """Count units where there are some: the values that occur, their units, their pixels and their areas."""
    pixels = None
    if side > 1:
        if areas is not None:
            areas = _sum_blocks(np.where(none, 0.0, areas), side)
        values, pixels = majority(values, none, side)
        none = pixels == 0
    if none.any():
        cover = ~none
        values = values[cover]
        areas = None if areas is None else areas[cover]
        pixels = None if pixels is None else pixels[cover]
    if not values.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    every, places = _places(values)
    units = _count_bytes(places) if places.dtype == np.uint8 and places.size >= _PAIRS else np.bincount(places)
    known = np.flatnonzero(units)
    amounts = units if pixels is None else np.bincount(places, pixels.ravel())
    ground = np.zeros(len(every)) if areas is None else np.bincount(places, areas.ravel())
    return every[known], units[known], amounts[known].astype(np.float64), ground[known].astype(np.float64)


def _count_bytes(values: NDArray[np.integer]) -> Counts:
    """Count bytes (n,) by value, (256,). Two bytes read as one number count in half the time."""
    even = len(values) // 2 * 2
    pairs = np.bincount(values[:even].view(np.uint16), minlength=2**16).reshape(256, 256)
    counts: Counts = pairs.sum(axis=0) + pairs.sum(axis=1)
    counts[values[even:]] += 1
    return counts


def _sum_blocks(values: Floats, side: int) -> Floats:
    rows, columns = (np.arange(0, length, side) for length in values.shape)
    return np.asarray(np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1))


def _places(values: NDArray[Any]) -> tuple[Counts, NDArray[np.integer]]:
    """Return ascending values, which need not all occur, and the place of each given value among them, (n,)."""
    flat = values.ravel()
    low = 0 if flat.dtype == np.uint8 else int(flat.min())
    span = int(flat.max()) - low + 1
    if span > _DENSE:
        return np.unique(flat.astype(np.int64), return_inverse=True)
    return np.arange(low, low + span), flat if low == 0 else flat.astype(np.int64) - low
