"""Compare the ground of tiles of different splits: shared area and nearest distance."""

from collections.abc import Sequence
from dataclasses import dataclass

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.audit.tiles import TileFacts
from cwsam_cli.vector.distances import near_pairs, nearest_distances, share_ground, to_metres

_TOLERANCE = 1e-3
"""Share by which areas can differ, for rounding between CRSs."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Outlines of tiles in one plane, or in degrees."""

    numbers: NDArray[np.int64]
    """Numbers of the tiles."""
    shapes: NDArray[np.object_]
    unit_m: float
    """Metres per unit of the plane; 1 without a CRS."""
    in_degrees: bool
    has_crs: bool
    strips: NDArray[np.float64]
    """Share of each tile that a strip of the width of a pixel takes."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """How the ground of one split lies to that of another one."""

    shared_m2: float
    """Ground of the first split that the second one shows, too, in m²."""
    nearest_m: float | None
    """Smallest distance of two tiles in metres; None if no tile has a position."""
    example: tuple[int, int] | None
    """Numbers of two tiles that share ground."""


def draw_outlines(tiles: Sequence[TileFacts]) -> list[Outlines]:
    """Return the outlines of tiles with a position. Tiles without CRS form a group of their own."""
    groups = []
    for has_crs in (True, False):
        own = [
            (number, tile.grid)
            for number, tile in enumerate(tiles)
            if tile.grid is not None and (tile.grid.crs is not None) == has_crs
        ]
        if not own:
            continue
        shapes = [shapely.Polygon(grid.corners(Window(0, 0, grid.width, grid.height))) for _, grid in own]
        crs = [grid.crs.to_wkt() if grid.crs else None for _, grid in own]
        drawn = np.array(shapes, object)
        grid = own[0][1]
        in_degrees = len(set(crs)) > 1 or grid.is_geographic
        if in_degrees:
            for wkt in set(crs):
                here = np.array([each == wkt for each in crs])
                drawn[here] = geopandas.GeoSeries(drawn[here], crs=wkt).to_crs("EPSG:4326").to_numpy()
        unit = 1.0 if in_degrees else grid.unit_m or 1.0
        strips = np.array([1 / min(each.width, each.height) for _, each in own])
        groups.append(Outlines(np.array([number for number, _ in own]), drawn, unit, in_degrees, has_crs, strips))
    return groups


def compare(groups: Sequence[Outlines], splits: NDArray[np.str_], one: str, other: str) -> Meeting:
    """Compare the ground of two splits. A strip of the width of a pixel does not count, as in `cwsam tile`.

    Args:
        groups: outlines of all tiles.
        splits: the split of each tile.
        one: the first split.
        other: the second split.
    """
    shared, nearest, example = 0.0, None, None
    for group in groups:
        own = splits[group.numbers]
        first, second = np.flatnonzero(own == one), np.flatnonzero(own == other)
        if not len(first) or not len(second):
            continue
        ours, theirs = near_pairs(group.shapes[first], group.shapes[second], np.zeros(len(first)), in_degrees=False)
        ours, theirs = first[ours], second[theirs]
        real = np.ones(len(ours), bool)
        for one_of, other_of in ((ours, theirs), (theirs, ours)):
            strips = (1 + _TOLERANCE) * group.strips[other_of]
            real &= share_ground(group.shapes[one_of], group.shapes[other_of], strips, in_degrees=group.in_degrees)
        ours, theirs = ours[real], theirs[real]
        if len(ours):
            parts = shapely.intersection(group.shapes[ours], group.shapes[theirs])
            pieces = shapely.get_parts(shapely.union_all(parts))
            if group.in_degrees:
                pieces, _ = to_metres(pieces, pieces)
            shared += float(shapely.area(pieces).sum()) * group.unit_m**2
            example = example or (int(group.numbers[ours[0]]), int(group.numbers[theirs[0]]))
        distance = float(nearest_of(group, first, second).min())
        nearest = distance if nearest is None else min(nearest, distance)
    return Meeting(shared, nearest, example)


def shortest_pixel_m(group: Outlines, tiles: Sequence[TileFacts]) -> float:
    """Return the shortest side of any pixel of a group of tiles, in metres."""
    shapes = to_metres(group.shapes, group.shapes)[0] if group.in_degrees else group.shapes
    corners = shapely.get_coordinates(shapes).reshape(-1, 5, 2)
    sides = np.linalg.norm(np.diff(corners, axis=1), axis=2)[:, :2] * group.unit_m
    grids = [tile.grid for number in group.numbers.tolist() if (tile := tiles[number]).grid is not None]
    return float((sides / [(grid.width, grid.height) for grid in grids]).min())


def nearest_of(group: Outlines, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance in metres of each of our tiles to the nearest of theirs (N,).

    Args:
        group: outlines.
        ours: places of our tiles in the group.
        theirs: places of their tiles in the group.
    """
    return nearest_distances(group.shapes[ours], group.shapes[theirs], in_degrees=group.in_degrees) * group.unit_m
