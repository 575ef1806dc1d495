"""Labels that lie elsewhere are told, with where they lie and what would bring them onto the scene."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import from_bounds, from_origin
from rasterio.warp import transform_bounds

from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.tile.labels.files import RasterSource
from cwsam_cli.tile.labels.place import refuse_far_labels
from cwsam_cli.tile.labels.vector import VectorSource

MakeRaster = Callable[..., Path]
GRID = Grid(CRS.from_epsg(32617), from_origin(600_000, 4_000_000, 30, 30), 200, 160)
BOUNDS = (600_000, 4_000_000 - 160 * 30, 600_000 + 200 * 30, 4_000_000)
DEGREES = transform_bounds("EPSG:32617", "EPSG:4326", *BOUNDS)


def placed(make_raster: MakeRaster, crs: str, bounds: Any, name: str = "labels.tif") -> RasterSource:
    path = make_raster(name, np.ones((50, 60), np.uint8), crs=crs, transform=from_bounds(*bounds, 60, 50))
    return RasterSource(paths=(path,))


def moved(bounds: Any, across: float, up: float) -> Any:
    return bounds[0] + across, bounds[1] + up, bounds[2] + across, bounds[3] + up


def refusal(source: Any, grid: Grid = GRID) -> DataError:
    with pytest.raises(DataError, match="does not overlap `scene") as caught:
        refuse_far_labels([("scene.tif", grid, source)])
    return caught.value


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326", "EPSG:3857", "EPSG:26917", "EPSG:32618"])
def test_labels_on_the_scene_are_taken(make_raster: MakeRaster, crs: str) -> None:
    bounds = transform_bounds("EPSG:32617", crs, *BOUNDS)
    refuse_far_labels([("scene.tif", GRID, placed(make_raster, crs, bounds))])


@pytest.mark.parametrize(
    ("across", "up", "told"),
    [
        (20_000, 0, "20 km to the east"),
        (-9_000, -9_000, "12.7 km to the south-west"),
        (0, 1e6, "1,000 km to the north"),
    ],
)
def test_the_offset_of_labels_elsewhere_is_told(make_raster: MakeRaster, across: float, up: float, told: str) -> None:
    error = refusal(placed(make_raster, "EPSG:32617", moved(BOUNDS, across, up)))
    assert error.exit_code == 4
    with pytest.raises(DataError, match=told):
        raise error


def test_a_shift_of_whole_degrees_is_found(make_raster: MakeRaster) -> None:
    error = refusal(placed(make_raster, "EPSG:4326", moved(DEGREES, -3, 1)))
    assert "+3° of longitude and -1° of latitude" in error.hint


def test_longitudes_from_0_to_360_are_the_same_ground(make_raster: MakeRaster) -> None:
    refuse_far_labels([("scene.tif", GRID, placed(make_raster, "EPSG:4326", moved(DEGREES, 360, 0)))])


def test_swapped_axes_are_found(make_raster: MakeRaster) -> None:
    west, south, east, north = DEGREES
    assert "axes swapped" in refusal(placed(make_raster, "EPSG:4326", (south, west, north, east))).hint


@pytest.mark.parametrize(
    ("real", "said"),
    [
        ("EPSG:32617", "EPSG:32616"),
        ("EPSG:32617", "EPSG:3857"),
        ("EPSG:4326", "EPSG:32617"),
        ("EPSG:3857", "EPSG:32617"),
    ],
)
def test_a_wrong_crs_is_found(make_raster: MakeRaster, real: str, said: str) -> None:
    error = refusal(placed(make_raster, said, transform_bounds("EPSG:32617", real, *BOUNDS)))
    assert f"they overlap if its CRS is {real}" in error.hint


def test_the_utm_zone_of_a_scene_in_degrees_is_tried(make_raster: MakeRaster) -> None:
    grid = Grid(CRS.from_epsg(4326), from_bounds(*DEGREES, 200, 160), 200, 160)
    error = refusal(placed(make_raster, "EPSG:3857", BOUNDS), grid)
    assert "EPSG:32617" in error.hint


def test_feature_layers_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "f.gpkg"
    geopandas.GeoDataFrame({"class": [1]}, geometry=[shapely.box(*moved(DEGREES, 0, 2))], crs="EPSG:4326").to_file(path)
    source = VectorSource(path=path, layer="f", class_field="class")
    assert "+0° of longitude and -2° of latitude" in refusal(source).hint


def test_some_scenes_beside_shared_labels_are_a_warning(
    make_raster: MakeRaster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cwsam"), "propagate", True)
    source = placed(make_raster, "EPSG:32617", BOUNDS)
    beside = Grid(GRID.crs, from_origin(800_000, 4_000_000, 30, 30), 200, 160)
    refuse_far_labels([("a.tif", GRID, source), ("b.tif", beside, source)])
    assert "1 of 2 scenes lie outside the labels, such as `b.tif`" in caplog.text
    own = placed(make_raster, "EPSG:32617", moved(BOUNDS, 0, 50_000), "own.tif")
    with pytest.raises(DataError, match=r"own\.tif` does not overlap `b\.tif`"):
        refuse_far_labels([("a.tif", GRID, source), ("b.tif", beside, own)])


def test_one_raster_without_a_position_is_no_label_of_several_scenes(make_raster: MakeRaster) -> None:
    path = make_raster("labels.tif", np.ones((160, 200), np.uint8), crs=None, transform=Affine.identity())
    source = RasterSource(paths=(path,))
    refuse_far_labels([("a.tif", GRID, source)])
    with pytest.raises(DataError, match="no position, so it cannot be the label of 2 scenes"):
        refuse_far_labels([("a.tif", GRID, source), ("b.tif", GRID, source)])


def test_a_scene_on_the_antimeridian_has_its_labels_on_either_side(make_raster: MakeRaster) -> None:
    grid = Grid(CRS.from_epsg(32660), from_origin(800_000, 1_150_000, 1000, 1000), 100, 100)
    for west in (179.3, -180.6):
        source = placed(make_raster, "EPSG:4326", (west, 9.5, west + 0.5, 10.3), f"{west}.tif")
        refuse_far_labels([("scene.tif", grid, source)])
    refusal(placed(make_raster, "EPSG:4326", (-170, 9.5, -169, 10.3)), grid)


def test_the_centre_of_a_scene_is_in_degrees() -> None:
    from cwsam_cli.tile.labels.bounds import center

    way = Transformer.from_crs("EPSG:32617", "EPSG:4326", always_xy=True)
    assert center(GRID) == pytest.approx(way.transform(603_000, 3_997_600))
