"""Ground goes to one split whole, and every class to all of them where blocks allow."""

from collections import Counter

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.raster.grid import Grid
from cwsam_cli.tile.split import assign, choose_block_size, cut_blocks

UTM = CRS.from_epsg(32617)


def grid(width: int, height: int, *, col: int = 0, row: int = 0, crs: CRS | None = UTM, pixel: float = 30) -> Grid:
    return Grid(crs, from_origin(col * pixel, -row * pixel, pixel, pixel), width, height)


@pytest.mark.parametrize(
    ("side", "tiles"),
    [(100, 1), (1000, 2), (3000, 6), (50_000, 8)],  # 4, 100, 900 and 250,000 tiles
)
def test_blocks_grow_with_the_ground_but_leave_enough_to_choose_from(side: int, tiles: int) -> None:
    assert choose_block_size([grid(side, side)], 50 if side == 100 else 100) == tiles * (50 if side == 100 else 100)


def test_blocks_lie_on_the_ground_lattice_and_not_on_the_scenes_corner() -> None:
    blocks = cut_blocks(grid(30, 20, col=15, row=20), 20, 5, "0")
    assert [block.window for block in blocks] == [Window(0, 0, 5, 20), Window(5, 0, 20, 20), Window(25, 0, 5, 20)]


def test_an_edge_piece_that_cannot_hold_a_tile_joins_its_neighbour() -> None:
    blocks = cut_blocks(grid(30, 20, col=15, row=20), 20, 6, "0")
    assert [block.window for block in blocks] == [Window(0, 0, 30, 20)]
    assert blocks[0].key == cut_blocks(grid(20, 20, col=20, row=20), 20, 6, "1")[0].key


def test_a_scene_smaller_than_a_tile_is_one_block() -> None:
    (block,) = cut_blocks(grid(7, 5), 64, 64, "0")
    assert block.window == Window(0, 0, 7, 5)


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:2264", "EPSG:4326"])
def test_scenes_that_overlap_share_the_blocks_of_their_common_ground(crs: str) -> None:
    pixel = 0.0001 if crs == "EPSG:4326" else 0.5
    west = cut_blocks(grid(60, 40, col=100, crs=CRS.from_user_input(crs), pixel=pixel), 20, 10, "0")
    east = cut_blocks(grid(60, 40, col=120, crs=CRS.from_user_input(crs), pixel=pixel), 20, 10, "1")
    shared = {block.key for block in west} & {block.key for block in east}
    assert len(west) == len(east) == 6
    assert len(shared) == 4


@pytest.mark.parametrize(
    "other",
    [
        Grid(UTM, from_origin(0, 0, 20, 20), 40, 40),  # another resolution
        Grid(CRS.from_epsg(32618), from_origin(0, 0, 30, 30), 40, 40),  # another zone
        Grid(UTM, Affine(30, 1, 0, 1, -30, 0), 40, 40),  # askew
        Grid(None, from_origin(0, 0, 30, 30), 40, 40),  # nowhere
    ],
    ids=["resolution", "zone", "rotation", "no CRS"],
)
def test_scenes_on_other_grids_share_no_block(other: Grid) -> None:
    here = {block.key for block in cut_blocks(grid(40, 40), 20, 10, "0")}
    there = {block.key for block in cut_blocks(other, 20, 10, "1")}
    assert not here & there


def test_scenes_without_a_crs_keep_their_blocks_apart() -> None:
    first, second = ({block.key for block in cut_blocks(grid(40, 40, crs=None), 20, 10, str(n))} for n in (0, 1))
    assert len(first) == len(second) == 4
    assert not first & second


def test_classes_are_shared_out_evenly() -> None:
    # Half of the blocks hold only class 0, half only class 1: chance alone would often part them badly.
    histograms = np.array([[1000, 0]] * 20 + [[0, 1000]] * 20)
    splits = np.array(assign(histograms, (50, 25, 25), seed=0))
    for half in (splits[:20], splits[20:]):
        assert Counter(half.tolist()) == {"train": 10, "val": 5, "test": 5}


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_stands_in_one_block_goes_to_training(seed: int) -> None:
    histograms = np.full((12, 3), 500)
    histograms[:, 2] = 0
    histograms[seed, 2] = 3
    assert assign(histograms, (40, 30, 30), seed=seed)[seed] == "train"


def test_no_class_is_missing_from_training_even_if_shares_suffer() -> None:
    histograms = np.array([[2000, 0], [1000, 3], [1000, 0]])
    assert assign(histograms, (50, 25, 25), seed=0)[1] == "train"


def test_another_seed_gives_another_split() -> None:
    histograms = np.random.default_rng(0).integers(1, 100, (40, 4))
    assert len({tuple(assign(histograms, (70, 15, 15), seed=seed)) for seed in range(4)}) == 4


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (1, (70, 15, 15), (1, 0, 0)),
        (2, (70, 15, 15), (1, 1, 0)),
        (3, (70, 15, 15), (1, 1, 1)),
        (10, (70, 30, 0), (7, 3, 0)),
        (10, (80, 0, 20), (8, 0, 2)),
        (5, (1, 0, 0), (5, 0, 0)),
        (100, (0.7, 0.2, 0.1), (70, 20, 10)),
    ],
)
def test_every_wanted_split_gets_its_blocks(
    count: int, shares: tuple[float, ...], expected: tuple[int, int, int]
) -> None:
    splits = assign(np.full((count, 2), 10), shares, seed=0)
    assert tuple(splits.count(split) for split in SPLITS) == expected


def test_a_class_that_nobody_labelled_does_not_matter() -> None:
    histograms = np.random.default_rng(0).integers(1, 100, (20, 2))
    wider = np.concatenate([histograms, np.zeros((20, 3), np.int64)], axis=1)
    assert assign(wider, (70, 15, 15), seed=1) == assign(histograms, (70, 15, 15), seed=1)
