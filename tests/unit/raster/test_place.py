"""What a raster says of its place must be possible."""

import subprocess
import sys
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs, refuse_enormous, refuse_impossible

MakeRaster = Callable[..., Any]


def on(crs: str, transform: Affine, width: int = 100, height: int = 80) -> Grid:
    return Grid(CRS.from_user_input(crs), transform, width, height)


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (on("EPSG:4326", Affine(30, 0, 600_000, 0, -30, 4_000_000)), r"upper left corner.*latitude 4,000,000°"),
        (on("EPSG:4326", Affine(0.1, 0, 10, 0, -10, 60)), r"lower right corner.*latitude -740°"),
        (on("EPSG:4326", Affine(10, 0, 10, 0, -0.1, 60)), r"upper right corner.*longitude 1,010°.*round the Earth"),
        (on("EPSG:4807", Affine(0.1, 0, 10, 0, -0.1, 108)), r"upper left corner.*latitude 97.2°"),
        (on("EPSG:32617", Affine(nan, 0, 600_000, 0, -30, 4_000_000)), "upper left corner.*nan"),
        (on("EPSG:32617", Affine(30, 0, 600_000, 0, -30, inf)), "upper left corner.*inf"),
        (on("EPSG:32617", Affine(30, 0, 600_000, 0, 0, 4_000_000)), "no size"),
        (on("EPSG:32617", Affine(30, 0, 1e12, 0, -30, 4_000_000)), r"corners.*1e\+12.*no point"),
        (on("EPSG:3857", Affine(1e8, 0, -5e9, 0, -1e5, 4e6)), r"corners.*-5e\+09.*larger than the Earth"),
    ],
)
def test_impossible_coordinates_are_refused_by_their_corner(grid: Grid, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        refuse_impossible(grid, "map.tif")
    assert "`map.tif`" in str(caught.value) and "gdal_translate" in caught.value.hint


@pytest.mark.parametrize(
    "grid",
    [
        on("EPSG:4326", Affine(0.25, 0, -0.125, 0, -0.25, 90.125), 1440, 721),  # middles on the poles
        on("EPSG:4326", Affine(10, 0, 100, 0, -10, 90), 36, 18),
        on("EPSG:4326", Affine(10, 0, -180, 0, 10, -90), 36, 18),
        on("EPSG:4807", Affine(0.1, 0, 10, 0, -0.1, 99)),
        on("EPSG:3857", Affine(4e5, 0, -2e7, 0, -4e5, 2e7), 100, 100),
        on("ESRI:54008", Affine(4e5, 0, -2e7, 0, -2e5, 1e7), 100, 100),
        on("EPSG:3413", Affine(4e5, 0, -2e7, 0, -4e5, 2e7), 100, 100),
        on("+proj=ortho +lat_0=45", Affine(2e5, 0, -1e7, 0, -2e5, 1e7), 100, 100),
        Grid(None, Affine(1e9, 0, 1e12, 0, 1e9, 1e12), 100, 80),
        Grid(CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]'), Affine(1e9, 0, 0, 0, 1e9, 0), 100, 80),
    ],
    ids=str,
)
def test_whole_earths_and_places_of_their_own_are_possible(grid: Grid) -> None:
    refuse_impossible(grid, "map.tif")


@pytest.mark.parametrize("transform", [Affine.identity(), Affine.scale(1, -1)])
def test_a_crs_without_a_position_is_no_place(transform: Affine) -> None:
    with pytest.raises(DataError, match="no position") as caught:
        refuse_impossible(on("EPSG:26917", transform), "map.tif")
    assert "-a_ullr" in caught.value.hint


def test_what_a_raster_lacks_is_named_and_copied_from_one_of_its_size_that_has_it() -> None:
    placed = on("EPSG:26917", Affine(30, 0, 600_000, 0, -30, 4_000_000))
    bare, other = Grid(None, Affine.identity(), 100, 80), Grid(None, Affine.identity(), 50, 80)
    somewhere = Grid(None, placed.transform, 100, 80)
    assert missing_crs("map.tif", somewhere, "so").hint == "if you know it: rio edit-info --crs EPSG:<code> map.tif"
    for others in ([], [("scene.tif", bare)], [("scene.tif", somewhere)]):
        error = missing_crs("map.tif", bare, "so areas would have no unit", others)
        assert "no coordinate reference system, nor a position, so areas" in str(error)
        assert "-a_srs EPSG:<code> -a_ullr <ULX> <ULY> <LRX> <LRY> map.tif" in error.hint
    assert "-a_ullr" in missing_crs("map.tif", other, "so", [("scene.tif", placed)]).hint
    copy = missing_crs("map.tif", bare, "so", [("other.tif", bare), ("scene.tif", placed)]).hint
    assert "rio edit-info --like scene.tif --crs like --transform like map.tif" in copy


def test_the_hint_places_the_raster_and_keeps_its_nodata(tmp_path: Path, make_raster: MakeRaster) -> None:
    codes = np.zeros((8, 10), np.uint8)
    scene = make_raster("scene.tif", codes, nodata=0)
    bare = make_raster("map.tif", codes, crs=None, transform=Affine.identity())
    with rasterio.open(bare) as one, rasterio.open(scene) as other:
        error = missing_crs(bare, Grid.of(one), "so", [(scene, Grid.of(other))])
    command = error.hint.partition("rio ")[2].split()
    subprocess.run([Path(sys.executable).with_name("rio"), *command], check=True, capture_output=True)
    with rasterio.open(bare) as one, rasterio.open(scene) as other:
        assert (one.crs, one.transform, one.nodata) == (other.crs, other.transform, None)


def test_the_limit_of_pixels_is_lifted_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_enormous(4_320_000, 1_728_000, "the Earth at 10 m")
    side = 3_512_345_679
    with pytest.raises(DataError, match=r"pixels to process, more than 1e\+13") as refused:
        refuse_enormous(side, side, "scene.vrt")
    monkeypatch.setenv("CWSAM_MAX_PIXELS", refused.value.hint.rpartition("=")[2])
    refuse_enormous(side, side, "scene.vrt")
    for limit in ("100", "nan"):
        monkeypatch.setenv("CWSAM_MAX_PIXELS", limit)
        with pytest.raises(DataError, match=f"11 × 10 pixels to process, more than {limit}"):
            refuse_enormous(11, 10, "scene.tif")
    monkeypatch.setenv("CWSAM_MAX_PIXELS", "much")
    with pytest.raises(UsageError, match="`much` is not a number"):
        refuse_enormous(1, 1, "scene.tif")
