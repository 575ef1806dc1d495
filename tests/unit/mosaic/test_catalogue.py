"""Maps are told from their layers, and their dates are found."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cwsam_cli.errors import DataError
from cwsam_cli.mosaic.catalogue import inspect_maps
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import from_names


@pytest.mark.parametrize(
    ("name", "tags", "day"),
    [
        ("S2A_20170105T013442_T53NMJ_20180101", {}, date(2017, 1, 5)),
        ("map-1999_12_31", {"TIFFTAG_DATETIME": "2024:01:01 00:00:00"}, date(1999, 12, 31)),
        ("20240531101112", {}, date(2024, 5, 31)),
        ("tile_20241399_30", {"TIFFTAG_DATETIME": "2024:02:29 12:00:00"}, date(2024, 2, 29)),
        ("120240531", {}, None),
        ("row20_col19991", {}, None),
    ],
)
def test_the_date_is_the_first_day_in_the_name_or_else_a_tag(
    make_raster: Callable[..., Path], name: str, tags: dict[str, str], day: date | None
) -> None:
    path = make_raster(f"{name}.tif", np.ones((2, 2), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        tag_classes(dataset, from_names(["a", "b"]))
        dataset.update_tags(**tags)
    other = make_raster("other_2000-01-01.tif", np.ones((2, 2), np.uint8))
    with rasterio.open(other, "r+") as dataset:
        tag_classes(dataset, from_names(["a", "b"]))
    if day is None:
        with pytest.raises(DataError, match="no date in its name"):
            inspect_maps([str(path), str(other)], "date")
    else:
        assert inspect_maps([str(path), str(other)], "date")[0].day == day
