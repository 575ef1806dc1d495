"""Whatever is added to whatever dataset: no tile moves, and the splits stay a buffer apart."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from cwsam_cli.raster.grid import Grid
from cwsam_cli.taxonomy import from_names
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import LabelledScene
from cwsam_cli.tile.split import assignment
from cwsam_cli.tile.split.blocks import cut_blocks
from cwsam_cli.tile.split.buffer import near_folds
from cwsam_cli.tile.split.division import Division, divide, together
from cwsam_cli.tile.split.earlier import DividedUnit, EarlierGround
from tests.described_scenes import described

TABLE = from_names(["a", "b"], first=1)
PIXELS = 30, 20, 45
"""Metres per pixel of scenes: on the lattice of the first ones, and on others."""

places = st.tuples(st.integers(-60, 60), st.integers(-60, 60), st.sampled_from(PIXELS))
sides = st.tuples(st.integers(30, 80), st.integers(30, 80))
runs = st.lists(st.lists(st.tuples(places, sides), min_size=1, max_size=2), min_size=2, max_size=4)


def scene(name: str, place: tuple[int, int, int], side: tuple[int, int]) -> LabelledScene:
    col, row, pixel = place
    transform = Affine(pixel, 0, 600_000 + 30 * col, 0, -pixel, 4_000_000 - 30 * row)
    return described(name, Grid(CRS.from_epsg(32617), transform, side[1], side[0]))


def added(
    scenes: list[LabelledScene], side: int, request: TileRequest, earlier: EarlierGround
) -> tuple[Division, EarlierGround]:
    """Divide new scenes, and return the whole ground after that as the next run reads it."""
    blocks = [cut_blocks(own.grid, side, request.size, own.name) for own in scenes]
    found = {block.unit: Counter({1: 3 + len(block.key), 2: 5}) for own in blocks for block in own}
    division = divide(scenes, blocks, found, TABLE, request, earlier)
    counted = together(found, earlier)
    units = {
        unit: DividedUnit(split, division.folds.get(unit), dict(counted[unit]))
        for unit, split in division.parts.items()
    }
    before = len(earlier.scenes)
    tiles = [replace(tile, scene=tile.scene + before) for tile in division.tiles]
    return division, EarlierGround((*earlier.scenes, *scenes), (*earlier.tiles, *tiles), units)


def on_ground(ground: EarlierGround) -> np.ndarray:
    """West, north, east and south of each tile in metres; north is negative."""
    boxes = []
    for tile in ground.tiles:
        a, _, c, _, e, f = ground.scenes[tile.scene].transform
        left, top = c + a * tile.col_off, f + e * tile.row_off
        boxes.append((left, -top, left + a * tile.width, -(top + e * tile.height)))
    return np.array(boxes).reshape(-1, 4)


@settings(max_examples=8, deadline=None, database=None)
@given(
    runs, st.integers(5, 12), st.integers(1, 3), st.integers(0, 6), st.integers(0, 12), st.integers(0, 99),
    st.sampled_from([None, 3]),
)  # fmt: skip
def test_no_tile_moves_and_splits_stay_a_buffer_apart(
    made: list[list[tuple[tuple[int, int, int], tuple[int, int]]]],
    size: int,
    times: int,
    overlap: int,
    buffer: int,
    seed: int,
    folds: int | None,
) -> None:
    request = TileRequest(
        scenes=("scene.tif",),
        labels=Path("labels.tif"),
        output=Path("dataset"),
        size=size,
        overlap=0 if folds else min(overlap, size - 1),
        seed=seed,
        folds=folds,
    )
    ground, buffered = EarlierGround(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "_SWAPS", 60)
        for run, places_of_run in enumerate(made):
            scenes = [scene(f"{run}-{number}", *own) for number, own in enumerate(places_of_run)]
            before = ground
            division, ground = added(scenes, size * times, request, ground)
            if run == 0:
                buffered = min(buffer, division.buffer)
                request = replace(request, buffer=Length(float(buffered), "px"))
            assert ground.tiles[: len(before.tiles)] == before.tiles
            assert all(ground.units[unit].split == own.split for unit, own in before.units.items())
            assert all(ground.units[unit].fold == own.fold for unit, own in before.units.items())
    boxes, split = on_ground(ground), np.array([tile.split for tile in ground.tiles])
    low, high = boxes[:, :2], boxes[:, 2:]
    apart = np.maximum(low[:, None] - high[None], low[None] - high[:, None])  # along each axis, in metres
    distance = np.hypot(*np.moveaxis(np.maximum(apart, 0), 2, 0))
    others = split[:, None] != split[None]
    if buffered:
        assert (distance[others] >= buffered * min(PIXELS) * 0.9999).all()
    else:
        common = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
        shared = np.maximum(common, 0).prod(axis=2)
        strip = size * np.array([ground.scenes[tile.scene].transform[0] for tile in ground.tiles]) ** 2
        assert (shared <= np.maximum(strip[:, None], strip[None]) * 1.001)[others].all(), "at most a pixel's width"
    if folds:
        fold = [tile.fold for tile in ground.tiles]
        near = near_folds(ground.scenes, ground.tiles, fold, buffer=buffered)
        for own in range(folds):
            held = np.array([each == own for each in fold])
            trained = np.array(
                [each not in (None, own) and own not in also for each, also in zip(fold, near, strict=True)]
            )
            assert not buffered or (distance[held][:, trained] >= buffered * min(PIXELS) * 0.9999).all()


def test_a_new_block_joins_the_tiles_whose_ground_it_shows() -> None:
    old, new = scene("old", (0, 0, 30), (40, 40)), scene("new", (5, 5, 45), (10, 10))
    tiles = tuple(
        PlannedTile(scene=0, row_off=row, col_off=0, height=20, width=40, split=split, block="b", fold=fold)
        for row, split, fold in ((0, "val", 0), (20, "test", 1))
    )
    request = TileRequest(
        scenes=("new.tif",), labels=Path("l.tif"), output=Path("d"), size=5, buffer=Length(0, "px"), folds=2
    )
    blocks = [cut_blocks(new.grid, 100, 5, "new")]
    found = {block.unit: Counter({1: 9}) for block in blocks[0]}
    division = divide([new], blocks, found, TABLE, request, EarlierGround((old,), tiles, {}))
    assert set(division.parts.values()) == {"val"} and division.tiles
    assert {tile.split for tile in division.tiles} == {"val"}
