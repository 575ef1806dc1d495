"""A model, a map and a dataset say what they are and where they come from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import Result

from cwsam_cli.files import sha256
from tests.cli.conftest import write

Cwsam = Callable[..., Result]


def test_a_model_names_its_data_configuration_and_versions(cwsam: Cwsam, run: Any) -> None:
    text = cwsam("info", run.checkpoint).stdout
    for words in ("model", "input", "32 × 32 pixels, 3 bands, uint8", f"torch {torch.__version__}", "mean_iou"):
        assert words in text
    told = json.loads(cwsam("info", run.checkpoint, "--json").stdout)
    tiles = len([*(run.dataset / "images" / "train").iterdir()])
    assert f"{run.dataset}" in told["facts"]["data"] and f"{tiles} train" in told["facts"]["data"]
    assert [band["name"] for band in told["bands"]] and [entry["name"] for entry in told["classes"]]
    assert yaml.safe_load(told["configuration"])["model"]["args"]["inp_size"] == 32


def test_the_printed_configuration_is_one(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    (tmp_path / "again.yaml").write_text(cwsam("info", run.checkpoint, "--config").stdout)
    assert "tiny" in cwsam("plan", "--config", "again.yaml").stdout


def test_what_records_no_configuration_is_an_error(refused: Callable[..., str], run: Any) -> None:
    refused(4, "info", run.dataset, "--config", names=f"`{run.dataset}`")


def test_other_tiles_have_another_hash(cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path) -> None:
    def data(model: Path) -> str:
        return str(torch.load(model, weights_only=True, mmap=True)["provenance"]["data_sha256"])

    shutil.copytree(run.dataset, tmp_path / "same")
    shutil.copytree(run.dataset, tmp_path / "less")
    for kind in ("images", "labels"):
        min((tmp_path / "less" / kind / "train").iterdir()).unlink()
    for name in ("same", "less"):
        cwsam("train", *small, "--data", name, "-o", f"save/{name}", "--set", "epoch_max=1")
    assert data(tmp_path / "save/same/model_epoch_best.pth") == data(run.checkpoint)
    assert data(tmp_path / "save/less/model_epoch_best.pth") != data(run.checkpoint)


def test_a_map_names_its_model_and_command(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    told = json.loads(cwsam("info", "map.tif", "--json").stdout)
    assert told["kind"] == "map" and told["facts"]["checkpoint sha256"] == sha256(run.checkpoint)
    assert len(told["classes"]) == 3 and "EPSG:32617" in told["facts"]["grid"]


def test_a_dataset_names_its_tiles_and_the_pixels_of_each_class(cwsam: Cwsam, run: Any) -> None:
    told = json.loads(cwsam("info", run.dataset, "--json").stdout)
    manifest = yaml.safe_load((run.dataset / "dataset.yaml").read_text())
    assert [entry["pixels"]["train"] for entry in told["classes"]] == manifest["pixels"]["train"]
    assert "train" in told["facts"]["tiles"]
    assert "pixels" in cwsam("info", run.dataset).stdout


def test_a_model_of_an_older_version_is_described_without_its_origin(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    raw = torch.load(run.checkpoint, weights_only=True)
    del raw["provenance"]
    torch.save(raw, tmp_path / "old.pth")
    assert "trained" not in json.loads(cwsam("info", "old.pth", "--json").stdout)["facts"]


def test_a_scene_names_its_bands_and_values(cwsam: Cwsam, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(10, 90, (2, 64, 64)).astype(np.uint8)
    write(tmp_path / "scene.tif", values, nodata=0)
    told = json.loads(cwsam("info", "scene.tif", "--json").stdout)
    assert told["kind"] == "scene" and told["facts"]["bands"] == "band_1, band_2" and told["facts"]["nodata"] == "0"
    assert "to 8" in told["facts"]["band band_1"]


def test_a_configuration_names_its_model(cwsam: Cwsam) -> None:
    assert "sam_tiny" in cwsam("info", "tiny").stdout


@pytest.mark.parametrize("name", ["none.tif", "folder", "other.tif"])
def test_anything_else_is_refused(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.tif").write_text("no raster")
    refused(4, "info", name, names=f"`{name}`")
