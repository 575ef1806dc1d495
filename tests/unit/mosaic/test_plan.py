"""The mosaic's grid covers all maps and keeps the first map's pixels where it can."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.transform import from_origin

from cwsam_cli.mosaic.plan import make_plan
from cwsam_cli.mosaic.request import MosaicRequest
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import from_names

MakeRaster = Callable[..., Path]
UTM = {"crs": "EPSG:32617", "transform": from_origin(600_007, 4_000_013, 30, 30)}


@pytest.fixture
def make_map(make_raster: MakeRaster) -> Callable[..., str]:
    def make(name: str, height: int = 20, width: int = 30, **profile: Any) -> str:
        path = make_raster(name, np.ones((height, width), np.uint8), **UTM | {"nodata": 255} | profile)
        with rasterio.open(path, "r+") as dataset:
            tag_classes(dataset, from_names(["a", "b"]))
        return str(path)

    return make


def request(*maps: str, **values: Any) -> MosaicRequest:
    return MosaicRequest(maps=maps, output=Path(values.pop("output", "region.tif")), **values)


def test_maps_on_the_first_maps_pixels_are_not_resampled(make_map: Callable[..., str]) -> None:
    beside = make_map("b.tif", transform=from_origin(600_007 + 300, 4_000_013 + 90, 30, 30))
    between = make_map("c.tif", transform=from_origin(600_022, 4_000_013, 30, 30))
    longer = make_map("d.tif", width=30_000, transform=from_origin(600_007, 4_000_013, 30.00001, 30))
    plan = make_plan(request(make_map("a.tif"), beside, between))
    assert plan.grid.transform == from_origin(600_007, 4_000_103, 30, 30)
    assert [placed.is_aligned for placed in plan.maps] == [True, True, False]
    assert [placed.window.flatten() for placed in plan.maps[:2]] == [(0, 3, 30, 20), (10, 0, 30, 20)]
    assert not make_plan(request(make_map("a.tif"), longer)).maps[1].is_aligned


def test_crs_that_rasterio_calls_equal_are_told_apart(make_map: Callable[..., str]) -> None:
    plan = make_plan(request(make_map("a.tif", crs="EPSG:32119"), make_map("b.tif", crs="EPSG:3358")))
    assert [placed.is_aligned for placed in plan.maps] == [True, False]


def test_a_rotated_first_map_gives_a_north_up_grid_of_its_pixel_size(make_map: Callable[..., str]) -> None:
    rotated = Affine.translation(6e5, 4e6) @ Affine.rotation(30) @ Affine.scale(10, -10)
    grid = make_plan(request(make_map("a.tif", transform=rotated))).grid
    assert grid.transform[:6] == pytest.approx((10, 0, grid.transform.c, 0, -10, grid.transform.f))
    assert grid.transform.c % 10 == grid.transform.f % 10 == 0


def test_units_follow_the_crs(make_map: Callable[..., str]) -> None:
    feet = make_plan(request(make_map("a.tif"), crs="EPSG:2264", res="30m")).grid  # US survey feet
    assert feet.transform.a == pytest.approx(30 / 0.3048, rel=1e-5)
    degrees = make_plan(request(make_map("a.tif"), crs="EPSG:4326", res="0.0003deg")).grid
    assert degrees.transform.a == 0.0003


def test_a_map_across_the_antimeridian_does_not_widen_the_mosaic_to_the_globe(make_map: Callable[..., str]) -> None:
    across = make_map("a.tif", crs="EPSG:32660", transform=from_origin(600_000, 6_000_000, 1000, 1000), width=200)
    grid = make_plan(request(across, crs="EPSG:4326", res="0.01deg")).grid
    assert grid.width < 500
    assert 178 < grid.transform.c < 180 < grid.transform.c + 0.01 * grid.width


@pytest.mark.parametrize("step", ["7km", "0.4km"])
def test_tiles_cover_the_mosaic_once(make_map: Callable[..., str], step: str) -> None:
    plan = make_plan(request(make_map("a.tif", 100, 130), by_tile=step, output="tiles"))
    seen = np.zeros((plan.grid.height, plan.grid.width), int)
    for tile in plan.tiles:
        seen[tile.window.toslices()] += 1
    assert (seen == 1).all()
    assert len({tile.name for tile in plan.tiles}) == len(plan.tiles)
