"""Shared ground and distances, on planes and from degrees."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cwsam_cli.audit.ground import compare, draw_outlines
from cwsam_cli.audit.tiles import TileFacts
from cwsam_cli.raster.grid import Grid


def tile(split: str, west: float, north: float, *, epsg: int | None = 32617, pixel: float = 10) -> TileFacts:
    crs = CRS.from_epsg(epsg) if epsg else None
    return TileFacts(
        split=split,
        image=Path("tile.tif"),
        grid=Grid(crs, from_origin(west, north, pixel, pixel), 100, 100),
        digest=b"",
        reduced=np.zeros(1, np.float32),
        valid=1,
        codes={},
        points=np.zeros((0, 3), np.int64),
    )


def meeting(*tiles: TileFacts):
    return compare(draw_outlines(tiles), np.array([tile.split for tile in tiles]), "train", "test")


@pytest.mark.parametrize("epsg", [32617, None])
def test_tiles_apart(epsg: int | None) -> None:
    found = meeting(tile("train", 5e5, 4e6, epsg=epsg), tile("test", 5e5 + 3000, 4e6, epsg=epsg))
    assert (found.shared_m2, found.nearest_m, found.example) == (0, 2000, None)


@pytest.mark.parametrize("epsg", [32617, 4326])
def test_a_corner_of_few_pixels_is_shared_ground(epsg: int) -> None:
    pixel, west, north = (10, 5e5, 4e6) if epsg == 32617 else (1e-4, 20, 60)
    for pixels, is_shared in ((9, True), (1, False)):
        other = west + (100 - pixels) * pixel, north - (100 - pixels) * pixel
        found = meeting(
            tile("train", west, north, epsg=epsg, pixel=pixel), tile("test", *other, epsg=epsg, pixel=pixel)
        )
        assert (found.example is not None) == is_shared


def test_ground_that_two_test_tiles_share_with_a_training_tile_counts_once() -> None:
    found = meeting(tile("train", 5e5, 4e6), tile("test", 5e5 + 500, 4e6), tile("test", 5e5 + 400, 4e6))
    assert found.shared_m2 == pytest.approx(600 * 1000)
    assert found.nearest_m == 0 and found.example in ((0, 1), (0, 2))


def test_tiles_that_touch_share_no_ground() -> None:
    found = meeting(tile("train", 5e5, 4e6), tile("test", 5e5 + 1000, 4e6))
    assert (found.shared_m2, found.nearest_m, found.example) == (0, 0, None)


def test_degrees_and_zones_are_compared_in_metres() -> None:
    found = meeting(tile("train", 8, 50, epsg=4326, pixel=1e-4), tile("test", 8.02, 50, epsg=4326, pixel=1e-4))
    assert found.nearest_m == pytest.approx(0.01 * 71_700, rel=5e-3)
    overlap = meeting(tile("train", 8, 50, epsg=4326, pixel=1e-4), tile("test", 8.005, 50, epsg=4326, pixel=1e-4))
    assert overlap.shared_m2 == pytest.approx(0.005 * 71_700 * 0.01 * 111_230, rel=5e-3)
    zones = meeting(tile("train", 700_000, 5e6, epsg=32632), tile("test", 300_000, 5e6, epsg=32633))
    assert zones.nearest_m is not None and zones.nearest_m > 60_000


def test_tiles_without_a_position_have_no_distance() -> None:
    tiles = [dataclasses.replace(tile(split, 0, 0), grid=None) for split in ("train", "test")]
    assert meeting(*tiles) == meeting() and meeting().nearest_m is None


@pytest.mark.parametrize(("west", "shared_m2"), [(5e5 + 990, 0), (5e5 + 980, 20 * 1000)])
def test_a_strip_of_a_pixel_is_not_shared_ground(west: float, shared_m2: float) -> None:
    found = meeting(tile("train", 5e5, 4e6), tile("test", west, 4e6))
    assert found.shared_m2 == pytest.approx(shared_m2)
    assert (found.example is None) == (shared_m2 == 0)
