"""Files of one place are one scene, from training to the map."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.transform import from_origin
from typer.testing import Result

from tests.conftest import stripes

Cwsam = Callable[..., Result]


def test_a_stack_trains_and_predicts_as_one_file(
    cwsam: Cwsam, small: tuple[str, ...], make_raster: Any, tmp_path: Path
) -> None:
    image, codes = stripes(128, 160, bands=2)
    labels = make_raster("labels.tif", codes)
    make_raster(
        "bands/T32_B10.tif",
        image[1].reshape(64, 2, 80, 2).mean(axis=(1, 3)).round().astype(np.uint8),
        transform=from_origin(600_000, 4_000_000, 60, 60),
    )
    make_raster("bands/T32_B2.tif", image[0])
    stack = ("--stack", "{scene}_{band}.tif")
    cwsam("tile", "bands", *stack, "--labels", labels, "-o", "dataset", "--size", 32)
    manifest = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))
    assert [band["name"] for band in manifest["bands"]] == ["B2", "B10"] and manifest["gsd_m"] == 30
    cwsam("train", *small, "--data", "dataset", "-o", "save", "--set", "epoch_max=1", "--set", "epoch_val=1")
    model = ("-c", "save/model_epoch_best.pth")
    cwsam("predict", "bands", *stack, *model, "-o", "map.tif")
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.shape == (128, 160)
        found = source.read(1)
    with (
        rasterio.open(tmp_path / "bands" / "T32_B10.tif") as coarse,
        rasterio.vrt.WarpedVRT(
            coarse,
            transform=from_origin(600_000, 4_000_000, 30, 30),
            width=160,
            height=128,
            resampling=rasterio.enums.Resampling.bilinear,
        ) as fine,
    ):
        whole = make_raster("whole.tif", np.concatenate([image[:1], fine.read()]))
    cwsam("predict", whole, *model, "-o", "same.tif")
    with rasterio.open(tmp_path / "same.tif") as source:
        assert (source.read(1) == found).all()


def test_scenes_are_brought_to_another_pixel_size(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    image, codes = stripes(128, 160)
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes)
    common = ("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16)
    cwsam(*common, "--res", "60m", "--crs", "EPSG:32617")
    manifest = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))
    assert manifest["gsd_m"] == 60


def test_a_pixel_size_needs_a_unit(refused: Any, make_raster: Any) -> None:
    scene, labels = make_raster("scene.tif", stripes(32, 32)[0]), make_raster("labels.tif", stripes(32, 32)[1])
    refused(2, "tile", scene, "--labels", labels, "-o", "dataset", "--res", "10", names="--res `10`")
