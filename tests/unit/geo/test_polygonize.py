"""Polygons follow the edges of pixels."""

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.features import shapes
from rasterio.transform import from_origin
from shapely.geometry import shape

from cwsam_cli.geo.grid import Grid
from cwsam_cli.geo.polygonize import polygonize

UTM = CRS.from_epsg(32617)


def on(codes: np.ndarray, transform: Affine, crs: CRS = UTM) -> Grid:
    return Grid(crs, transform, codes.shape[1], codes.shape[0])


def patches(seed: int = 0) -> np.ndarray:
    """Random blobs, 40 × 50, codes 1 to 3 and nodata 255."""
    coarse = np.random.default_rng(seed).choice([1, 2, 3, 255], (10, 10)).astype(np.uint8)
    fine = coarse.repeat(4, axis=0).repeat(5, axis=1)
    fine[:4, :5], fine[1:3, 1:3] = 1, 2  # a hole in any case
    return fine


@pytest.mark.parametrize("transform", [from_origin(600_000, 4_000_000, 30, 30), Affine(0.5, 0.1, 7, 0.2, -0.6, 9)])
def test_polygons_equal_those_of_gdal(transform: Affine) -> None:
    codes = patches()
    ours = [(region.code, region.geometry) for region in polygonize(codes, on(codes, transform), valid=codes != 255)]
    theirs = [
        (int(value), shape(rings)) for rings, value in shapes(codes, codes != 255, connectivity=4, transform=transform)
    ]
    assert [code for code, _ in ours] == [code for code, _ in theirs]
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        assert shapely.equals_exact(one, other, tolerance=1e-7, normalize=True)


def test_a_region_with_a_hole_keeps_it() -> None:
    codes = np.ones((5, 5), np.uint8)
    codes[2, 2] = 2
    by_code = {region.code: region for region in polygonize(codes, on(codes, from_origin(0, 50, 10, 10)))}
    assert len(by_code[1].geometry.interiors) == 1
    assert by_code[1].area_m2 == 2400
    assert by_code[2].geometry.equals(shapely.box(20, 20, 30, 30))


def test_pixels_that_touch_at_a_corner_are_two_regions() -> None:
    codes = np.array([[1, 255], [255, 1]], np.uint8)
    assert len(list(polygonize(codes, on(codes, from_origin(0, 0, 1, 1)), valid=codes != 255))) == 2


@pytest.mark.parametrize("nodata", [None, 0, 3])
def test_only_nodata_is_left_out(nodata: int | None) -> None:
    codes = np.array([[0, 1, 2, 3]], np.uint8)
    found = [
        region.code
        for region in polygonize(
            codes, on(codes, from_origin(0, 0, 1, 1)), valid=None if nodata is None else codes != nodata
        )
    ]
    assert sorted(found) == [code for code in range(4) if code != nodata]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32"])
def test_codes_may_be_of_any_integer_dtype(dtype: str) -> None:
    codes = np.array([[1, 1, 100], [1, 7, 100]], dtype)
    regions = list(polygonize(codes, on(codes, from_origin(0, 0, 2, 2))))
    assert sorted((region.code, region.area_m2) for region in regions) == [(1, 12), (7, 4), (100, 8)]


def test_areas_on_a_grid_in_us_survey_feet_are_in_square_metres() -> None:
    codes = np.ones((3, 4), np.uint8)
    (region,) = polygonize(codes, on(codes, from_origin(2e6, 7e5, 10, 10), CRS.from_epsg(2264)))
    assert region.area_m2 == pytest.approx(1200 * (1200 / 3937) ** 2, rel=1e-9)
    assert region.geometry.area == pytest.approx(1200)  # in the CRS's own unit


@pytest.mark.parametrize("step", [-0.0001, 0.0001])
def test_areas_on_a_grid_in_degrees_are_geodesic(step: float) -> None:
    codes = patches()
    grid = on(codes, Affine(0.0001, 0, 8, 0, step, 47), CRS.from_epsg(4326))
    regions = list(polygonize(codes, grid, valid=codes != 255))
    geod = Geod(ellps="WGS84")
    for region in regions:
        outer = abs(geod.geometry_area_perimeter(shapely.Polygon(region.geometry.exterior))[0])
        holes = sum(abs(geod.geometry_area_perimeter(shapely.Polygon(hole))[0]) for hole in region.geometry.interiors)
        assert region.area_m2 == pytest.approx(outer - holes, rel=1e-5)
    assert any(len(region.geometry.interiors) for region in regions)


def test_a_pixel_in_degrees_has_its_area_on_the_ellipsoid() -> None:
    codes = np.ones((1, 1), np.uint8)
    grid = on(codes, from_origin(8, 47, 0.01, 0.01), CRS.from_epsg(4326))
    (region,) = polygonize(codes, grid)
    # Between two parallels, in closed form (Snyder 1987, authalic latitude).
    a, e2 = 6_378_137.0, 0.0066943799901413165
    e = np.sqrt(e2)
    sine = np.sin(np.radians([46.99, 47.0]))
    part = sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e
    exact = np.radians(0.01) * a**2 * (1 - e2) * (part[1] - part[0]) / 2
    assert region.area_m2 == pytest.approx(exact, rel=1e-6)


def test_a_map_of_nodata_alone_has_no_polygons() -> None:
    codes = np.full((4, 4), 255, np.uint8)
    assert list(polygonize(codes, on(codes, from_origin(0, 0, 1, 1)), valid=codes != 255)) == []
