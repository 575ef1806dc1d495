"""The figures of `cwsam eval`: each can be worked out again from the confusion matrix, and that from the maps."""

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from typer.testing import Result

from tests.cli.conftest import invoke

TABLES = ("confusion_matrix", "classes", "scenes", "tiles", "reliability", "distances_from_training")
FILES = {f"{name}.csv" for name in TABLES} | {"metrics.json", "report.html"}

Cwsam = Callable[..., Result]


def confusion(path: Path) -> Any:
    """Rows are the reference, columns the map."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert [row[0] for row in rows] == header[1:]
    return np.array([[int(cell) for cell in row[1:]] for row in rows])


def test_the_table_names_every_class_and_the_means(cwsam: Cwsam, run: Any) -> None:
    table = cwsam("eval", "-c", run.checkpoint, "--data", run.dataset).stdout
    for word in (
        "IoU",
        "F1",
        "class 1",
        "class 2",
        "class 3",
        "mean IoU",
        "overall accuracy",
        "frequency-weighted IoU",
    ):
        assert word in table
    assert "nan" not in table.lower()
    assert "\x1b" not in table


def test_the_report_is_written_beside_the_table(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset)
    printed = json.loads(cwsam(*common, "-o", "report", "--json").stdout)
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES
    written = json.loads((tmp_path / "report" / "metrics.json").read_text("utf-8"))
    assert {key: written[key] for key in printed} == printed
    assert (written["version"], written["split"]) == (1, "test")
    assert written["checkpoint_sha256"] == hashlib.sha256(run.checkpoint.read_bytes()).hexdigest()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_figure_follows_from_the_confusion_matrix(cwsam: Cwsam, run: Any, tmp_path: Path, split: str) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--split", split)
    told = json.loads(cwsam(*common, "-o", "report", "--json").stdout)
    matrix = confusion(tmp_path / "report" / "confusion_matrix.csv")
    hits, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    iou = hits / (support + predicted - hits)
    assert told["pixels"] == matrix.sum()
    assert told["accuracy"] == pytest.approx(hits.sum() / matrix.sum())
    assert told["mean_iou"] == pytest.approx(iou.mean())
    assert told["frequency_weighted_iou"] == pytest.approx((iou * support).sum() / support.sum())
    for entry, n in zip(told["classes"], range(3), strict=True):
        assert entry["support"] == support[n] and entry["predicted"] == predicted[n]
        assert entry["iou"] == pytest.approx(iou[n])
        assert entry["recall"] == pytest.approx(hits[n] / support[n])
        if predicted[n]:
            assert entry["precision"] == pytest.approx(hits[n] / predicted[n])
            assert entry["f1"] == pytest.approx(2 * hits[n] / (support[n] + predicted[n]))


def test_eval_counts_what_predict_maps(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    cwsam("eval", "-c", run.checkpoint, "--data", run.dataset, "-o", "report")
    counted = np.zeros((3, 3), int)
    for image in sorted((run.dataset / "images" / "test").glob("*.tif")):
        cwsam("predict", image, "-c", run.checkpoint, "-o", "map.tif", "--overwrite", "--precision", "fp32")
        with rasterio.open("map.tif") as source, rasterio.open(run.dataset / "labels" / "test" / image.name) as labels:
            codes, reference = source.read(1), labels.read(1)
        labelled = reference != 255
        np.add.at(counted, (reference[labelled] - 1, codes[labelled] - 1), 1)
    difference = np.abs(counted - confusion(tmp_path / "report" / "confusion_matrix.csv")).sum()
    assert difference <= 0.002 * counted.sum()  # batches of other sizes round differently


def test_the_batch_size_changes_nothing_to_speak_of(cwsam: Cwsam, run: Any) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--json", "--batch-size")
    one, many = (json.loads(cwsam(*common, size).stdout) for size in (1, 5))
    assert one["pixels"] == many["pixels"]
    assert one["accuracy"] == pytest.approx(many["accuracy"], abs=1e-3)


def test_absent_classes_are_said_to_be_absent_and_enter_no_mean(cwsam: Cwsam, odd_classes: Any) -> None:
    common = ("eval", "-c", odd_classes.checkpoint, "--data", odd_classes.dataset)
    told = json.loads(cwsam(*common, "--json").stdout)
    assert [entry["code"] for entry in told["classes"]] == [1, 7, 200, 3, 9]
    classes = {entry["code"]: entry for entry in told["classes"]}
    for code in (7, 9):
        assert classes[code]["absent"] is True
        assert classes[code]["support"] == 0
        assert all(classes[code][figure] is None for figure in ("iou", "recall", "f1"))
    present = [classes[code] for code in (1, 200, 3)]
    assert not any(entry["absent"] for entry in present)
    assert told["mean_iou"] == pytest.approx(np.mean([entry["iou"] for entry in present]))
    assert all(math.isfinite(told[figure]) for figure in ("accuracy", "mean_iou", "frequency_weighted_iou"))
    table = cwsam(*common).stdout
    assert "nan" not in table.lower()
    said = {line.split()[0]: "absent" in line for line in table.splitlines() if line.strip()}
    assert said["冰川"] and said["矿山"]
    assert not (said["水体"] or said["林地"] or said["grass"])


def test_the_report_is_strict_json_and_readable_in_any_script(cwsam: Cwsam, odd_classes: Any, tmp_path: Path) -> None:
    cwsam("eval", "-c", odd_classes.checkpoint, "--data", odd_classes.dataset, "-o", "report")
    text = (tmp_path / "report" / "metrics.json").read_text("utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    told = json.loads(text, parse_constant=refuse)
    assert told["classes"][0]["name"] == "水体" and "水体" in text
    assert "水体" in (tmp_path / "report" / "confusion_matrix.csv").read_text("utf-8-sig")


def test_a_dataset_with_the_same_classes_of_another_ground_can_be_measured(
    cwsam: Cwsam, run: Any, make_raster: Any
) -> None:
    image = np.random.default_rng(0).integers(1, 255, (3, 40, 40)).astype(np.uint8)
    codes = (np.indices((40, 40))[0] % 3 + 1).astype(np.uint8)
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "elsewhere", "--size", 40, "--split", 100, 0, 0)
    common = ("eval", "-c", run.checkpoint, "--data", "elsewhere", "--split", "train", "--json")
    assert json.loads(cwsam(*common).stdout)["pixels"] == 1600


def test_a_split_without_tiles_is_told_with_those_that_have_some(refused: Any, run: Any, tmp_path: Path) -> None:
    text = (run.dataset / "dataset.yaml").read_text("utf-8")
    manifest = yaml.safe_load(text) | {"tiles": {"train": 3, "val": 2, "test": 0}}
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "dataset.yaml").write_text(yaml.safe_dump(manifest), "utf-8")
    told = refused(4, "eval", "-c", run.checkpoint, "--data", "few", names="few/images/test")
    assert "--split train or --split val" in told


def test_scenes_tiles_and_bins_add_up_to_all_pixels(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    told = json.loads(cwsam("eval", "-c", run.checkpoint, "--data", run.dataset, "-o", "report", "--json").stdout)
    assert [scene["scene"] for scene in told["scenes"]] == ["scene.tif"]
    assert told["scenes"][0]["accuracy"] == told["accuracy"]
    with (tmp_path / "report" / "tiles.csv").open(encoding="utf-8", newline="") as file:
        tiles = list(csv.DictReader(file))
    assert {row["tile"] for row in tiles} == {path.stem for path in (run.dataset / "images" / "test").iterdir()}
    assert [row["tile"] for row in tiles[: len(told["worst_tiles"])]] == [row["tile"] for row in told["worst_tiles"]]
    accuracies = [float(row["accuracy"]) for row in tiles]
    assert accuracies == sorted(accuracies)
    for pixels in (row["pixels"] for row in (told["scenes"] + [{"pixels": sum(int(row["pixels"]) for row in tiles)}])):
        assert pixels == told["pixels"] == sum(row["pixels"] for row in told["reliability"])


def test_several_datasets_count_together(cwsam: Cwsam, refused: Any, run: Any, tmp_path: Path) -> None:
    shutil.copytree(run.dataset, tmp_path / "more")
    common = ("eval", "-c", run.checkpoint, "--json", "--data", run.dataset)
    one = json.loads(cwsam(*common).stdout)
    both = json.loads(cwsam(*common, "--data", "more", "-o", "report").stdout)
    assert both["pixels"] == 2 * one["pixels"]
    assert (both["accuracy"], both["mean_iou"]) == (one["accuracy"], one["mean_iou"])
    assert both["blocks"]["count"] == one["blocks"]["count"]  # it is the same ground
    assert {row["tile"].rpartition("/")[0] for row in both["worst_tiles"]} <= {str(run.dataset), "more"}
    refused(2, *common, "--data", run.dataset, names="--data")


def test_a_larger_tolerance_forgives_more(cwsam: Cwsam, run: Any) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--json", "--tolerance")
    strict, default, loose = (json.loads(cwsam(*common, pixels).stdout) for pixels in (0, 2, 8))
    assert strict["mean_boundary_f1"] < default["mean_boundary_f1"] <= loose["mean_boundary_f1"]
    assert strict["mean_iou"] == loose["mean_iou"]


def test_a_dataset_without_an_index_of_tiles_can_be_measured(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    shutil.copytree(run.dataset, tmp_path / "data")
    (tmp_path / "data" / "tiles.gpkg").unlink()
    table = cwsam("eval", "-c", run.checkpoint, "--data", "data").stdout
    assert "names no blocks" in table


def test_two_processes_count_each_pixel_once_and_agree_with_one(cwsam: Cwsam, run: Any) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--split", "train", "--device", "cpu", "--json")
    one, two = (json.loads(cwsam(*common, "--gpus", count).stdout) for count in (1, 2))
    assert one["pixels"] == two["pixels"]
    assert [entry["support"] for entry in one["classes"]] == [entry["support"] for entry in two["classes"]]
    for figure in ("accuracy", "mean_iou", "kappa", "mean_boundary_f1", "calibration_error"):
        assert two[figure] == pytest.approx(one[figure], abs=2e-3)  # batches of other sizes round differently


def test_a_tolerance_beyond_any_boundary_is_refused() -> None:
    result = invoke("eval", "-c", "a.pth", "--data", "dataset", "--tolerance", 1000)
    assert result.exit_code == 2 and "--tolerance" in result.stderr
