"""A pixel has a size on the ground, whatever unit its coordinates have."""

from math import sqrt

import pytest
from affine import Affine
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid, geodesic, join, lattice, offsets

US_SURVEY_FOOT = 1200 / 3937


def grid(crs: str | None, transform: Affine, width: int = 100, height: int = 80) -> Grid:
    return Grid(CRS.from_user_input(crs) if crs else None, transform, width, height)


def test_pixels_in_metres_are_as_large_as_their_transform_says() -> None:
    scene = grid("EPSG:32617", from_origin(600_000, 4_000_000, 30, 20))
    assert scene.pixel_area_m2 == pytest.approx(600)
    assert scene.gsd_m == pytest.approx(sqrt(600))
    assert not scene.is_geographic


@pytest.mark.parametrize(
    "transform",
    [Affine(10, 0, 5e5, 0, 10, 0), Affine.translation(5e5, 0) @ Affine.rotation(30) @ Affine.scale(10, -10)],
)
def test_south_up_and_rotated_pixels_have_a_positive_area(transform: Affine) -> None:
    scene = grid("EPSG:32617", transform)
    assert scene.pixel_area_m2 == pytest.approx(100)
    assert scene.gsd_m == pytest.approx(10)


def test_pixels_in_us_survey_feet_are_told_in_metres() -> None:
    scene = grid("EPSG:2264", from_origin(2_000_000, 700_000, 5, 5))
    assert scene.pixel_area_m2 == pytest.approx((5 * US_SURVEY_FOOT) ** 2, rel=1e-12)
    assert scene.gsd_m == pytest.approx(5 * US_SURVEY_FOOT, rel=1e-12)


def test_a_height_datum_beside_the_projection_changes_nothing() -> None:
    transform = from_origin(600_000, 4_000_000, 30, 30)
    assert grid("EPSG:26912+5703", transform).gsd_m == grid("EPSG:26912", transform).gsd_m == pytest.approx(30)


@pytest.mark.parametrize("lat", [0.0, 47.0, -80.0])
def test_pixels_in_degrees_have_the_geodesic_size_of_the_middle(lat: float) -> None:
    step = 0.001
    scene = grid("EPSG:4326", from_origin(8, lat, step, 2 * step))
    assert scene.is_geographic
    assert scene.pixel_area_m2 is None  # it differs from row to row
    west, north = 8 + 50 * step, lat - 80 * step
    geod = Geod(ellps="WGS84")
    pixel = geod.polygon_area_perimeter(
        [west, west + step, west + step, west], [north, north, north - 2 * step, north - 2 * step]
    )
    assert scene.gsd_m == pytest.approx(sqrt(abs(pixel[0])), rel=1e-4)


def test_a_grid_of_the_whole_earth_has_a_size_in_metres() -> None:
    scene = grid("EPSG:4326", Affine(10, 0, -180, 0, -10, 90), 36, 18)
    assert scene.gsd_m == pytest.approx(1_110_000, rel=0.01)


def test_lengths_are_measured_on_the_ellipsoid_of_the_crs() -> None:
    assert geodesic(CRS.from_epsg(4326)).a == 6_378_137
    assert geodesic(CRS.from_epsg(4277)).a == pytest.approx(6_377_563.396)  # Airy 1830


def test_a_grid_without_a_crs_has_no_size_on_the_ground() -> None:
    scene = grid(None, Affine.identity())
    assert scene.pixel_area_m2 is None
    assert scene.gsd_m is None
    assert not scene.is_geographic


def test_corners_of_a_window_lie_where_the_transform_puts_them() -> None:
    scene = grid("EPSG:32617", from_origin(1000, 2000, 10, 5))
    assert scene.corners(Window(3, 4, 2, 6)) == [(1030, 1980), (1050, 1980), (1050, 1950), (1030, 1950)]


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        (grid("EPSG:32617", from_origin(0, 0, 30, 30)), "100 × 80 pixels, EPSG:32617, 30 m"),
        (grid(None, Affine.identity()), "100 × 80 pixels, no CRS"),
        (grid("+proj=laea +lat_0=1 +lon_0=2", from_origin(0, 0, 3, 3)), "100 × 80 pixels, unnamed CRS, 3 m"),
    ],
)
def test_a_grid_tells_its_size_crs_and_resolution(scene: Grid, told: str) -> None:
    assert str(scene) == told


def test_the_last_window_shifts_inwards() -> None:
    assert offsets(25, 10, 10) == [0, 10, 15]
    assert offsets(20, 10, 10) == [0, 10]
    assert offsets(9, 10, 10) == [0]


def test_windows_of_a_scene_smaller_than_one_are_the_scene() -> None:
    assert list(lattice(7, 5, 32, 8)) == [Window(0, 0, 7, 5)]


def test_grids_that_share_their_pixels_lie_on_one_grid() -> None:
    here = grid("EPSG:32617", from_origin(1000, 2000, 10, 5))
    there = grid("EPSG:32617", from_origin(1000 - 30, 2000 - 25, 10, 5))
    whole, places = join([here, there]) or (None, None)
    assert whole == Grid(here.crs, from_origin(970, 2000, 10, 5), 103, 85)
    assert places == [(3, 0), (0, 5)]


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32617", from_origin(1004, 2000, 10, 5)),
        ("EPSG:32617", from_origin(1000, 2000, 10.001, 5)),
        ("EPSG:32618", from_origin(1000, 2000, 10, 5)),
        ("EPSG:32617", from_origin(1000, 2000, 10, 5) @ Affine.rotation(1)),
        (None, from_origin(1000, 2000, 10, 5)),
    ],
)
def test_grids_of_other_pixels_or_crs_share_none(crs: str | None, transform: Affine) -> None:
    assert join([grid("EPSG:32617", from_origin(1000, 2000, 10, 5)), grid(crs, transform)]) is None
