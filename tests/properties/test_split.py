"""Blocks partition the ground, scenes share them, and every split gets its part."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.taxonomy import from_names
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import LabelledScene
from cwsam_cli.tile.split.assignment import assign
from cwsam_cli.tile.split.blocks import Block, choose_block_size, cut_blocks
from cwsam_cli.tile.split.division import Division, divide
from cwsam_cli.tile.split.earlier import EarlierGround
from tests.described_scenes import described

modest = settings(max_examples=60, deadline=None, database=None)
UTM = CRS.from_epsg(32617)


class Ground(NamedTuple):
    """A scene on the pixel lattice of its CRS."""

    col: int
    row: int
    width: int
    height: int

    def grid(self, crs: CRS | None = UTM) -> Grid:
        return Grid(crs, Affine(30, 0, 30 * self.col, 0, -30, -30 * self.row), self.width, self.height)


sides = st.integers(1, 70)
places = st.integers(-10_000, 10_000)
grounds = st.builds(Ground, places, places, sides, sides)
tiles = st.integers(1, 20)
multiples = st.integers(1, 4)  # tiles a side of a block


def narrow(start: int, length: int, block: int, size: int) -> NDArray[np.bool_]:
    """Which pixels of an axis lie in a piece of the block lattice too short for a tile."""
    number = (np.arange(length) + start) // block
    _, inverse, counts = np.unique(number, return_inverse=True, return_counts=True)
    return counts[inverse] < size


def owners(blocks: list[Block], ground: Ground) -> NDArray[np.object_]:
    """Each pixel's block key."""
    owner = np.empty((ground.height, ground.width), object)
    for block in blocks:
        rows, cols = block.window.toslices()
        for row in range(rows.start, rows.stop):
            for col in range(cols.start, cols.stop):
                assert owner[row, col] is None
                owner[row, col] = block.key
    return owner


@modest
@given(grounds, tiles, multiples, st.sampled_from([UTM, None]))
def test_blocks_partition_the_scene(ground: Ground, size: int, times: int, crs: CRS | None) -> None:
    seen = np.zeros((ground.height, ground.width), int)
    for block in cut_blocks(ground.grid(crs), size * times, size, "0"):
        assert block.window.col_off >= 0 and block.window.col_off + block.window.width <= ground.width
        assert block.window.row_off >= 0 and block.window.row_off + block.window.height <= ground.height
        seen[block.window.toslices()] += 1
    assert (seen == 1).all()


@modest
@given(grounds, tiles, multiples)
def test_no_block_is_narrower_than_a_tile_unless_the_scene_is(ground: Ground, size: int, times: int) -> None:
    for block in cut_blocks(ground.grid(), size * times, size, "0"):
        assert block.window.width >= min(size, ground.width)
        assert block.window.height >= min(size, ground.height)


@modest
@given(grounds, tiles, multiples)
def test_a_block_grows_by_less_than_a_tile_a_side(ground: Ground, size: int, times: int) -> None:
    for block in cut_blocks(ground.grid(), size * times, size, "0"):
        assert max(block.window.width, block.window.height) <= size * times + 2 * (size - 1)


@modest
@given(grounds, tiles, multiples)
def test_blocks_of_one_scene_have_keys_of_their_own(ground: Ground, size: int, times: int) -> None:
    keys = [block.key for block in cut_blocks(ground.grid(), size * times, size, "0")]
    assert len(set(keys)) == len(keys)


@modest
@given(grounds, st.tuples(st.integers(-40, 40), st.integers(-40, 40), sides, sides), tiles, multiples)
def test_scenes_on_one_grid_give_shared_ground_the_same_block(
    first: Ground, shifted: tuple[int, int, int, int], size: int, times: int
) -> None:
    second = Ground(first.col + shifted[0], first.row + shifted[1], *shifted[2:])
    left, right = max(first.col, second.col), min(first.col + first.width, second.col + second.width)
    top, bottom = max(first.row, second.row), min(first.row + first.height, second.row + second.height)
    assume(left < right and top < bottom)
    shared, merged = [], []
    for number, ground in enumerate((first, second)):
        window = np.s_[top - ground.row : bottom - ground.row, left - ground.col : right - ground.col]
        shared.append(owners(cut_blocks(ground.grid(), size * times, size, str(number)), ground)[window])
        rows = narrow(ground.row, ground.height, size * times, size)
        cols = narrow(ground.col, ground.width, size * times, size)
        merged.append((rows[:, None] | cols)[window])
    elsewhere = ~(merged[0] | merged[1])  # an edge piece that cannot hold a tile joins its neighbour
    assert (shared[0] == shared[1])[elsewhere].all()


@modest
@given(grounds, tiles, multiples)
def test_scenes_without_a_place_share_no_block(ground: Ground, size: int, times: int) -> None:
    grid = dataclasses.replace(ground.grid(None), transform=Affine.identity())
    first, second = ({block.key for block in cut_blocks(grid, size * times, size, str(n))} for n in (0, 1))
    assert not first & second


