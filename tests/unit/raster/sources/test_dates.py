"""A scene's date stands in its name or its tags."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cwsam_cli.raster.sources.dates import find_date
from cwsam_cli.raster.sources.views import View

MakeRaster = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("S2A_MSIL2A_20240115T103021_N0510_R108_T32UMD_20240115T141522.tif", "2024-01-15"),
        ("LC08_L1TP_016035_20200101_20200113_02_T1.tif", "2020-01-01"),
        ("scene-2019-07-31.tif", "2019-07-31"),
        ("MOD13Q1.A2019032.h11v05.tif", "2019-02-01"),
        ("20240431_20240502.tif", "2024-05-02"),  # there is no 31 April
        ("naip_2018.tif", "2018"),
    ],
)
def test_the_date_in_a_name(make_raster: MakeRaster, name: str, day: str) -> None:
    assert find_date(str(make_raster(name, np.ones((4, 4), np.uint8)))) == day


def test_the_date_in_a_tag(make_raster: MakeRaster) -> None:
    path = make_raster("scene.tif", np.ones((4, 4), np.uint8))
    with rasterio.open(path, "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="2021:03:04 10:20:30")
    assert find_date(str(path)) == "2021-03-04"


def test_the_date_of_a_stac_item_comes_before_that_in_its_name() -> None:
    view = View(name="S2_20200101.stac", members=(("", "a.tif"),), date="2024-06-01T10:00:00Z")
    assert find_date(view.to_text()) == "2024-06-01T10:00:00Z"


def test_a_scene_without_a_date_has_none(make_raster: MakeRaster) -> None:
    assert find_date(str(make_raster("scene.tif", np.ones((4, 4), np.uint8)))) == ""
