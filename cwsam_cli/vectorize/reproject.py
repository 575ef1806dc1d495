"""Bring polygons into another CRS so that neighbours still share their borders.

An edge that is straight on the map's grid is a curve elsewhere: long edges get more vertices
first, the same ones from whichever side the edge is drawn.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely.affinity import translate

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.vectorize.polygonize import Regions

Floats = NDArray[np.float64]

LONGEST = 16
"""Pixels of an edge without a vertex."""


def densify(regions: Regions) -> Regions:
    """The same regions with a vertex every `LONGEST` pixels, in pixels."""
    xy, offsets = _densified(regions.xy, regions.ring_offsets)
    return replace(regions, xy=xy, ring_offsets=offsets)


def densify_edges(edges: Floats) -> Floats:
    """The same for single edges (M, 2, 2)."""
    xy, offsets = _densified(edges.reshape(-1, 2), np.arange(0, 2 * len(edges) + 1, 2))
    inner = np.ones(max(0, len(xy) - 1), bool)
    inner[offsets[1:-1] - 1] = False
    return np.stack([xy[:-1][inner], xy[1:][inner]], axis=1)


def _densified(xy: Floats, offsets: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    following = np.roll(xy, -1, axis=0)
    last = np.zeros(len(xy), bool)
    last[offsets[1:] - 1] = True
    pieces = np.ceil(np.hypot(*(following - xy).T) / LONGEST).astype(np.int64).clip(1)
    pieces[last] = 1
    starts = np.concatenate([[0], np.cumsum(pieces)])
    index = np.repeat(np.arange(len(xy)), pieces)
    step = np.arange(starts[-1]) - starts[index]
    # Counted from the edge's smaller end, so that both sides find the same numbers.
    swapped = (xy[:, 0] > following[:, 0]) | ((xy[:, 0] == following[:, 0]) & (xy[:, 1] > following[:, 1]))
    low = np.where(swapped[:, None], following, xy)[index]
    high = np.where(swapped[:, None], xy, following)[index]
    share = np.where(swapped[index], pieces[index] - step, step) / pieces[index]
    dense = low + (high - low) * share[:, None]
    dense[starts[:-1]] = xy
    return dense, starts[offsets]


def crs_of(text: str) -> CRS:
    """A CRS as a user names it.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return CRS.from_user_input(text)
    except ProjError as error:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        reason = str(error).rpartition("Internal Proj Error: ")[2].rstrip(")")
        raise UsageError(f"--dst-crs `{shown}` is not a CRS: {reason}", hint="for example: EPSG:3035") from None


class Reprojection:
    """From the map's CRS to another.

    Raises:
        DataError: there is no way there, as from an engineering CRS.
    """

    def __init__(self, source: CRS, target: CRS) -> None:
        self._name, self._is_geographic = target.name, target.is_geographic
        try:
            self._transformer = Transformer.from_crs(source, target, always_xy=True)
        except ProjError:
            raise DataError(
                f"there is no way from the map's CRS, {source.name}, to {target.name}",
                hint="write a .gpkg or .fgb without --dst-crs: it keeps the map's own",
            ) from None

    def __call__(self, xy: Floats) -> Floats:
        """Points (N, 2) there.

        Raises:
            DataError: some have no place there.
        """
        moved = np.stack(self._transformer.transform(xy[:, 0], xy[:, 1]), axis=1)
        if not np.isfinite(moved).all():
            x, y = xy[~np.isfinite(moved).all(axis=1)][0]
            raise DataError(
                f"the map's point {x:.10g}, {y:.10g} has no place in {self._name}",
                hint="choose a CRS for the map's part of the world",
            )
        return moved

    def jumps(self, line: Floats) -> bool:
        """Whether a line of near points (N, 2) jumps there from one end of the longitudes to the other."""
        longitudes = np.asarray(self._transformer.transform(line[:, 0], line[:, 1])[0])
        steps = np.abs(np.diff(np.where(np.isfinite(longitudes), longitudes, np.nan)))
        return self._is_geographic and bool((steps > 180).any())


def split_at_antimeridian(geometries: NDArray[Any], *, wrapped: bool) -> NDArray[Any]:
    """Cut (multi)polygons in degrees where they leave the globe's rectangle, as RFC 7946 (3.1.9) asks.

    Args:
        geometries: any number.
        wrapped: longitudes jump at the antimeridian, as a projection has them; a ring round a
            pole then takes in the nearer one. Else they go on beyond 180.
    """
    split = geometries.copy()
    west, _, east, _ = shapely.bounds(geometries).T
    for i in np.flatnonzero(east - west > 180 if wrapped else (west < -180) | (east > 180)):
        parts = [part for polygon in shapely.get_parts(geometries[i]) for part in _on_globe(polygon, wrapped)]
        split[i] = shapely.multipolygons(parts)
    return split


def _on_globe(polygon: shapely.Polygon, wrapped: bool) -> list[shapely.Polygon]:
    outer, *holes = (_cut(shapely.get_coordinates(ring), wrapped) for ring in shapely.get_rings(polygon))
    return _polygons(shapely.difference(outer, shapely.union_all(holes)) if holes else outer)


def _cut(ring: Floats, wrapped: bool) -> Any:
    """What a ring encloses, within the globe's rectangle."""
    if wrapped:
        turns = np.cumsum(np.round(np.diff(ring[:, 0], prepend=ring[0, 0]) / 360))
        ring = ring - np.stack([360 * turns, np.zeros(len(ring))], axis=1)
        if turns[-1] != 0:  # the ring runs round a pole
            pole = np.copysign(90, ring[:, 1].mean())
            ring = np.concatenate([ring, [[ring[-1, 0], pole], [ring[0, 0], pole], ring[0]]])
    filled = shapely.make_valid(shapely.polygons(ring))
    parts = []
    for turn in range(int((ring[:, 0].min() + 180) // 360), int(-((180 - ring[:, 0].max()) // 360)) + 1):
        inside = shapely.intersection(filled, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        parts += [translate(part, -360 * turn) for part in _polygons(inside)]
    return shapely.union_all(parts)


def _polygons(geometry: Any) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
