"""Transform polygons to another CRS so that neighbours still share their borders.

An edge that is straight on the map's grid is a curve in another CRS. Long edges therefore get more
vertices first. Both sides of an edge get the same vertices.
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
"""Largest distance between the vertices of an edge, in pixels."""


def densify(regions: Regions) -> Regions:
    """Return the regions with a vertex every `LONGEST` pixels or less."""
    xy, offsets = _densified(regions.xy, regions.ring_offsets)
    return replace(regions, xy=xy, ring_offsets=offsets)


def densify_edges(edges: Floats) -> Floats:
    """Return edges (M, 2, 2) cut into edges of `LONGEST` pixels or less."""
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
    # Steps are counted from the edge's smaller end, so that both sides compute the same coordinates.
    swapped = (xy[:, 0] > following[:, 0]) | ((xy[:, 0] == following[:, 0]) & (xy[:, 1] > following[:, 1]))
    low = np.where(swapped[:, None], following, xy)[index]
    high = np.where(swapped[:, None], xy, following)[index]
    share = np.where(swapped[index], pieces[index] - step, step) / pieces[index]
    dense = low + (high - low) * share[:, None]
    dense[starts[:-1]] = xy
    return dense, starts[offsets]


def crs_of(text: str) -> CRS:
    """Return the CRS that a user names, such as `EPSG:3035`.

    Raises:
        UsageError: PROJ knows no CRS of that name.
    """
    try:
        return CRS.from_user_input(text)
    except ProjError as error:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        reason = str(error).rpartition("Internal Proj Error: ")[2].rstrip(")")
        raise UsageError(f"--dst-crs `{shown}` is not a CRS: {reason}", hint="for example: EPSG:3035") from None


class Reprojection:
    """A transformation from the map's CRS to another.

    Raises:
        DataError: PROJ knows no transformation, as from an engineering CRS.
    """

    def __init__(self, source: CRS, target: CRS) -> None:
        self._name, self._is_geographic = target.name, target.is_geographic
        try:
            self._transformer = Transformer.from_crs(source, target, always_xy=True)
        except ProjError:
            raise DataError(
                f"there is no transformation from the map's CRS, {source.name}, to {target.name}",
                hint="write a .gpkg or .fgb without --dst-crs: it keeps the map's CRS",
            ) from None

    def __call__(self, xy: Floats) -> Floats:
        """Transform points (N, 2).

        Raises:
            DataError: a point lies outside the target CRS.
        """
        moved = np.stack(self._transformer.transform(xy[:, 0], xy[:, 1]), axis=1)
        if not np.isfinite(moved).all():
            x, y = xy[~np.isfinite(moved).all(axis=1)][0]
            raise DataError(
                f"the map's point {x:.10g}, {y:.10g} lies outside {self._name}",
                hint="choose a CRS for the map's part of the world",
            )
        return moved

    def jumps(self, line: Floats) -> bool:
        """Return whether a line of close points (N, 2) crosses the antimeridian in a target CRS in degrees."""
        longitudes = np.asarray(self._transformer.transform(line[:, 0], line[:, 1])[0])
        steps = np.abs(np.diff(np.where(np.isfinite(longitudes), longitudes, np.nan)))
        return self._is_geographic and bool((steps > 180).any())


def split_at_antimeridian(geometries: NDArray[Any], *, wrapped: bool) -> NDArray[Any]:
    """Cut (multi)polygons in degrees at the antimeridian, as RFC 7946 (3.1.9) asks.

    Args:
        geometries: (N,).
        wrapped: longitudes jump from 180 to -180 at the antimeridian, as projections return them. A ring
            around a pole then encloses the nearer pole. If false, longitudes continue beyond 180.

    Returns:
        The geometries (N,) within longitudes -180 to 180.
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
    """Return the area that a ring encloses, within longitudes -180 to 180."""
    if wrapped:
        turns = np.cumsum(np.round(np.diff(ring[:, 0], prepend=ring[0, 0]) / 360))
        ring = ring - np.stack([360 * turns, np.zeros(len(ring))], axis=1)
        if turns[-1] != 0:  # the ring encloses a pole
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
