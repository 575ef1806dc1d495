"""A plan says which ground becomes which tile, and can be written as JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.plan import TilePlan, make_plan
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import inspect_inputs
from cwsam_cli.tile.split.earlier import EarlierGround

MakeRaster = Callable[..., Path]


def plan_of(make_raster: MakeRaster, tmp_path: Path, **values: Any) -> TilePlan:
    rng = np.random.default_rng(0)
    scene = make_raster("scene.tif", rng.integers(1, 255, (3, 100, 130)).astype(np.uint8))
    labels = make_raster("labels.tif", rng.integers(1, 4, (100, 130)).astype(np.uint8))
    request = TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "dataset", size=32, **values)
    return make_plan(request, inspect_inputs(request), EarlierGround(), 1)


def test_a_plan_survives_json(make_raster: MakeRaster, tmp_path: Path) -> None:
    plan = plan_of(make_raster, tmp_path)
    adapter = TypeAdapter(TilePlan)
    again = adapter.validate_json(adapter.dump_json(plan))
    assert again == plan and again.scenes[0].grid == plan.scenes[0].grid
    json.dumps(asdict(plan), default=str)


def test_tiles_cover_the_labelled_ground_within_the_scene(make_raster: MakeRaster, tmp_path: Path) -> None:
    plan = plan_of(make_raster, tmp_path, buffer=Length(0, "px"))
    shown = np.zeros((100, 130), int)
    for tile in plan.tiles:
        shown[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width] += 1
    assert shown.min() == 1
    assert {tile.split for tile in plan.tiles} == {"train", "val", "test"}


def test_what_an_earlier_tile_shows_has_no_labels_beyond_the_overlap() -> None:
    tile = PlannedTile(
        scene=0, row_off=4, col_off=2, height=32, width=32, split="train", block="a", shared=(10, 3), overlap=5
    )
    assert tile.unlabelled == (5, 0)
    assert tile.window == Window(2, 4, 32, 32)


def test_a_block_in_metres_has_other_pixels_in_each_scene(make_raster: MakeRaster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for name, pixel, west in (("a", 30, 600_000), ("b", 10, 640_000)):
        place = {"transform": from_origin(west, 4_000_000, pixel, pixel)}
        paths.append(str(make_raster(f"{name}.tif", rng.integers(1, 255, (1, 96, 96)).astype(np.uint8), **place)))
        make_raster(f"labels/{name}.tif", rng.integers(1, 4, (96, 96)).astype(np.uint8), **place)
    request = TileRequest(
        scenes=tuple(paths), labels=tmp_path / "labels", output=tmp_path / "d", size=16, block_size=Length(960, "m")
    )
    plan = make_plan(request, inspect_inputs(request), EarlierGround(), 1)
    sides = {(tile.scene, tile.block.split("/")[1]) for tile in plan.tiles}
    assert sides == {(0, "32"), (1, "96")}
    assert (plan.rule.block_px, plan.rule.block_m) == (32, 960)
