"""Everything that is decided about a mosaic before pixels are read: its grid, its classes, its tiles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import rasterio.warp
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.mosaic.catalogue import SourceMap, inspect_maps
from cwsam_cli.mosaic.classes import recoding, unite
from cwsam_cli.mosaic.request import MapsRequest, MosaicRequest, Rule, Step
from cwsam_cli.raster.grid import ALIGNED, Grid, has_same_wkt
from cwsam_cli.raster.place import refuse_enormous
from cwsam_cli.taxonomy import Taxonomy

if TYPE_CHECKING:
    from cwsam_cli.vector.area import AreaOfInterest

_EDGE_POINTS = 200
"""Points on each edge of a map that are transformed. Of an edge of 350 km at 50° north, they miss at most 0.1 m."""
_MAX_SIDE = 2**31 - 1
Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedMap:
    """A map and its place in the mosaic."""

    source: SourceMap
    recoding: NDArray[np.int16]
    """See `recoding`."""
    window: Window
    """The pixels of the mosaic that the map may show. It may exceed the mosaic."""
    is_aligned: bool
    """Whether its pixels are pixels of the mosaic, so that nothing is resampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A part of the mosaic that becomes one file."""

    name: str
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Maps on one grid."""

    grid: Grid
    taxonomy: Taxonomy
    maps: tuple[PlacedMap, ...]
    """Those that touch the ground that counts, in the order of the command line, or of their dates."""
    area: "AreaOfInterest | None"
    """Polygons outside of which nothing counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicPlan(Placement):
    """A mosaic, decided in every respect."""

    request: MosaicRequest
    tiles: tuple[Tile, ...]
    """Parts that become files; empty if the mosaic is one file."""


def make_plan(request: MosaicRequest) -> MosaicPlan:
    """Look at all maps and decide how they become a mosaic.

    Raises:
        DataError, UsageError: see `place_maps`; or the tiles' size does not fit the CRS.
    """
    placed = place_maps(request, request.by)
    tiles = tuple(_cut_tiles(placed.grid, request.tile)) if request.tile else ()
    return MosaicPlan(
        grid=placed.grid,
        taxonomy=placed.taxonomy,
        maps=placed.maps,
        area=placed.area,
        request=request,
        tiles=tiles,
    )


def place_maps(request: MapsRequest, rule: Rule) -> Placement:
    """Look at all maps and decide on their common grid and classes.

    Args:
        request: the maps.
        rule: how classes are chosen where maps overlap; it decides what a map must have.

    Raises:
        DataError: a raster is not a map, class tables contradict each other, or no map touches the cutline.
        UsageError: the CRS is not known, or the pixel size does not fit it.
    """
    sources = inspect_maps(request.maps, rule)
    taxonomy = unite([(source.path, source.taxonomy) for source in sources])
    crs = _target_crs(request, sources[0])
    bounds = [_bounds_on(source, crs) for source in sources]
    grid = _grid_over(bounds, crs, *_lattice(request, sources[0], crs))
    if max(grid.width, grid.height) > _MAX_SIDE:
        raise UsageError(f"the mosaic would have {grid.width:,} × {grid.height:,} pixels", hint="give a larger --res")
    area = None
    if request.cutline:
        grid, area = _cut(request.cutline, grid)
    maps = [
        _place(source, edges, grid, recoding(source.taxonomy, taxonomy))
        for source, edges in zip(sources, bounds, strict=True)
    ]
    if area is not None:
        maps = [placed for placed in maps if area.touches(placed.window)]
        if not maps:
            raise DataError(
                f"no map lies inside the polygons of `{request.cutline}`", hint="check that both show the same ground"
            )
    if rule == "date":
        maps.sort(key=lambda placed: str(placed.source.day))  # stable: of the same day, the later one wins
    return Placement(grid=grid, taxonomy=taxonomy, maps=tuple(maps), area=area)


def _target_crs(request: MapsRequest, first: SourceMap) -> CRS:
    if request.crs is None:
        return first.grid.crs
    try:
        return CRS.from_user_input(request.crs)
    except CRSError:
        raise UsageError(f"--crs `{request.crs}` is not a known CRS", hint="for example: --crs EPSG:3035") from None


def _is_same(one: CRS | None, other: CRS | None) -> bool:
    assert one is not None and other is not None
    return has_same_wkt(one.to_wkt(), other.to_wkt())


def _bounds_on(source: SourceMap, crs: CRS) -> Bounds:
    """Return a map's west, south, east and north in the mosaic's CRS; east is larger than 180° beyond that meridian."""
    own = source.grid
    x, y = zip(*own.corners(Window(0, 0, own.width, own.height)), strict=True)
    bounds = min(x), min(y), max(x), max(y)
    if not _is_same(own.crs, crs):
        try:
            west, south, east, north = rasterio.warp.transform_bounds(own.crs, crs, *bounds, densify_pts=_EDGE_POINTS)
        except rasterio.errors.RasterioError:
            west = math.inf
        if not np.isfinite(west):
            raise DataError(
                f"`{source.path}` does not fit into the mosaic's CRS", hint="choose a CRS for the whole region: --crs"
            )
        bounds = west, south, east + 360 if crs.is_geographic and east < west else east, north
    return bounds


def _lattice(request: MapsRequest, first: SourceMap, crs: CRS) -> tuple[float, float, float, float]:
    """Return the pixels' width and height and a corner of one of them, in the CRS.

    The corner is one of the first map's pixels if the mosaic has its pixels, otherwise 0, 0.
    """
    own, same = first.grid, _is_same(first.grid.crs, crs)
    if request.pixel is not None:
        size = _in_units(request.pixel, crs, "--res")
        return size, size, 0.0, 0.0
    t = own.transform
    if same and t.b == t.d == 0:
        return abs(t.a), abs(t.e), t.c, t.f
    if same:
        return math.hypot(t.a, t.d), math.hypot(t.b, t.e), 0.0, 0.0
    x, y = zip(*own.corners(Window(0, 0, own.width, own.height)), strict=True)
    made = rasterio.warp.calculate_default_transform(
        own.crs, crs, own.width, own.height, min(x), min(y), max(x), max(y)
    )
    return abs(made[0].a), abs(made[0].e), 0.0, 0.0


def _in_units(step: Step, crs: CRS, option: str) -> float:
    """Return a distance in the units of a CRS.

    Raises:
        UsageError: it is in degrees and the CRS in metres, or the other way round.
    """
    grid = Grid(crs, Affine.identity(), 1, 1)
    if step.in_degrees != grid.is_geographic:
        unit, example = ("degrees", "1deg") if grid.is_geographic else ("metres", "30m")
        raise UsageError(f"{option}: the mosaic's CRS is in {unit}", hint=f"for example: {option} {example}")
    return step.value / (grid.in_degrees.a if step.in_degrees else grid.unit_m or 1.0)


def _grid_over(bounds: Sequence[Bounds], crs: CRS, width: float, height: float, x: float, y: float) -> Grid:
    """Return the smallest grid with pixels of a size, one of whose corners is at x, y, that covers all bounds."""
    west, south, east, north = zip(*bounds, strict=True)
    left, right = _outwards((min(west) - x) / width, (max(east) - x) / width)
    top, bottom = _outwards((y - max(north)) / height, (y - min(south)) / height)
    transform = Affine(width, 0, x + left * width, 0, -height, y - top * height)
    refuse_enormous(right - left, bottom - top, "the mosaic", "larger pixels: --res; ")
    return Grid(crs, transform, right - left, bottom - top)


def _outwards(low: float, high: float) -> tuple[int, int]:
    return math.floor(low + ALIGNED), math.ceil(high - ALIGNED)


def _cut(cutline: Path, grid: Grid) -> tuple[Grid, "AreaOfInterest"]:
    """Return the part of a grid around the cutline's polygons, and the polygons on it."""
    from cwsam_cli.vector.area import AreaOfInterest, read_area  # geopandas is slow to import

    area = read_area(cutline, grid, raster="the maps")
    part = grid.part(grid.within(shapely.total_bounds(area.polygons.geometries).tolist()))
    return part, AreaOfInterest(area.polygons, part)


