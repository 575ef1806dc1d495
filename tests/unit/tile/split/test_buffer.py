"""Blocks give way by strips, and tiles too near to a stricter split go."""

import numpy as np
import pytest
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.scenes import LabelledScene
from cwsam_cli.tile.split.buffer import find_intrusions, inset, near_folds, yielding
from tests.described_scenes import described


def scene(name: str = "a", *, west: float = 600_000, crs: int | None = 32617, pixel: float = 10) -> LabelledScene:
    transform = Affine(pixel, 0, west, 0, -pixel, 4_000_000) if crs else Affine.identity()
    return described(name, Grid(CRS.from_epsg(crs) if crs else None, transform, 1000, 1000))


def tile(col: int, row: int = 0, *, scene: int = 0, size: int = 10, split: str = "train") -> PlannedTile:
    return PlannedTile(scene=scene, row_off=row, col_off=col, height=size, width=size, split=split, block="b")


STRICT = {"train": 0, "val": 1, "test": 2}


def gone(scenes: list[LabelledScene], tiles: list[PlannedTile], buffer: int) -> set[int]:
    splits = [tile.split for tile in tiles]
    return yielding(scenes, tiles, splits, [STRICT[split] for split in splits], buffer=buffer)


@pytest.mark.parametrize(("buffer", "lost"), [(0, set()), (1, {1}), (10, {1}), (11, {1, 2})])
def test_tiles_closer_than_the_buffer_to_the_test_go(buffer: int, lost: set[int]) -> None:
    tiles = [tile(0, split="test"), tile(10), tile(20), tile(40)]
    assert gone([scene()], tiles, buffer) == lost


def test_a_tile_that_goes_drives_no_other_away() -> None:
    tiles = [tile(0, split="test"), tile(10, split="val"), tile(20)]
    assert gone([scene()], tiles, 10) == {1}


def test_scenes_on_other_grids_of_one_crs_are_compared() -> None:
    scenes = [scene(), scene("b", west=600_105, pixel=10.5)]
    assert gone(scenes, [tile(0, split="test"), tile(0, scene=1)], 1) == {1}
    assert gone(scenes, [tile(0, split="test"), tile(1, scene=1)], 1) == set()


def test_scenes_of_two_zones_are_compared_on_the_ground() -> None:
    east, north = Transformer.from_crs(32617, 32618, always_xy=True).transform(750_000, 4_000_000)
    scenes = [scene(west=750_000), scene("b", west=east, crs=32618)]
    row = round((4_000_000 - north) / 10)
    assert gone(scenes, [tile(0, split="test"), tile(15, row, scene=1)], 10) == {1}
    assert gone(scenes, [tile(0, split="test"), tile(30, row, scene=1)], 10) == set()


def test_scenes_without_a_place_never_meet() -> None:
    scenes = [scene(crs=None), scene("b", crs=None)]
    assert gone(scenes, [tile(0, split="test"), tile(0, scene=1), tile(10)], 5) == {2}


def test_folds_near_a_tile_are_named() -> None:
    tiles = [tile(0), tile(10), tile(40), tile(60, split="test")]
    assert near_folds([scene()], tiles, [0, 1, 2, None], buffer=21) == [(1,), (0, 2), (1,), ()]


def test_a_strip_is_cut_off_and_a_corner_stays() -> None:
    window = Window(100, 50, 40, 40)
    assert inset(window, np.array([[130, 50, 140, 90]])) == Window(100, 50, 30, 40)
    assert inset(window, np.array([[100, 50, 140, 60]])) == Window(100, 60, 40, 30)
    assert inset(window, np.array([[130, 50, 140, 60]])) == window
    assert inset(window, np.array([[130, 50, 140, 60], [100, 50, 130, 60]])) == window
    assert inset(window, np.zeros((0, 4), np.int64)) == window


def test_what_a_cut_leaves_can_turn_a_corner_into_a_strip() -> None:
    reached = np.array([[130, 80, 140, 90], [100, 50, 130, 90]])
    assert inset(Window(100, 50, 40, 40), reached).width <= 10


def test_blocks_beside_each_other_lose_a_strip_and_at_a_corner_a_tile() -> None:
    blocks = [tile(0, size=40), tile(40, size=40), tile(40, 40, size=40), tile(200, size=40)]
    found = find_intrusions([scene()], blocks, buffer=10, size=10)
    lost = {(i, j): x for i, j, x in zip(found.ours, found.theirs, found.lost.tolist(), strict=True)}
    assert lost == {
        (0, 1): 0.25,
        (1, 0): 0.25,
        (0, 2): 1 / 16,
        (2, 0): 1 / 16,
        (1, 2): 0.25,
        (2, 1): 0.25,
    }
    reached = {(int(i), int(j)): r.tolist() for i, j, r in zip(found.ours, found.theirs, found.reached, strict=True)}
    assert reached[0, 1] == [30, 0, 40, 40] and reached[0, 2] == [30, 30, 40, 40]


def test_a_block_of_one_tile_is_lost_whole() -> None:
    found = find_intrusions([scene()], [tile(0), tile(10), tile(20)], buffer=3, size=10)
    assert found.lost.tolist() == [1.0] * 4


def test_scenes_of_two_zones_share_no_ground_without_a_buffer() -> None:
    east, north = Transformer.from_crs(32617, 32618, always_xy=True).transform(750_000, 4_000_000)
    scenes = [scene(west=750_000), scene("b", west=east, crs=32618)]
    row = round((4_000_000 - north) / 10)
    assert gone(scenes, [tile(0, split="test"), tile(5, row, scene=1)], 0) == {1}
    assert gone(scenes, [tile(0, split="test"), tile(15, row, scene=1)], 0) == set()


@pytest.mark.parametrize(("pixels", "lost"), [(1, set()), (3, {1})])
def test_without_a_buffer_a_corner_of_a_pixel_may_be_shared(pixels: int, lost: set[int]) -> None:
    tiles = [tile(0, split="test"), tile(10 - pixels, 10 - pixels, scene=1)]
    assert gone([scene(), scene("b")], tiles, 0) == lost


def test_without_a_buffer_folds_may_touch() -> None:
    scenes = [scene(), scene("b", west=600_050)]
    assert near_folds(scenes, [tile(0), tile(10), tile(20, scene=1)], [0, 1, 2], buffer=0) == [(), (), ()]
    assert near_folds(scenes, [tile(0), tile(0, scene=1)], [0, 1], buffer=0) == [(1,), (0,)]
