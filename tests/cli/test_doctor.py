"""`cwsam doctor` tells what a machine and files are, and exits with 4 where files do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from typer.testing import Result

from tests.cli.conftest import invoke, write

Cwsam = Callable[..., Result]


def diagnosis(*things: Any) -> tuple[int, dict[str, Any]]:
    result = invoke("doctor", *things, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_the_machine_alone(cwsam: Cwsam) -> None:
    text = cwsam("doctor").stdout
    for words in (f"torch {torch.__version__.partition('+')[0]}", "GDAL", "PROJ", "GEOS", "bf16", "threads", "free at"):
        assert words in text


def test_what_belongs_together_fits(cwsam: Cwsam, run: Any) -> None:
    cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    code, found = diagnosis(run.scene, run.dataset, run.checkpoint, "map.tif")
    assert code == 0, found["comparisons"]
    kinds = {thing["path"]: thing["description"]["kind"] for thing in found["things"]}
    assert [*kinds.values()] == ["scene", "dataset", "model", "map"]
    pairs = {frozenset((kinds[pair["first"]], kinds[pair["second"]])): pair["verdict"] for pair in found["comparisons"]}
    assert len(pairs) == 6 and set(pairs.values()) == {"fit"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": lambda image: image[:2]}, "2 image bands"),
        ({"values": lambda image: image.astype(np.uint16) * 40}, "uint16 values"),
        ({"res": 3}, "pixels of 3 m"),
        ({"descriptions": ("a", "b", "c")}, "by position"),
    ],
)
def test_a_scene_that_does_not_fit_is_told_why(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with rasterio.open(run.scene) as source:
        image, transform = source.read(), source.transform
    if "res" in change:
        transform = transform @ rasterio.Affine.scale(0.1)
    write(tmp_path / "other.tif", change.get("values", lambda image: image)(image), transform=transform)
    if "descriptions" in change:
        with rasterio.open("other.tif", "r+") as other:
            other.descriptions = change["descriptions"]
    for thing in (run.checkpoint, run.dataset):
        code, found = diagnosis("other.tif", thing)
        (pair,) = found["comparisons"]
        assert (code, pair["verdict"]) == ((0, "unclear") if "descriptions" in change else (4, "mismatch"))
        assert any(words in reason for reason in pair["reasons"]), pair


def test_a_model_of_other_classes_does_not_fit_a_dataset_or_a_map(cwsam: Cwsam, run: Any, odd_classes: Any) -> None:
    cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    for other in (run.dataset, "map.tif"):
        code, found = diagnosis(odd_classes.checkpoint, other)
        assert code == 4 and "水体" in found["comparisons"][0]["reasons"][0]
    assert diagnosis(run.dataset, odd_classes.dataset)[0] == 4


def test_a_scene_of_another_season_is_unclear(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(run.scene, "s_20240701.tif")
    shutil.copy(run.scene, "s_20230110.tif")
    assert invoke("tile", "s_20240701.tif", "--labels", run.labels, "-o", "data", "--size", 32).exit_code == 0
    code, found = diagnosis("s_20230110.tif", "data")
    assert code == 0 and found["comparisons"][0]["verdict"] == "unclear"
    assert "days of the year" in found["comparisons"][0]["reasons"][0]
    assert diagnosis("s_20240701.tif", "data")[1]["comparisons"][0]["verdict"] == "fit"


def test_files_that_cannot_be_used_are_named_beside_the_others(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.tif").write_bytes(b"II*\x00")
    Path("bad.yaml").write_text("model: {nam: tiny}\n")
    code, found = diagnosis("broken.tif", "gone.tif", "bad.yaml", run.checkpoint)
    problems = {thing["path"]: thing["problem"] for thing in found["things"]}
    assert code == 4 and [*map(bool, problems.values())] == [True, True, True, False]
    assert "model.nam" in problems["bad.yaml"]
    text = invoke("doctor", "broken.tif").stdout
    assert "problem: " in text and "hint: " in text


def test_a_dataset_whose_files_are_gone_is_odd(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.dataset, "data")
    for path in Path("data/images/val").iterdir():
        path.unlink()
    (thing,) = diagnosis("data")[1]["things"]
    assert any("has 0 files" in text for text in thing["description"]["oddities"])


def test_a_palette_without_class_names_is_compared_with_a_doubt(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with rasterio.open(run.scene) as source:
        write(tmp_path / "picture.tif", source.read(1), transform=source.transform)
    with rasterio.open("picture.tif", "r+") as picture:
        picture.write_colormap(1, {1: (255, 0, 0, 255)})
    code, found = diagnosis("picture.tif", run.dataset, run.checkpoint)
    assert code == 0, found["comparisons"]
    (odd,) = found["things"][0]["description"]["oddities"]
    assert "no class names" in odd and "gdal_translate -expand rgb picture.tif rgb.tif" in odd
    told = [pair for pair in found["comparisons"] if "picture.tif" in (pair["first"], pair["second"])]
    assert [pair["verdict"] for pair in told] == ["unclear", "unclear"]
    assert all("has no class names to compare" in pair["reasons"][0] for pair in told)
