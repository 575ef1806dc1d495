"""Find outlines near each other, and how far apart they are.

Outlines are compared in the plane of their CRS. If they are in degrees, each pair is compared in a plane of its own
that is true to scale at the pair. Ground on both sides of the antimeridian counts as far apart.
"""

import numpy as np
import shapely
from numpy.typing import NDArray

Shapes = NDArray[np.object_]
Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]

_AXIS_M, _ES = 6_378_137.0, 0.00669438  # WGS 84


def near_pairs(ours: Shapes, theirs: Shapes, reach: Floats, *, in_degrees: bool = False) -> tuple[Numbers, Numbers]:
    """Return the numbers of all pairs that are at most a reach apart. With a reach of 0, they touch or overlap.

    Args:
        ours: outlines (N,).
        theirs: outlines (M,).
        reach: the distance of each of ours (N,), in the unit of the CRS, or in metres if `in_degrees`.
        in_degrees: whether coordinates are degrees of longitude and latitude.

    Returns:
        Numbers in `ours` and in `theirs`, (P,) each.
    """
    if not len(ours) or not len(theirs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    tree = shapely.STRtree(theirs)
    if not in_degrees:
        one, other = tree.query(ours, predicate="dwithin", distance=reach)
        return one, other
    west, south, east, north = shapely.bounds(ours).T
    up = reach / _metres_per_degree(np.zeros(1))[1]
    beside = reach / _metres_per_degree(np.minimum(np.maximum(abs(south - up), abs(north + up)), 89.9))[0]
    one, other = tree.query(shapely.box(west - beside, south - up, east + beside, north + up))
    close = distances(ours[one], theirs[other], in_degrees=True) <= reach[one]
    return one[close], other[close]


def distances(ours: Shapes, theirs: Shapes, *, in_degrees: bool = False) -> Floats:
    """Return the distance of each pair (P,), in the unit of the CRS, or in metres if `in_degrees`."""
    return np.asarray(shapely.distance(*(to_metres(ours, theirs) if in_degrees else (ours, theirs))))


def nearest_distances(ours: Shapes, theirs: Shapes, *, in_degrees: bool = False) -> Floats:
    """Return the distance of each of our outlines to the nearest of theirs, (N,); see `distances`.

    Args:
        ours: outlines (N,).
        theirs: outlines (M,), at least one.
        in_degrees: see `near_pairs`.
    """
    # Mercator's plane has the same scale in all directions at each latitude, so the nearest outline is the same.
    flat = [shapely.transform(shapes, _on_mercator) for shapes in (ours, theirs)] if in_degrees else [ours, theirs]
    one, other = shapely.STRtree(flat[1]).query_nearest(flat[0], all_matches=False)
    found = np.empty(len(ours))
    found[one] = distances(ours[one], theirs[other], in_degrees=in_degrees)
    return found


def share_ground(ours: Shapes, theirs: Shapes, strips: Floats, *, in_degrees: bool = False) -> NDArray[np.bool_]:
    """Return which pairs of tiles share more ground than a strip that is one pixel wide, (P,).

    Ground of another form is shared if it has more pixels than such a strip, or is wider than two pixels.

    Args:
        ours: outlines (P,).
        theirs: outlines (P,).
        strips: the area of a strip along the shorter side of a tile, as a share of one of theirs (P,).
        in_degrees: see `near_pairs`.
    """
    common, whole = shapely.intersection(ours, theirs), shapely.area(theirs)
    area = shapely.area(common)
    is_shared = np.asarray(area > strips * whole)
    small = np.flatnonzero(~is_shared & (area > (strips**2 * whole)))
    if len(small):
        part, tile = common[small], theirs[small]
        if in_degrees:
            part, tile = to_metres(part, tile)
        is_shared[small] = _shorter_sides(part) > 2 * strips[small] * _shorter_sides(tile)
    return is_shared


def _shorter_sides(shapes: Shapes) -> Floats:
    """Return the shorter side of the smallest rectangle around each polygon (N,)."""
    corners = shapely.get_coordinates(shapely.oriented_envelope(shapes)).reshape(-1, 5, 2)
    return np.asarray(np.linalg.norm(np.diff(corners[:, :3], axis=1), axis=2).min(axis=1))


def to_metres(ours: Shapes, theirs: Shapes) -> tuple[Shapes, Shapes]:
    """Scale pairs of outlines (P,) from degrees to metres, true to scale at the latitude of ours."""
    _, south, _, north = shapely.bounds(ours).T
    scale = np.stack(_metres_per_degree((south + north) / 2), axis=1)
    return _scaled(ours, scale), _scaled(theirs, scale)


def _scaled(shapes: Shapes, scale: Floats) -> Shapes:
    coordinates, number = shapely.get_coordinates(shapes, return_index=True)
    return np.asarray(shapely.set_coordinates(shapes.copy(), coordinates * scale[number]))


def _on_mercator(degrees: Floats) -> Floats:
    """Project longitude and latitude (N, 2) in degrees to Mercator's plane, in degrees of longitude."""
    phi = np.radians(np.clip(degrees[:, 1], -89.9, 89.9))
    return np.stack([degrees[:, 0], np.degrees(np.arcsinh(np.tan(phi)))], axis=1)


def _metres_per_degree(latitude: Floats) -> tuple[Floats, Floats]:
    """Return metres per degree of longitude and of latitude."""
    phi = np.radians(np.clip(latitude, -90, 90))
    root = np.sqrt(1 - _ES * np.sin(phi) ** 2)
    return np.radians(_AXIS_M / root * np.cos(phi)), np.radians(_AXIS_M * (1 - _ES) / root**3)
