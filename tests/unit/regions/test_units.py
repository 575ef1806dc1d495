"""Sizes of pixels on the ground."""

import numpy as np
import pytest
from affine import Affine
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cwsam_cli.config.sizes import Size
from cwsam_cli.raster.grid import Grid
from cwsam_cli.regions.units import sieve_weights, step_jacobians

UTM = Grid(CRS.from_epsg(32617), from_origin(600_000, 4_000_000, 30, 30), 20, 10)


def test_hectares_count_pixels_of_a_plane_grid() -> None:
    weights, minimum = sieve_weights(UTM, Size(10_000, False))
    assert minimum == 12 and (weights.area == 1).all()  # 11.1 pixels of 900 m²
    assert sieve_weights(UTM, Size(9_000, False))[1] == 10  # no more than exactly ten
    assert len(weights.across) == 11 and len(weights.down) == 10
    assert sieve_weights(UTM, Size(7, True))[1] == 7


def test_in_degrees_pixels_count_their_area_on_the_ground() -> None:
    grid = Grid(CRS.from_epsg(4326), from_origin(10, 70, 0.1, 0.1), 20, 700)
    weights, minimum = sieve_weights(grid, Size(1e8, False))
    unit = 1e8 / minimum
    rows = np.array([0, 350, 699])
    geod = Geod(ellps="WGS84")
    for row in rows:
        north = 70 - 0.1 * row
        lons, lats = [10, 10, 10.1, 10.1], [north, north - 0.1, north - 0.1, north]
        expected = abs(geod.polygon_area_perimeter(lons, lats)[0])
        assert weights.area[row] * unit == pytest.approx(expected, rel=1e-4)
    assert weights.across[0] / weights.down[0] == pytest.approx(np.cos(np.radians(70)), rel=1e-2)


def test_steps_are_metres_in_any_unit() -> None:
    feet = Grid(CRS.from_epsg(2264), Affine(10, 2, 2e6, 1, -10, 7e5), 20, 10)
    foot = 1200 / 3937
    np.testing.assert_allclose(step_jacobians(feet), [[[10 * foot, 2 * foot], [foot, -10 * foot]]])
    degrees = Grid(CRS.from_epsg(4326), from_origin(10, 60, 0.001, 0.001), 20, 10)
    steps = step_jacobians(degrees)
    geod = Geod(ellps="WGS84")
    assert len(steps) == 11
    assert steps[0, 0, 0] == pytest.approx(geod.inv(10, 60, 10.001, 60)[2], rel=1e-6)
    assert -steps[0, 1, 1] == pytest.approx(geod.inv(10, 60.0005, 10, 59.9995)[2], rel=1e-6)
