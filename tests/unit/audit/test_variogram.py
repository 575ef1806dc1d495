"""Ranges of fields whose correlation is known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cwsam_cli.audit.tiles import TileFacts
from cwsam_cli.audit.variogram import estimate
from cwsam_cli.raster.grid import Grid

SIDE, PIXEL = 64, 10


def tiles_of(codes: NDArray[np.int64]) -> list[TileFacts]:
    """Cut a map into tiles, with 40 random points each."""
    rng = np.random.default_rng(1)
    found = []
    for row in range(0, codes.shape[0], SIDE):
        for col in range(0, codes.shape[1], SIDE):
            x, y = rng.integers(0, SIDE, (2, 40))
            grid = Grid(
                CRS.from_epsg(32617), from_origin(5e5 + col * PIXEL, 4e6 - row * PIXEL, PIXEL, PIXEL), SIDE, SIDE
            )
            found.append(
                TileFacts(
                    split="train",
                    image=Path(f"{row}_{col}.tif"),
                    grid=grid,
                    digest=b"",
                    reduced=np.zeros(1, np.float32),
                    valid=SIDE**2,
                    codes={},
                    points=np.stack([x, y, codes[row + y, col + x]], axis=1),
                )
            )
    return found


def squares(side: int) -> NDArray[np.int64]:
    """Random classes in squares: points are correlated within a square only."""
    return np.random.default_rng(0).integers(0, 3, (640 // side + 1,) * 2).repeat(side, 0).repeat(side, 1)[:640, :640]


def test_noise_has_no_range() -> None:
    variogram = estimate(tiles_of(squares(1)))
    assert variogram is not None
    for code in range(3):
        assert abs(variogram.left_at(200)[code]) < 0.06
        assert (variogram.range_m(code) or 0) <= 10 * PIXEL


def test_the_range_of_squares_is_their_side() -> None:
    variogram = estimate(tiles_of(squares(32)))
    assert variogram is not None
    for code in range(3):
        assert 0.6 * 32 * PIXEL <= (variogram.range_m(code) or 0) <= 1.6 * 32 * PIXEL
        # The share of pairs at distance h in random directions that stay in a square of side s: 1 - 4h / (pi s) + ...
        assert variogram.left_at(8 * PIXEL)[code] == pytest.approx(1 - 4 / np.pi / 4 + 1 / np.pi / 16, abs=0.12)


def test_a_class_that_fills_half_of_the_map_does_not_reach_its_sill_early() -> None:
    codes = np.zeros((640, 640), np.int64)
    codes[:, 320:] = 1
    variogram = estimate(tiles_of(codes))
    assert variogram is not None
    assert variogram.left_at(300)[0] > 0.8
    found = variogram.range_m(0)
    assert found is None or found > 1500


def test_tiles_without_a_position_have_no_variogram() -> None:
    assert estimate([dataclasses.replace(tile, grid=None) for tile in tiles_of(squares(32))]) is None
    assert estimate([]) is None
