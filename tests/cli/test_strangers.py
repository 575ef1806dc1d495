"""Names and files that come from strangers do no harm, and outputs name the models that made them."""

import csv
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import yaml
from typer.testing import Result

from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.files import sha256
from cwsam_cli.raster.mapfile import MODEL_TAG
from cwsam_cli.raster.sources.network import NO_EXTERNAL

Cwsam = Callable[..., Result]
Refused = Callable[..., str]

NAMES = {
    1: "<script>alert(1)</script>",
    2: "=cmd|' /C calc'!A1",
    3: "../../etc/passwd",
    4: "</style>]]>&quot;\"'`",
    5: "'; DROP TABLE map; --",
    6: "$(touch harm) %n {0} \\N{BULLET}",
}


@pytest.fixture
def hostile_map(make_raster: Any, tmp_path: Path) -> Path:
    """A map whose class names are code in many languages."""
    entries = [{"code": code, "name": name, "color": f"#{code:06x}"} for code, name in NAMES.items()]
    (tmp_path / "hostile.yaml").write_text(yaml.safe_dump({"classes": entries}), "utf-8")
    path: Path = make_raster("map.tif", np.arange(1, 7, dtype=np.uint8).repeat(24).reshape(12, 12), nodata=255)
    with rasterio.open(path, "r+") as target:
        target.update_tags(CWSAM_CLASSES=json.dumps({"classes": entries}), **{MODEL_TAG: "a" * 64})
    return path


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.scripts += tag == "script"


def test_class_names_that_are_code_are_only_text_in_every_output(
    cwsam: Cwsam, hostile_map: Path, tmp_path: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    cwsam("vectorize", hostile_map, "map.gpkg")
    cwsam("eval", "--map", hostile_map, "--reference", hostile_map, "-o", "report")
    cwsam("mosaic", hostile_map, "-o", "mosaic.tif")
    cwsam("sample", hostile_map, "-o", "sample.gpkg", "-n", "60")
    frame = geopandas.read_file("map.gpkg", layer="map")
    assert set(frame["name"]) == set(NAMES.values())
    with closing(sqlite3.connect("map.gpkg")) as package:
        ((style,),) = package.execute("SELECT styleQML FROM layer_styles").fetchall()
    assert {entry.get("label") for entry in ElementTree.fromstring(style.encode()).iter("category")} >= set(
        NAMES.values()
    )
    page = _Elements()
    page.feed((tmp_path / "report" / "report.html").read_text("utf-8"))
    assert page.scripts == 2  # data and code
    assert "<script>alert" not in (tmp_path / "report" / "report.html").read_text("utf-8")
    for path in tmp_path.rglob("*.csv"):
        for row in csv.reader(path.read_text("utf-8").splitlines()):
            assert not any(cell.startswith(("=", "+", "@")) for cell in row), path
    with rasterio.open("mosaic.tif") as mosaic:
        assert [entry["name"] for entry in json.loads(mosaic.tags()["CWSAM_CLASSES"])["classes"]] == [*NAMES.values()]
    assert not any("passwd" in name or "harm" in name for name in snapshot(tmp_path))


def test_a_reference_that_looks_like_a_formula_survives_the_csv(cwsam: Cwsam, hostile_map: Path) -> None:
    cwsam("sample", hostile_map, "-o", "sample.gpkg", "-n", "60", "--allocation", "equal")
    frame = geopandas.read_file("sample.gpkg")
    frame["reference"] = frame["map"].map(NAMES)
    table = Path("sample.csv").read_text("utf-8").splitlines()
    names = table[0].split(",")
    rows = [dict(zip(names, line, strict=True)) for line in csv.reader(table[1:])]
    written = [row | {"reference": "'" + NAMES[2]} for row in rows]
    with Path("sample.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(written)
    result = json.loads(cwsam("eval", "--sample", "sample.csv", "--map", hostile_map, "--json").stdout)
    assert result["points"] == 60


def test_maps_mosaics_and_polygons_name_the_models_by_hash(cwsam: Cwsam, run: Any) -> None:
    cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    cwsam("mosaic", "map.tif", "-o", "mosaic.tif")
    cwsam("vectorize", "mosaic.tif", "map.gpkg")
    digest = sha256(run.checkpoint)
    for path in ("map.tif", "mosaic.tif"):
        with rasterio.open(path) as dataset:
            assert dataset.tags()[MODEL_TAG] == digest
    assert digest in str(pyogrio.read_info("map.gpkg", layer="map")["layer_metadata"])


def test_a_model_names_the_weights_that_it_started_from(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    settings = ("--set", "epoch_max=1", "--set", f"sam_checkpoint={run.checkpoint}", "--data", run.dataset)
    cwsam("train", *small, *settings, "-o", "second")
    path = tmp_path / "second" / "model_epoch_best.pth"
    expected = f"{run.checkpoint}, SHA-256 {sha256(run.checkpoint)}"
    assert load_checkpoint(path).started_from == expected
    more = tuple("epoch_max=2" if word == "epoch_max=1" else word for word in settings)
    cwsam("train", *small, *more, "-o", "second", "--resume")
    assert load_checkpoint(tmp_path / "second" / "model_epoch_last.pth").started_from == expected
    assert expected in cwsam("info", path).stdout


def test_no_external_refuses_what_reads_other_folders_in_every_command(
    refused: Refused, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NO_EXTERNAL, "")  # the option sets it for the process
    for name, source in (("scene", run.scene), ("labels", run.labels)):
        with rasterio.open(source) as dataset:
            rasterio.shutil.copy(dataset, tmp_path / f"{name}.vrt", driver="VRT")
    (tmp_path / "layer.vrt").write_text("<OGRVRTDataSource></OGRVRTDataSource>")
    model = ("-c", run.checkpoint, "-o", "out.tif")
    for command, named in (
        (("predict", "scene.vrt", *model), "scene.vrt"),
        (("predict", "https://127.0.0.1:9/scene.tif", *model), "https://127.0.0.1:9/scene.tif"),
        (("tile", "scene.vrt", "--labels", run.labels, "-o", "data"), "scene.vrt"),
        (("tile", run.scene, "--labels", "labels.vrt", "-o", "data"), "labels.vrt"),
        (("tile", run.scene, "--labels", "layer.vrt", "-o", "data"), "layer.vrt"),
        (("eval", "--map", "labels.vrt", "--reference", run.labels), "labels.vrt"),
        (("eval", "--map", run.labels, "--reference", "labels.vrt"), "labels.vrt"),
        (("vectorize", "labels.vrt", "out.gpkg"), "labels.vrt"),
        (("mosaic", "labels.vrt", "-o", "out.tif"), "labels.vrt"),
    ):
        refused(4, *command, "--no-external", names=named)
        assert os.environ[NO_EXTERNAL] == "1"
        monkeypatch.setenv(NO_EXTERNAL, "")
