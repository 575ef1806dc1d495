"""Check that labels lie where their scenes lie, and say what is wrong if they do not."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from math import floor
from pathlib import Path

import pyogrio
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError
from rasterio.windows import Window

from cwsam_cli.console import log
from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import has_position
from cwsam_cli.raster.scene import open_raster
from cwsam_cli.tile.labels.bounds import Bounds, bounds_near, center, raster_place
from cwsam_cli.tile.labels.coco import CocoSource
from cwsam_cli.tile.labels.files import LabelSource
from cwsam_cli.tile.labels.vector import VectorSource

_SIDES = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")


def refuse_far_labels(scenes: Iterable[tuple[str, Grid, LabelSource]]) -> None:
    """Stop if all scenes lie outside the labels that they share, or if one lies outside its own; warn if some do.

    Args:
        scenes: path, grid and labels of each scene.

    Raises:
        DataError: the message says where the labels lie, the hint what may be wrong with them.
    """
    place_of = cache(raster_place)
    by_source: dict[LabelSource, list[tuple[str, Grid]]] = {}
    for path, grid, source in scenes:
        if grid.crs is not None and not isinstance(source, CocoSource):  # annotations are in pixels
            by_source.setdefault(source, []).append((path, grid))
    for source, own in by_source.items():
        places = _places(source, place_of)
        if places is None:
            _refuse_unplaced(source, len(own))
            continue
        outside = [(path, grid) for path, grid in own if not any(_is_near(grid, *place) for place in places)]
        if len(outside) == len(own):
            raise _far_labels(source, places, *outside[0])
        if outside:
            log.warning(
                "%d of %d scenes lie outside the labels, such as `%s`: they give no tiles",
                len(outside),
                len(own),
                outside[0][0],
            )


def _places(
    source: LabelSource, place_of: Callable[[Path], tuple[Bounds, str] | None]
) -> list[tuple[Bounds, str]] | None:
    """Return the bounds of labels with their CRS as WKT; None if they have no CRS or no bounds."""
    if isinstance(source, VectorSource):
        info = pyogrio.read_info(source.path, layer=source.layer, force_total_bounds=True)
        bounds = info["total_bounds"]
        return [(tuple(bounds), CRS.from_user_input(info["crs"]).to_wkt())] if bounds is not None else None
    found = []
    for path in source.paths:
        place = place_of(path)
        if place is None:
            return None
        found.append(place)
    return found


def _refuse_unplaced(source: LabelSource, scenes: int) -> None:
    """Stop if a raster without a position would be the label of several scenes."""
    if isinstance(source, VectorSource) or scenes == 1:
        return
    for path in source.paths:
        with open_raster(path) as dataset:
            if not has_position(Grid.of(dataset)):
                raise DataError(
                    f"`{path}` has no position, so it cannot be the label of {scenes} scenes",
                    hint="give each scene its label: a folder with the scenes' names, or --labels-for",
                )


def _is_near(grid: Grid, bounds: Bounds, wkt: str) -> bool:
    """Return whether bounds in a CRS overlap a grid. A grid that has no place in the CRS overlaps everything."""
    west, south, east, north = bounds
    assert grid.crs is not None
    if grid.crs.to_wkt() == wkt:
        x, y = zip(*grid.corners(Window(0, 0, grid.width, grid.height)), strict=True)
        if min(x) <= east and max(x) >= west and min(y) <= north and max(y) >= south:
            return True  # most labels have the CRS of their scene
    return any(
        near is None or (near[0] <= east and near[2] >= west and near[1] <= north and near[3] >= south)
        for near in bounds_near(grid, wkt, 0.0)
    )


def _far_labels(source: LabelSource, places: Sequence[tuple[Bounds, str]], scene: str, grid: Grid) -> DataError:
    bounds, wkt = places[0]
    where = _offset(grid, bounds, wkt)
    hint = next(_explanations(grid, bounds, wkt), "are these the labels of this scene?")
    return DataError(f"`{source.paths[0]}` does not overlap `{scene}`{where}", hint=hint)


def _offset(grid: Grid, bounds: Bounds, wkt: str) -> str:
    """Return a phrase with the distance and direction from the scene's centre to that of the labels."""
    west, south, east, north = bounds
    try:
        to_degrees = Transformer.from_crs(wkt, "EPSG:4326", always_xy=True)
    except ProjError:
        return ""
    place = to_degrees.transform((west + east) / 2, (south + north) / 2)
    bearing, _, distance = Geod(ellps="WGS84").inv(*center(grid), *place)
    if not abs(distance) < 1e9:  # infinite or NaN: the labels are not on the Earth
        return "; no place on the Earth has its coordinates"
    side = _SIDES[floor((bearing % 360) / 45 + 0.5) % 8]
    return f": its centre lies {float(f'{distance / 1000:.3g}'):,g} km to the {side} of the scene's"


def _explanations(grid: Grid, bounds: Bounds, wkt: str) -> Iterator[str]:
    """Yield what would bring the labels onto the scene, the simplest first."""
    west, south, east, north = bounds
    swapped = (south, west, north, east)
    if _is_near(grid, swapped, wkt):
        yield "they overlap if x and y change places: are its axes swapped?"
    longitude, latitude = center(grid)
    if CRS.from_wkt(wkt).is_geographic:
        across, up = round(longitude - (west + east) / 2), round(latitude - (south + north) / 2)
        if _is_near(grid, (west + across, south + up, east + across, north + up), wkt):
            yield f"they overlap if the labels are moved by {across:+d}° of longitude and {up:+d}° of latitude"
    zone = floor((longitude + 180) / 6) % 60 + 1
    assert grid.crs is not None
    own = grid.crs.to_epsg()
    for code in dict.fromkeys((own or grid.crs.to_wkt(), 4326, 3857, 32600 + zone, 32700 + zone)):
        other = CRS.from_user_input(code).to_wkt()
        name = f"EPSG:{code}" if isinstance(code, int) else "that of the scene"
        if _is_near(grid, bounds, other):
            yield f"they overlap if its CRS is {name}, not {CRS.from_wkt(wkt).name}: is its CRS right?"
        if _is_near(grid, swapped, other):
            yield f"they overlap if its CRS is {name} and x and y change places: is its CRS right?"
