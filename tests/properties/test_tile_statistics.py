"""What `dataset.yaml` says of the training split is what numpy says of the whole training ground."""

import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import from_origin

from cwsam_cli.errors import DataError
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest


def write(path: Path, values: NDArray[np.generic], west: int, nodata: int | None) -> None:
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    place = {"crs": "EPSG:32617", "transform": from_origin(600_000 + 30 * west, 4_000_000, 30, 30)}
    with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype, nodata=nodata, **shape, **place) as target:
        target.write(values)


@example(71, 86, 6, 1, None, 2, "uint8", 80)  # a tile shares a corner, and the tile above it is left out
@settings(max_examples=10, deadline=None, database=None)
@given(
    st.integers(40, 90),
    st.integers(40, 90),
    st.integers(6, 20),
    st.integers(0, 19),
    st.sampled_from([None, 0, 5]),
    st.integers(0, 60),
    st.sampled_from(["uint8", "uint16", "float32"]),
    st.integers(0, 99),
)
def test_statistics_are_those_of_the_training_ground(
    height: int, width: int, size: int, overlap: int, buffer: int | None, west: int, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 250, (2, height, width)).astype(dtype)
    hole = np.s_[rng.integers(height) :, rng.integers(width // 2, width) :]
    image[:, *hole] = 0
    codes = rng.integers(1, 4, (1, height, width)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "scene.tif", image, west, nodata=0)
        write(folder / "labels.tif", codes, west, nodata=255)
        request = TileRequest(
            scenes=(str(folder / "scene.tif"),),
            labels=folder / "labels.tif",
            output=folder / "dataset",
            size=size,
            overlap=min(overlap, size - 1),
            buffer=None if buffer is None else Length(buffer, "px"),
            seed=seed,
        )
        try:
            manifest = tile_scenes(request)
        except DataError as error:
            assert buffer and "leaves no tile to a split" in str(error)
            reject()
        index = gpd.read_file(folder / "dataset" / "tiles.gpkg")
    shown = np.zeros((height, width), bool)
    for tile in index[index.split == "train"].itertuples():
        shown[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width] = True
    shown &= image.any(axis=0)
    values = image[:, shown].astype(float)
    assert [band.mean for band in manifest.bands] == pytest.approx(values.mean(axis=1))
    assert [band.std for band in manifest.bands] == pytest.approx(values.std(axis=1))
    assert manifest.pixels["train"] == [(codes[0][shown] == code).sum() for code in (1, 2, 3)]