def _place(source: SourceMap, bounds: Bounds, grid: Grid, table: NDArray[np.int16]) -> PlacedMap:
    inverse = ~grid.transform
    (left, top), (right, bottom) = inverse @ (bounds[0], bounds[3]), inverse @ (bounds[2], bounds[1])
    first_column, end_column = _outwards(left, right)
    first_row, end_row = _outwards(top, bottom)
    t = source.grid.transform
    drift = max(
        abs(t.a / grid.transform.a - 1) * source.grid.width, abs(t.e / grid.transform.e - 1) * source.grid.height
    )
    is_aligned = (
        _is_same(source.grid.crs, grid.crs)
        and t.b == t.d == 0
        and max(drift, abs(left - round(left)), abs(top - round(top))) < ALIGNED
    )
    margin = 0 if is_aligned else 1  # the bounds of a curved edge are a little too narrow
    window = Window(
        first_column - margin,
        first_row - margin,
        end_column - first_column + 2 * margin,
        end_row - first_row + 2 * margin,
    )
    return PlacedMap(source=source, recoding=table, window=window, is_aligned=is_aligned)


def _cut_tiles(grid: Grid, step: Step) -> list[Tile]:
    """Return tiles whose edges lie at multiples of a distance, moved to the nearest pixel edge."""
    size = _in_units(step, grid.crs, "--by-tile")
    if size < max(grid.transform.a, -grid.transform.e):
        raise UsageError("--by-tile: a tile would be smaller than a pixel", hint="for example: --by-tile 100km")
    unit = "deg" if step.in_degrees else "km"
    shown = step.value if step.in_degrees else step.value / 1e3
    t = grid.transform
    columns = _edges(t.c, t.c + grid.width * t.a, size)
    rows = _edges(t.f + grid.height * t.e, t.f, size)
    tiles = []
    for south, north in reversed(list(pairwise(rows))):
        top, bottom = (min(max(round((edge * size - t.f) / t.e), 0), grid.height) for edge in (north, south))
        for west, east in pairwise(columns):
            left, right = (min(max(round((edge * size - t.c) / t.a), 0), grid.width) for edge in (west, east))
            if left < right and top < bottom:
                name = f"x{west * shown:g}{unit}_y{south * shown:g}{unit}.tif"
                tiles.append(Tile(name=name, window=Window(left, top, right - left, bottom - top)))
    return tiles


def _edges(low: float, high: float, size: float) -> range:
    return range(math.floor(low / size), math.ceil(high / size) + 1)