@modest
@given(st.lists(grounds, min_size=1, max_size=3), tiles)
def test_a_block_is_a_whole_number_of_tiles(scenes: list[Ground], size: int) -> None:
    side = choose_block_size([ground.grid() for ground in scenes], size)
    assert side % size == 0 and size <= side <= 8 * size


@st.composite
def histograms(draw: st.DrawFn, smallest: int) -> NDArray[np.int64]:
    blocks, classes = draw(st.integers(smallest, 40)), draw(st.integers(1, 6))
    found = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, 500, (blocks, classes))
    found[:, 0] += 1  # no block without a label
    return found


# Training gets at least half, as everybody has it.
shares = st.tuples(st.integers(50, 100), st.integers(0, 25), st.integers(0, 25))
few = settings(max_examples=25, deadline=None, database=None)


@few
@given(histograms(3), shares, st.integers(0, 1000))
def test_three_blocks_are_enough_for_every_wanted_split(
    found: NDArray[np.int64], wanted: tuple[int, int, int], seed: int
) -> None:
    splits = assign(found, wanted, seed=seed)
    assert len(splits) == len(found)
    assert set(splits) == {split for split, share in zip(SPLITS, wanted, strict=True) if share}


@few
@given(histograms(1), shares, st.integers(0, 1000))
def test_a_split_gets_its_share_of_blocks_to_the_nearest_one(
    found: NDArray[np.int64], wanted: tuple[int, int, int], seed: int
) -> None:
    splits = assign(found, wanted, seed=seed)
    assert "train" in splits
    for split, share in zip(SPLITS[1:], wanted[1:], strict=True):
        meant = len(found) * share / sum(wanted)
        assert abs(splits.count(split) - meant) <= (1 if meant < 1 else 0.5)


@few
@given(histograms(1), shares, st.integers(0, 1000))
def test_the_split_is_repeatable_by_its_seed(found: NDArray[np.int64], wanted: tuple[int, int, int], seed: int) -> None:
    assert assign(found, wanted, seed=seed) == assign(found.copy(), wanted, seed=seed)


# --- whole divisions ---


def labelled(ground: Ground, number: int, crs: int = 32617) -> LabelledScene:
    return described(f"scene{number}", dataclasses.replace(ground.grid(), crs=CRS.from_epsg(crs)))


def divided(scenes: list[LabelledScene], side: int, request: TileRequest) -> Division:
    """Divide scenes whose every block has labels of two classes."""
    blocks = [cut_blocks(scene.grid, side, request.size, scene.name) for scene in scenes]
    found = {block.unit: Counter({1: 3 + len(block.key), 2: 5}) for own in blocks for block in own}
    return divide(scenes, blocks, found, from_names(["a", "b"], first=1), request, EarlierGround())


near_places = st.integers(-60, 60)
wider = st.integers(30, 90)
scene_lists = st.lists(st.builds(Ground, near_places, near_places, wider, wider), min_size=1, max_size=3)


@settings(max_examples=12, deadline=None, database=None)
@given(
    scene_lists,
    st.integers(4, 12),
    st.integers(1, 3),
    st.integers(0, 11),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(0, 99),
)
def test_tiles_of_different_splits_are_a_buffer_apart_on_the_ground(
    grounds: list[Ground], size: int, times: int, overlap: int, buffer: int | None, seed: int
) -> None:
    scenes = [labelled(ground, number) for number, ground in enumerate(grounds)]
    request = TileRequest(
        scenes=tuple(scene.path for scene in scenes),
        labels=Path("labels.tif"),
        output=Path("dataset"),
        size=size,
        overlap=min(overlap, size - 1),
        buffer=Length(buffer, "px") if buffer else None,
        seed=seed,
    )
    try:
        division = divided(scenes, size * times, request)
    except DataError as error:  # a buffer that the ground has no room for
        assert buffer and "leaves no tile" in str(error)
        return
    assert division.buffer == buffer or buffer is None
    assert division == divided(scenes, size * times, request), "the same seed gives the same tiles"
    place = np.array(
        [
            (grounds[t.scene].col + t.col_off, grounds[t.scene].row + t.row_off, t.width, t.height)
            for t in division.tiles
        ]
    )
    split = np.array([tile.split for tile in division.tiles])
    low, high = place[:, :2], place[:, :2] + place[:, 2:]
    for own in ("val", "test"):
        ours, theirs = split == own, split != own
        apart = np.maximum(low[ours][:, None] - high[theirs][None], low[theirs][None] - high[ours][:, None])
        distance = np.hypot(*np.moveaxis(np.maximum(apart, 0), 2, 0))
        if division.buffer:
            assert (distance >= division.buffer).all()
        else:
            assert (apart >= 0).any(axis=2).all(), "no pixel is in two splits"
