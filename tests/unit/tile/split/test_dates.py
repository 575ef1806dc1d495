"""A scene's date decides its split."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cwsam_cli.errors import DataError
from cwsam_cli.raster.sources.views import View
from cwsam_cli.tile.split.dates import scene_date

MakeRaster = Callable[..., Path]


def test_scenes_of_one_day_have_one_date() -> None:
    view = View(name="a.stac", members=(("", "a.tif"),), date="2024-06-01T10:00:00Z")
    assert scene_date(view.to_text()) == "2024-06-01"


def test_no_date_is_an_error(make_raster: MakeRaster) -> None:
    with pytest.raises(DataError, match=r"scene\.tif.* nor its tags hold a date"):
        scene_date(str(make_raster("scene.tif", np.ones((4, 4), np.uint8))))
