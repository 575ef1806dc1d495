"""A scene's date stands in its name or its tags."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cwsam_cli.errors import DataError
from cwsam_cli.tile.split.dates import scene_date

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
    assert scene_date(str(make_raster(name, np.ones((4, 4), np.uint8)))) == day


def test_the_date_in_a_tag(make_raster: MakeRaster) -> None:
    path = make_raster("scene.tif", np.ones((4, 4), np.uint8))
    with rasterio.open(path, "r+") as target:
        target.update_tags(TIFFTAG_DATETIME="2021:03:04 10:20:30")
    assert scene_date(str(path)) == "2021-03-04"


def test_no_date_is_an_error(make_raster: MakeRaster) -> None:
    with pytest.raises(DataError, match=r"scene\.tif.* nor its tags hold a date"):
        scene_date(str(make_raster("scene.tif", np.ones((4, 4), np.uint8))))
