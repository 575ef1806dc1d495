"""All pixels of a map are counted, however large the pieces are that are counted together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cwsam_cli.maps.strips import open_classes
from cwsam_cli.survey.population import classes_as_strata, count_population

MakeRaster = Callable[..., Path]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_every_pixel_with_data_counts_once(make_raster: MakeRaster, missing: int) -> None:
    """Bytes are counted in pairs, and 263,165 of them leave one over."""
    codes = np.random.default_rng(0).integers(1, 6, (515, 511)).astype(np.uint8)
    codes[0, :missing] = 255
    with open_classes(make_raster("map.tif", codes, nodata=255)) as source:
        population = count_population(source, classes_as_strata)
    assert population.values.tolist() == [1, 2, 3, 4, 5]
    assert population.units.tolist() == np.bincount(codes.ravel(), minlength=256)[1:6].tolist()
    assert population.outside == 0
