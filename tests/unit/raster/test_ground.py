"""Areas and lengths are those of the ellipsoid wherever a CRS's plane does not keep them."""

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS as ProjCRS
from pyproj import Geod, Transformer
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cwsam_cli.config.sizes import Size
from cwsam_cli.maps.codes import Strip
from cwsam_cli.raster.grid import Grid
from cwsam_cli.regions.units import sieve_weights, step_jacobians
from cwsam_cli.vectorize.measure import measure_regions, to_ground, with_areas
from cwsam_cli.vectorize.polygonize import Regions, polygonize


def grid(crs: str, lon: float, lat: float, pixel: float, width: int = 60, height: int = 40, turn: float = 0) -> Grid:
    """A grid whose middle lies at a place on the Earth."""
    own = CRS.from_user_input(crs)
    x, y = Transformer.from_crs(4326, own.to_wkt(), always_xy=True).transform(lon, lat)
    to_corner = Affine.scale(pixel, -pixel) @ Affine.translation(-width / 2, -height / 2)
    return Grid(own, Affine.translation(x, y) @ Affine.rotation(turn) @ to_corner, width, height)


def regions(on: Grid) -> Regions:
    coarse = np.random.default_rng(0).choice([1, 2, 3], (-(-on.height // 8), -(-on.width // 10))).astype(np.int32)
    codes = coarse.repeat(8, axis=0).repeat(10, axis=1)[: on.height, : on.width]
    halves = [Strip(codes[: on.height // 2]), Strip(codes[on.height // 2 :])]
    return Regions.concatenate(list(polygonize(with_areas(iter(halves), on), on.width, on.height, statistics=1)))


def on_the_ellipsoid(found: Regions, on: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Areas and perimeters of the polygons' corners and many points between them, by GeographicLib."""
    assert on.crs is not None
    own = ProjCRS.from_wkt(on.crs.to_wkt())
    to_degrees = Transformer.from_crs(own, own.geodetic_crs, always_xy=True)
    geod = own.get_geod()
    assert geod is not None
    areas, perimeters = [], []
    for polygon in found.polygons():
        dense = shapely.segmentize(polygon, 0.25)
        measures = []
        for ring in shapely.get_rings(dense):
            lon, lat = to_degrees.transform(*to_ground(shapely.get_coordinates(ring), on.transform).T)
            measures.append(geod.polygon_area_perimeter(lon, lat))
        areas.append(abs(measures[0][0]) - sum(abs(area) for area, _ in measures[1:]))
        perimeters.append(sum(length for _, length in measures))
    return np.array(areas), np.array(perimeters)


STRETCHED = [
    grid("EPSG:3857", 10, 60, 30),
    grid("EPSG:3857", 10, 60, 30, turn=33),
    grid("EPSG:3857", -60, -45, 20_000),
    grid("EPSG:3395", 10, 60, 30),
    grid("EPSG:2154", 9, 41.5, 30),
    grid("EPSG:3413", -45, 90, 1000),
    grid("EPSG:32632", 30, 50, 30),
    grid("EPSG:2264", -79, 45, 100),
]


@pytest.mark.parametrize("on", STRETCHED, ids=str)
def test_areas_and_perimeters_in_a_stretched_plane_are_geodesic(on: Grid) -> None:
    found = regions(on)
    areas, perimeters = measure_regions(found, on, found.statistics["total"][:, -1])
    true_areas, true_perimeters = on_the_ellipsoid(found, on)
    assert not on.keeps_areas and on.pixel_area_m2 is None
    assert areas == pytest.approx(true_areas, rel=1e-4)
    assert perimeters == pytest.approx(true_perimeters, rel=5e-3 if on.keeps_lengths else 1e-4)


@pytest.mark.parametrize(
    "on", [grid("EPSG:3035", 30, 65, 30), grid("EPSG:5070", -122, 48, 30), grid("ESRI:54008", 40, 60, 500)], ids=str
)
def test_a_plane_that_keeps_areas_but_not_lengths_measures_only_lengths_on_the_ellipsoid(on: Grid) -> None:
    found = regions(on)
    areas, perimeters = measure_regions(found, on)
    assert (on.keeps_areas, on.keeps_lengths) == (True, False)
    assert areas == pytest.approx(found.pixels * abs(on.transform.determinant), rel=1e-12)
    assert perimeters == pytest.approx(on_the_ellipsoid(found, on)[1], rel=1e-4)


@pytest.mark.parametrize("lon", [6, 9, 12])
def test_a_utm_zone_stays_plane(lon: float) -> None:
    on = grid("EPSG:32632", lon, 50, 10, width=1000, height=1000)
    assert on.keeps_areas and on.keeps_lengths
    assert (on.pixel_area_m2, on.gsd_m) == (pytest.approx(100, rel=1e-12), pytest.approx(10, rel=1e-12))


def test_a_map_that_is_stretched_at_one_corner_only_is_measured_on_the_ellipsoid() -> None:
    france = grid("EPSG:2154", 3, 46.5, 1000, width=1100, height=1100)
    middle = grid("EPSG:2154", 3, 46.5, 1000, width=100, height=100)
    assert not france.keeps_areas and middle.keeps_areas


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3395"])
def test_a_pixel_in_a_mercator_plane_has_its_size_on_the_ground(crs: str) -> None:
    on = grid(crs, 10, 60, 30)
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
    corners = [on.transform @ corner for corner in ((29.5, 19.5), (30.5, 19.5), (30.5, 20.5), (29.5, 20.5))]
    area = abs(Geod(ellps="WGS84").polygon_area_perimeter(*to_degrees.transform(*np.array(corners).T))[0])
    assert on.gsd_m == pytest.approx(area**0.5, rel=1e-5)
    assert on.gsd_m == pytest.approx(15, rel=0.01)
    np.testing.assert_allclose(np.abs(step_jacobians(on)[20]), [[15.05, 0], [0, 15.05]], rtol=3e-3, atol=1e-6)


def test_a_smallest_mapping_unit_is_of_the_ground() -> None:
    on = grid("EPSG:3857", 10, 60, 30)
    weights, minimum = sieve_weights(on, Size(50_000, False))
    pixels = minimum / weights.area[0:1].mean()
    assert pixels == pytest.approx(50_000 / 226.5, rel=0.01)
    last = weights.area[32:64]  # strips may be asked for more than the rows that are left
    assert last.shape == (8, 60)
    ratio = on.pixel_areas(39, 1)[0, 0] / on.pixel_areas(0, 1)[0, 0]
    assert last[7, 0] / weights.area[0:1][0, 0] == pytest.approx(ratio, rel=1e-5)


def test_a_map_beyond_the_edge_of_the_earth_is_measured_where_it_is_on_it() -> None:
    world = Grid(CRS.from_user_input("ESRI:54030"), from_origin(-18e6, 9e6, 1e5, 1e5), 360, 180)  # Robinson
    areas = world.pixel_areas(0, 180)
    assert np.isfinite(areas).all()
    assert areas[90, 180] == pytest.approx(1.22e10, rel=0.01)
    globe = shapely.transform(
        shapely.segmentize(shapely.box(-179.999, -90, 179.999, 90), 1),
        Transformer.from_crs(4326, "ESRI:54030", always_xy=True).transform,
        interleaved=False,
    )
    x, y = np.meshgrid(np.arange(-18e6, 18e6, 1e5) + 5e4, np.arange(9e6, -9e6, -1e5) - 5e4)
    assert areas[shapely.contains_xy(globe, x, y)].sum() == pytest.approx(5.1e14, rel=0.01)


def test_angles_in_grads_are_no_degrees() -> None:
    transform = from_origin(0, 52, 0.001, 0.001)
    in_grads = Grid(CRS.from_epsg(4807), transform, 60, 40)
    in_degrees = Grid(CRS.from_epsg(4275), Affine.scale(0.9) @ transform, 60, 40)  # the same datum, from Greenwich
    assert in_grads.gsd_m == pytest.approx(in_degrees.gsd_m, rel=1e-9)
    assert in_grads.pixel_areas(0, 40) == pytest.approx(in_degrees.pixel_areas(0, 40), rel=1e-9)
    np.testing.assert_allclose(step_jacobians(in_grads), step_jacobians(in_degrees), rtol=1e-9)
    areas, perimeters = measure_regions(regions(in_grads), in_grads)
    same_areas, same_perimeters = measure_regions(regions(in_degrees), in_degrees)
    assert areas == pytest.approx(same_areas, rel=1e-9)
    assert perimeters == pytest.approx(same_perimeters, rel=1e-9)
