"""Pictures of a map keep its place: every kept pixel is the map's own pixel there."""

import numpy as np
import pytest
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid
from cwsam_cli.verify.pictures import Thumbnail


@pytest.mark.parametrize(("height", "width", "rows"), [(50, 40, 7), (1500, 900, 13), (700, 2000, 1)])
def test_strips_of_any_height_give_the_same_picture(height: int, width: int, rows: int) -> None:
    codes = np.random.default_rng(0).integers(1, 4, (height, width))
    small = Thumbnail(Grid(crs=None, transform=from_origin(0, 0, 1, 1), width=width, height=height))
    for top in range(0, height, rows):
        strip = codes[top : top + rows]
        small.paint(Window(0, top, width, len(strip)), strip, strip != 3)
    kept = codes[:: small.step, :: small.step]
    assert max(kept.shape) <= 640
    expected = np.where(kept == 3, 255, kept - 1)
    assert (small.indices({1: 0, 2: 1, 3: 2}) == expected).all()
