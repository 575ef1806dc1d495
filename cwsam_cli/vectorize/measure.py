"""Measure polygons given in pixels: areas, perimeters and coordinates on the ground."""

from collections.abc import Iterable, Iterator

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from cwsam_cli.maps.codes import Strip
from cwsam_cli.raster.grid import Grid, geodesic
from cwsam_cli.raster.ground import MetricField, metric_field
from cwsam_cli.regions.compiled import allocating, compiled
from cwsam_cli.vectorize.polygonize import Regions
from cwsam_cli.vectorize.reproject import densify

Floats = NDArray[np.float64]


def to_ground(xy: Floats, transform: Affine) -> Floats:
    """Return the coordinates (N, 2) in the grid's CRS of points (N, 2) in pixels."""
    t, x, y = transform, xy[:, 0], xy[:, 1]
    return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1)


def with_areas(strips: Iterable[Strip], grid: Grid) -> Iterator[Strip]:
    """Yield the strips with the areas of their pixels in m² as the values of one more raster."""
    top = 0
    for strip in strips:
        rows, width = strip.codes.shape
        areas = np.broadcast_to(grid.pixel_areas(top, rows), (1, rows, width)).astype(np.float32)
        yield Strip(strip.codes, areas if strip.values is None else np.concatenate([strip.values, areas]))
        top += rows


def measure_regions(regions: Regions, grid: Grid, pixels_m2: Floats | None = None) -> tuple[Floats, Floats]:
    """Measure regions, on the ellipsoid where the grid's plane does not keep areas or lengths.

    On a grid in degrees an edge is a straight line in longitude and latitude, as the edges of pixels are.
    Areas are then exact for edges of any length along meridians and parallels.

    Args:
        regions: N regions.
        grid: the map's grid.
        pixels_m2: the ground area (N,) of the regions' pixels, if a projected grid does not keep areas.

    Returns:
        Areas (N,) in m² and perimeters (N,) in m.

    Source: the integral of the authalic latitude's q, Snyder 1987, eq. 3-12.
    """
    rings, polygons = regions.ring_offsets, regions.polygon_offsets
    if grid.crs is not None and grid.is_geographic:
        geod = geodesic(grid.crs)
        ground = to_ground(regions.xy, grid.in_degrees)
        return _measure_degrees(ground, rings, polygons, geod.a, geod.es)
    t, unit = grid.transform, grid.unit_m or 1.0
    areas, perimeters = _measure_plane(regions.xy, rings, polygons, t.a * unit, t.b * unit, t.d * unit, t.e * unit)
    if grid.plane is not None and not grid.keeps_lengths:
        perimeters = _ground_perimeters(regions, metric_field(grid.plane))
    if pixels_m2 is not None:
        return areas * pixels_m2 / regions.pixels, perimeters
    return areas * abs(t.determinant) * unit**2, perimeters


def _ground_perimeters(regions: Regions, found: MetricField) -> Floats:
    if not len(regions):
        return np.zeros(0)
    dense = densify(regions)
    lengths = found.lengths(dense.xy[:-1], dense.xy[1:])
    lengths[dense.ring_offsets[1:-1] - 1] = 0.0  # the step from one ring to the next
    return np.add.reduceat(lengths, dense.ring_offsets[dense.polygon_offsets[:-1]])


@allocating
def _measure_plane(
    xy: Floats, rings: NDArray[np.int64], polygons: NDArray[np.int64], a: float, b: float, d: float, e: float
) -> tuple[Floats, Floats]:
    areas, perimeters = np.zeros(len(polygons) - 1), np.zeros(len(polygons) - 1)
    for polygon in range(len(areas)):
        twice = 0.0
        for ring in range(polygons[polygon], polygons[polygon + 1]):
            for i in range(rings[ring], rings[ring + 1] - 1):
                dx, dy = xy[i + 1, 0] - xy[i, 0], xy[i + 1, 1] - xy[i, 1]
                twice += xy[i, 0] * dy - xy[i, 1] * dx
                perimeters[polygon] += np.hypot(a * dx + b * dy, d * dx + e * dy)
        areas[polygon] = abs(twice) / 2
    return areas, perimeters


@allocating
def _measure_degrees(
    xy: Floats, rings: NDArray[np.int64], polygons: NDArray[np.int64], axis: float, es: float
) -> tuple[Floats, Floats]:
    areas, perimeters = np.zeros(len(polygons) - 1), np.zeros(len(polygons) - 1)
    for polygon in range(len(areas)):
        swept = 0.0
        for ring in range(polygons[polygon], polygons[polygon + 1]):
            start = rings[ring]
            band = _authalic(xy[start, 1], axis, es)
            for i in range(start, rings[ring + 1] - 1):
                dx, dy = np.radians(xy[i + 1, 0] - xy[i, 0]), np.radians(xy[i + 1, 1] - xy[i, 1])
                after = _authalic(xy[i + 1, 1], axis, es)
                swept += dx * (band + after) / 2
                band = after
                sine = np.sin(np.radians((xy[i, 1] + xy[i + 1, 1]) / 2))
                root = np.sqrt(1 - es * sine * sine)
                along = axis / root * np.sqrt(max(0.0, 1 - sine * sine)) * dx
                perimeters[polygon] += np.hypot(along, axis * (1 - es) / root**3 * dy)
        areas[polygon] = abs(swept)
    return areas, perimeters


@compiled
def _authalic(latitude: float, axis: float, es: float) -> float:
    sine = np.sin(np.radians(min(90.0, max(-90.0, latitude))))
    e = np.sqrt(es)
    q = sine / (1 - es * sine**2) + (np.arctanh(e * sine) / e if e > 0 else sine)
    return axis**2 * (1 - es) / 2 * q


def to_wkb(xy: Floats, regions: Regions) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return polygons as well-known binary.

    Args:
        xy: vertices (V, 2) to use instead of those of the regions.
        regions: N regions.

    Returns:
        The bytes of all polygons, and the first byte of each polygon (N + 1,).
    """
    points = np.diff(regions.ring_offsets)
    rings = np.diff(regions.polygon_offsets)
    sizes = 9 + 4 * rings + 16 * np.add.reduceat(points, regions.polygon_offsets[:-1])
    offsets = np.zeros(len(rings) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    data = np.empty(offsets[-1], np.uint8)
    _write_wkb(
        data,
        offsets,
        np.ascontiguousarray(xy, "<f8").view(np.uint8).ravel(),
        regions.ring_offsets,
        regions.polygon_offsets,
        points.astype("<u4").view(np.uint8).reshape(-1, 4),
        rings.astype("<u4").view(np.uint8).reshape(-1, 4),
    )
    return data, offsets


@allocating
def _write_wkb(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    coordinates: NDArray[np.uint8],
    ring_offsets: NDArray[np.int64],
    polygon_offsets: NDArray[np.int64],
    points: NDArray[np.uint8],
    rings: NDArray[np.uint8],
) -> None:
    for polygon in range(len(offsets) - 1):
        at = offsets[polygon]
        data[at : at + 5] = (1, 3, 0, 0, 0)  # little-endian, a polygon
        data[at + 5 : at + 9] = rings[polygon]
        at += 9
        for ring in range(polygon_offsets[polygon], polygon_offsets[polygon + 1]):
            data[at : at + 4] = points[ring]
            at += 4
            first, last = 16 * ring_offsets[ring], 16 * ring_offsets[ring + 1]
            data[at : at + last - first] = coordinates[first:last]
            at += last - first
