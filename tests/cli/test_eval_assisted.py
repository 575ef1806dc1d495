"""`cwsam eval --sample` with the probabilities that `predict --probabilities` writes beside a map."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from typer.testing import Result

from cwsam_cli.raster.style import tag_classes
from cwsam_cli.survey.samplefile import read_sample, write_sample
from cwsam_cli.taxonomy import from_names
from tests.cli.conftest import write

Cwsam = Callable[..., Result]
TABLE = from_names(["Water", "Forest", "Town"], first=1)
SHAPE = (200, 300)


@pytest.fixture
def probabilities() -> NDArray[np.uint8]:
    """Per cent of three classes. The last columns have no data."""
    rng = np.random.default_rng(0)
    raw = rng.dirichlet([0.6, 0.4, 0.3], SHAPE).transpose(2, 0, 1)
    found = np.floor(100 * raw).astype(np.uint8)
    found[:, :, -20:] = 255
    return found


@pytest.fixture
def truth(probabilities: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Classes drawn by their probabilities, so the model is calibrated."""
    sums = probabilities.astype(float).cumsum(axis=0)
    drawn = np.random.default_rng(1).random(SHAPE) * sums[-1]
    return ((drawn > sums).sum(axis=0) + 1).clip(1, 3).astype(np.uint8)


@pytest.fixture
def map_path(tmp_path: Path, probabilities: NDArray[np.uint8]) -> Path:
    codes = (probabilities.argmax(axis=0) + 1).astype(np.uint8)
    codes[probabilities[0] == 255] = 255
    path = write(tmp_path / "map.tif", codes, nodata=255)
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TABLE)
        target.update_tags(CWSAM_KEY="a1")
    return path


def add_layer(map_path: Path, values: NDArray[np.uint8], key: str = "a1") -> None:
    layer = write(map_path.with_name("map.probabilities.tif"), values, nodata=255)
    with rasterio.open(layer, "r+") as target:
        target.descriptions = tuple(TABLE.names)
        target.update_tags(CWSAM_KEY=key)


def assess(cwsam: Cwsam, truth: NDArray[np.uint8], *arguments: object) -> dict[str, Any]:
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    columns, rows = (sample.frame.geometry.x - 600_000) // 30, (4_000_000 - sample.frame.geometry.y) // 30
    sample.frame["reference"] = truth[rows.astype(int), columns.astype(int)]
    write_sample(Path("sample.gpkg"), sample.frame, sample.design, overwrite=True)
    told: dict[str, Any] = json.loads(cwsam("eval", "--sample", "sample.gpkg", *arguments, "--json").stdout)
    return told


def test_probabilities_narrow_the_areas(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8], probabilities: NDArray[np.uint8]
) -> None:
    add_layer(map_path, probabilities)
    cwsam("sample", map_path, "-n", 400, "-o", "sample.gpkg")
    told = assess(cwsam, truth, "--map", map_path, "-o", "report")
    known = probabilities[0] != 255
    for entry in told["classes"]:
        share, true = entry["assisted_share"], (truth == entry["code"])[known].mean()
        assert share["standard_error"] < 0.95 * entry["share"]["standard_error"]
        assert abs(share["value"] - true) < 4 * share["standard_error"]
        assert entry["assisted_ha"]["value"] == pytest.approx(share["value"] * known.sum() * 0.09)
    assert any("map.probabilities.tif" in note for note in told["notes"])
    assert "with the probabilities" in cwsam("eval", "--sample", "sample.gpkg", "--map", map_path).stdout
    with Path("report/areas.csv").open(encoding="utf-8", newline="") as file:
        (first, *_) = csv.DictReader(file)
    assert float(first["assisted_ha_value"]) == told["classes"][0]["assisted_ha"]["value"]


def test_a_layer_that_is_not_of_the_map_is_not_used(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8], probabilities: NDArray[np.uint8]
) -> None:
    cwsam("sample", map_path, "-n", 200, "-o", "sample.gpkg")
    incomplete = probabilities.copy()
    incomplete[:, 0, 0] = 255
    for values, key in ((probabilities, "other"), (incomplete, "a1"), (probabilities[:, :100], "a1")):
        add_layer(map_path, values, key)
        told = assess(cwsam, truth, "--map", map_path)
        assert all(entry["assisted_share"] is None for entry in told["classes"]) and told["notes"] == []


def test_a_class_with_few_points_gets_no_help(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8], probabilities: NDArray[np.uint8]
) -> None:
    add_layer(map_path, probabilities)
    cwsam("sample", map_path, "-n", 60, "-o", "sample.gpkg")
    for entry in assess(cwsam, truth, "--map", map_path)["classes"]:
        assert (entry["assisted_share"] is None) == (entry["points_in_reference"] < 30)
