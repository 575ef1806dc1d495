"""Areas and perimeters on the ground."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cwsam_cli.maps.codes import Strip
from cwsam_cli.raster.grid import Grid
from cwsam_cli.vectorize.measure import measure_regions, to_ground, to_wkb
from cwsam_cli.vectorize.polygonize import Regions, polygonize

UTM = CRS.from_epsg(32617)


def patches(seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).choice([1, 2, 3], (10, 10)).astype(np.int32)
    fine = coarse.repeat(4, axis=0).repeat(5, axis=1)
    fine[:4, :5], fine[1:3, 1:3] = 1, 2  # a hole in any case
    return fine


def on(codes: np.ndarray, transform: Affine, crs: CRS = UTM) -> tuple[Regions, Grid]:
    grid = Grid(crs, transform, codes.shape[1], codes.shape[0])
    return Regions.concatenate(list(polygonize([Strip(codes)], grid.width, grid.height))), grid


@pytest.mark.parametrize("transform", [from_origin(600_000, 4_000_000, 30, 30), Affine(0.5, 0.1, 7, 0.2, -0.6, 9)])
def test_plane_areas_and_perimeters_are_those_of_the_polygons(transform: Affine) -> None:
    regions, grid = on(patches(), transform)
    areas, perimeters = measure_regions(regions, grid)
    placed = shapely.transform(regions.polygons(), lambda xy: to_ground(xy, transform))
    assert areas == pytest.approx(shapely.area(placed), rel=1e-6)
    assert perimeters == pytest.approx(shapely.length(placed), rel=1e-9)
    assert any(len(polygon.interiors) for polygon in placed)


def test_us_survey_feet_become_metres() -> None:
    regions, grid = on(np.ones((3, 4), np.int32), from_origin(2e6, 7e5, 10, 10), CRS.from_epsg(2264))
    (area,), (perimeter,) = measure_regions(regions, grid)
    foot = 1200 / 3937
    assert area == pytest.approx(1200 * foot**2, rel=1e-9)
    assert perimeter == pytest.approx(140 * foot, rel=1e-9)


@pytest.mark.parametrize("step", [-0.0001, 0.0001])
def test_in_degrees_both_are_geodesic(step: float) -> None:
    regions, grid = on(patches(), Affine(0.0001, 0, 8, 0, step, 47), CRS.from_epsg(4326))
    areas, perimeters = measure_regions(regions, grid)
    placed = shapely.transform(regions.polygons(), lambda xy: to_ground(xy, grid.transform))
    geod = Geod(ellps="WGS84")
    for polygon, area, perimeter in zip(placed, areas, perimeters, strict=True):
        # A pixel's edge is a parallel, which a geodesic between far corners is not: so with many corners.
        dense = shapely.segmentize(polygon, 0.00005)
        exact = [geod.geometry_area_perimeter(shapely.Polygon(ring)) for ring in shapely.get_rings(dense)]
        assert area == pytest.approx(abs(exact[0][0]) - sum(abs(hole[0]) for hole in exact[1:]), rel=1e-6)
        assert perimeter == pytest.approx(sum(ring[1] for ring in exact), rel=1e-6)


def test_a_pixel_in_degrees_has_its_area_on_the_ellipsoid() -> None:
    regions, grid = on(np.ones((1, 1), np.int32), from_origin(8, 47, 0.01, 0.01), CRS.from_epsg(4326))
    # Between two parallels, in closed form (Snyder 1987, authalic latitude).
    a, e2 = 6_378_137.0, 0.0066943799901413165
    e = np.sqrt(e2)
    sine = np.sin(np.radians([46.99, 47.0]))
    part = sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e
    exact = np.radians(0.01) * a**2 * (1 - e2) * (part[1] - part[0]) / 2
    assert measure_regions(regions, grid)[0][0] == pytest.approx(exact, rel=1e-6)
    assert grid.pixel_areas(0, 1)[0, 0] == pytest.approx(exact, rel=1e-6)


def test_well_known_binary_is_read_back_as_the_same_polygons() -> None:
    regions, grid = on(patches(), from_origin(600_000, 4_000_000, 30, 30))
    ground = to_ground(regions.xy, grid.transform)
    data, offsets = to_wkb(ground, regions)
    read = shapely.from_wkb([data[start:end].tobytes() for start, end in pairwise(offsets)])
    placed = shapely.transform(regions.polygons(), lambda xy: to_ground(xy, grid.transform))
    assert shapely.equals_exact(read, placed).all()
