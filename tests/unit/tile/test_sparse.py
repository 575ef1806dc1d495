"""Tiles are placed where labels are, if there are few."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.raster.grid import Grid
from cwsam_cli.tile import sparse
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.split import assignment
from cwsam_cli.tile.split.blocks import cut_blocks

SIZE = 16


def few_labels() -> Any:
    """Small rectangles of three classes, in 4 % of the pixels."""
    rng = np.random.default_rng(1)
    codes = np.zeros((256, 256), np.uint8)
    for number, (row, col) in enumerate(rng.integers(0, 244, (30, 2)).tolist()):
        codes[row : row + 8, col : col + 11] = number % 3 + 1
    return codes


def test_few_labels_need_few_tiles_and_none_is_lost(
    make_raster: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "_SWAPS", 100)
    codes = few_labels()
    image = np.random.default_rng(0).integers(1, 255, (1, 256, 256)).astype(np.uint8)
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes, nodata=0)

    def tiled(name: str) -> gpd.GeoDataFrame:
        tile_scenes(
            TileRequest(
                scenes=(str(scene),), labels=labels, output=tmp_path / name, size=SIZE,
                block_size=Length(4, "tile"), buffer=Length(0, "px"),
            )
        )  # fmt: skip
        return gpd.read_file(tmp_path / name / "tiles.gpkg")

    on_labels = tiled("on_labels")
    with monkeypatch.context() as patch:
        patch.setattr(sparse, "_FEW", 0.0)
        lattice = tiled("lattice")
    assert len(on_labels) < 0.8 * len(lattice)
    assert on_labels.labelled.median() > 1.2 * lattice.labelled.median()
    with rasterio.open(scene) as source:
        blocks = {block.key: block.window for block in cut_blocks(Grid.of(source), 64, SIZE, "scene")}
    shown = np.zeros((256, 256), np.uint8)
    for tile in on_labels.itertuples():
        window = np.s_[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width]
        assert tile.height == tile.width == SIZE
        with rasterio.open(tmp_path / "on_labels" / "labels" / tile.split / f"{tile.tile}.tif") as source:
            written = source.read(1)
        assert not (shown[window] * (written < 255)).any(), "no label stands twice"
        shown[window] = np.where(written < 255, written, shown[window])
        block = blocks[tile.block]
        assert block.col_off <= tile.col_off and tile.col_off + SIZE <= block.col_off + block.width
        assert block.row_off <= tile.row_off and tile.row_off + SIZE <= block.row_off + block.height
    assert (shown == codes).all(), "no label is lost"
    assert set(on_labels.split) == set(SPLITS)


@pytest.mark.parametrize(
    "polygons",
    [
        {"train": [(0, 0, 32, 64)], "test": [(32, 0, 64, 64)]},
        {"train": [(0, 0, 64, 16), (0, 48, 64, 64)]},
    ],
    ids=["halves of a block", "a gap between polygons"],
)
def test_tiles_stay_in_the_polygons_of_their_split(
    make_raster: Callable[..., Path], tmp_path: Path, polygons: dict[str, list[tuple[int, int, int, int]]]
) -> None:
    place = from_origin(0, 0, 30, 30)
    image = np.random.default_rng(0).integers(1, 255, (1, 64, 64)).astype(np.uint8)
    codes = np.zeros((64, 64), np.uint8)
    for row, col in [(12, 14), (12, 46), (30, 14), (50, 14), (50, 46)]:
        codes[row : row + 4, col : col + 4] = 1
    scene, labels = make_raster("scene.tif", image, transform=place), make_raster("labels.tif", codes, transform=place)
    rows = [
        (split, shapely.box(30 * left, -30 * bottom, 30 * right, -30 * top))
        for split, boxes in polygons.items()
        for left, top, right, bottom in boxes
    ]
    zones = gpd.GeoDataFrame(rows, columns=["split", "geometry"], crs="EPSG:32617")
    zones.to_file(tmp_path / "zones.gpkg")
    tile_scenes(
        TileRequest(
            scenes=(str(scene),), labels=labels, classes=str(class_table(tmp_path)), output=tmp_path / "dataset",
            size=SIZE, shares=(1, 0, "test" in polygons), block_size=Length(4, "tile"), buffer=Length(0, "px"),
            split_by=str(tmp_path / "zones.gpkg"),
        )
    )  # fmt: skip
    tiles = gpd.read_file(tmp_path / "dataset" / "tiles.gpkg")
    assert set(tiles.split) == set(polygons)
    for tile in tiles.itertuples():
        own = zones[zones.split == tile.split].union_all()
        assert own.buffer(1).contains(tile.geometry), f"{tile.tile} lies outside the polygons of {tile.split}"


def class_table(folder: Path) -> Path:
    path = folder / "classes.yaml"
    path.write_text("classes: [{code: 1, name: tree, color: '#00ff00'}]\nunlabelled: [0]\n")
    return path
