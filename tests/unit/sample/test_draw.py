"""Points are drawn at random, each pixel of a stratum with the same chance."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cwsam_cli.maps.strips import open_classes
from cwsam_cli.sample.draw import draw, further_allocation
from cwsam_cli.survey.population import classes_as_strata, count_population

MakeRaster = Callable[..., Path]


def test_every_pixel_of_a_stratum_is_drawn_equally_often(make_raster: MakeRaster) -> None:
    """Chi-squared with 59 degrees of freedom lies below 98 in 99.9 % of the cases."""
    codes = np.full((10, 12), 2, np.uint8)
    codes[::2] = 1
    path = make_raster("map.tif", codes, tiled=True, blockxsize=16, blockysize=16)
    first, both = np.zeros(codes.shape), np.zeros(codes.shape)
    with open_classes(path) as source:
        population = count_population(source, classes_as_strata)
        for seed in range(100):
            drawn = draw(source, classes_as_strata, population, np.array([20, 20]), seed=(seed, 1))
            more = draw(source, classes_as_strata, population, np.array([15, 5]), seed=(seed, 2), taken=drawn)
            for frame, sums in ((drawn, (first, both)), (more, (both,))):
                columns, rows = (frame.geometry.x - 600_000) // 30, (4_000_000 - frame.geometry.y) // 30
                for hits in sums:
                    np.add.at(hits, (rows.astype(int), columns.astype(int)), 1)
    for hits, points in ((first, (20, 20)), (both, (35, 25))):
        for code, count in zip((1, 2), points, strict=True):
            found, chance = hits[codes == code], count / 60
            assert found.sum() == 100 * count
            spread = (found - 100 * chance) ** 2 / (100 * chance * (1 - chance)) * 59 / 60
            assert spread.sum() < 98


def test_further_points_go_where_errors_are() -> None:
    pixels, drawn = np.array([10_000, 10_000, 10_000]), np.array([50, 50, 50])
    added = further_allocation(90, pixels, drawn, np.array([25, 45, 50]), drawn)
    assert added.sum() == 90
    assert added[0] > added[1] > added[2]
