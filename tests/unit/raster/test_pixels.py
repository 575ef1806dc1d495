"""Nodata values are found in the pixels that are read, as GDAL's masks find them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from cwsam_cli.raster.pixels import read_bands, read_valid

MakeRaster = Callable[..., Path]


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        *(("uint8", 0), ("uint8", 255), ("int8", -128), ("uint16", 65_535), ("int16", -9999), ("int32", -(2**31))),
        *(("uint32", 2**32 - 1), ("int64", 2**53), ("float32", -9999), ("float32", 0.1)),
    ],
)
@pytest.mark.parametrize("bands", [[1], [2, 1]])
def test_pixels_tell_the_same_ground_without_data_as_gdals_masks(
    make_raster: MakeRaster, dtype: str, nodata: float, bands: list[int]
) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 100, (2, 9, 12)).astype(dtype)
    values[rng.random(values.shape) < 0.6] = nodata
    window = Window(2, 1, 9, 7)
    with rasterio.open(make_raster("nodata.tif", values, nodata=nodata)) as dataset:
        image = read_bands(dataset, bands, window)
        expected = read_valid(dataset, bands, window, 0)
        found = read_valid(dataset, bands, window, 0, image=image)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(found, expected)
