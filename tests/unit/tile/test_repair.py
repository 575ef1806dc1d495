"""No label is lost beside a tile that is left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio

from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.selection import Selection

SIZE = 16


def tiled(
    make_raster: Callable[..., Path], folder: Path, codes: Any, **options: Any
) -> tuple[Manifest, gpd.GeoDataFrame, Any, Any]:
    """Tile one block of training ground; return how often each pixel is shown, and has a label."""
    image = np.random.default_rng(0).integers(1, 255, (1, *codes.shape)).astype(np.uint8)
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes, nodata=0)
    request = TileRequest(
        scenes=(str(scene),), labels=labels, output=folder / "dataset", size=SIZE, shares=(1, 0, 0), **options
    )
    manifest = tile_scenes(request)
    index = gpd.read_file(folder / "dataset" / "tiles.gpkg")
    shown, labelled = np.zeros(codes.shape, int), np.zeros(codes.shape, int)
    for tile in index.itertuples():
        window = np.s_[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width]
        shown[window] += 1
        with rasterio.open(folder / "dataset" / "labels" / "train" / f"{tile.tile}.tif") as source:
            labelled[window] += source.read(1) < 255
    values = image[0][shown > 0]
    assert manifest.bands[0].mean == pytest.approx(values.mean()) and manifest.valid_pixels == values.size
    assert manifest.pixels["train"] == [int(((codes == code) & (shown > 0)).sum()) for code in (1, 2)]
    assert sum(manifest.tiles.values()) == len(index)
    return manifest, index, shown, labelled


def test_the_last_tile_of_a_row_gets_the_labels_of_the_one_that_is_left_out(
    make_raster: Callable[..., Path], tmp_path: Path
) -> None:
    codes = np.zeros((16, 24), np.uint8)
    codes[:, 10:23] = 1  # six columns of the first tile, 13 of the last one, of which 7 are its own
    codes[:, 14] = 2
    manifest, index, _, labelled = tiled(make_raster, tmp_path, codes, selection=Selection(min_labelled=0.5))
    assert index.col_off.tolist() == [8]
    assert (labelled == (codes > 0)).all()
    assert index.labelled.tolist() == [13 / 16]
    assert {reason: count for reason, count in manifest.left_out.items() if count} == {"below --min-labelled": 1}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("overlap", [0, 5, 11])
def test_labels_of_shared_ground_stand_once_whatever_is_left_out(
    make_raster: Callable[..., Path], tmp_path: Path, seed: int, overlap: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = (rng.random((11, 13)) < 0.6).astype(np.uint8).repeat(4, 0).repeat(4, 1)[:41, :50]
    codes[codes > 0] = rng.integers(1, 3, int((codes > 0).sum()))
    selection = Selection(min_labelled=0.55)
    manifest, index, shown, labelled = tiled(make_raster, tmp_path, codes, selection=selection, overlap=overlap)
    assert 1 < len(index) and sum(manifest.left_out.values()) > 0
    assert (index.labelled >= 0.55).all()
    assert ((labelled > 0) == ((shown > 0) & (codes > 0))).all(), "labels that a tile shows are in a tile"
    if not overlap:
        assert labelled.max() == 1
