"""`eval --calibrate` and `--conformal` write a copy of the model that `predict` uses, and measure it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import Result

from cwsam_cli.checkpoints.calibration import hash_weights
from cwsam_cli.checkpoints.checkpoint import load_checkpoint

Cwsam = Callable[..., Result]


def test_a_calibrated_copy_maps_the_same_classes_and_says_how_sure_it_is(
    cwsam: Cwsam, run: Any, tmp_path: Path
) -> None:
    before = run.checkpoint.read_bytes()
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--calibrate", "--conformal", 0.9)
    told = json.loads(cwsam(*common, "-o", "copy.pth", "--json").stdout)
    assert run.checkpoint.read_bytes() == before
    plain, copy = load_checkpoint(run.checkpoint), load_checkpoint(tmp_path / "copy.pth")
    assert hash_weights(plain.weights) == hash_weights(copy.weights) == copy.calibration.weights_sha256
    assert told["calibration"]["temperature"] == copy.calibration.temperature != 1
    assert 0 <= told["coverage"] <= 1 and 1 <= told["mean_size"] <= 3

    for name, model in (("plain", run.checkpoint), ("calm", "copy.pth")):
        layers = ("--confidence", "--set-size") if name == "calm" else ("--confidence",)
        result = cwsam("predict", run.scene, "-c", model, "-o", f"{name}.tif", "--precision", "fp32", *layers)
        assert ("probabilities are calibrated: temperature" in result.stderr) == (name == "calm")
    read = {path.name: rasterio.open(path).read(1) for path in sorted(tmp_path.glob("*.tif"))}
    np.testing.assert_array_equal(read["plain.tif"], read["calm.tif"])
    assert (read["plain.confidence.tif"] != read["calm.confidence.tif"]).any()
    assert set(np.unique(read["calm.set_size.tif"])) <= {1, 2, 3}
    with rasterio.open("calm.tif") as dataset:
        assert copy.calibration.weights_sha256 in dataset.tags()["CWSAM_CALIBRATION"]
    assert "temperature" in cwsam("info", "copy.pth").stdout


def test_the_coverage_is_measured_by_class_and_told_where_it_fails(cwsam: Cwsam, run: Any) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--conformal", 0.97, "-o", "sets.pth")
    text = cwsam(*common).stdout
    told = json.loads(cwsam(*common, "--overwrite", "--json").stdout)
    assert told["calibration"]["temperature"] == 1
    pixels = sum(row["pixels"] for row in told["classes"])
    held = sum(row["pixels"] * row["coverage"] for row in told["classes"])
    assert told["coverage"] == pytest.approx(held / pixels)
    assert f"{told['coverage']:.3f} of 0.97 wanted" in text
    short = [f"{row['name']} ({row['coverage']:.3f})" for row in told["classes"] if row["coverage"] < 0.97]
    named = [line for line in text.splitlines() if line.startswith("Below the wanted coverage: ")]
    assert [line.partition(": ")[2] for line in named] == ([", ".join(short) + "."] if short else [])
    failed = [row["name"] for row in told["classes"] if row["interval"] and row["interval"][1] < 0.97]
    assert ("The interval excludes 0.97 for " + ", ".join(failed) + ":" in text) == bool(failed)


def test_eval_of_the_copy_has_its_calibration_error_and_the_same_accuracy(cwsam: Cwsam, run: Any) -> None:
    fit = json.loads(
        cwsam("eval", "-c", run.checkpoint, "--data", run.dataset, "--calibrate", "-o", "copy.pth", "--json").stdout
    )
    plain, copy = (
        json.loads(cwsam("eval", "-c", model, "--data", run.dataset, "--json").stdout)
        for model in (run.checkpoint, "copy.pth")
    )
    assert plain["accuracy"] == copy["accuracy"]
    assert [row["iou"] for row in plain["classes"]] == [row["iou"] for row in copy["classes"]]
    assert plain["calibration_error"] == pytest.approx(fit["error_before"], abs=1e-4)
    assert copy["calibration_error"] == pytest.approx(fit["error_after"], abs=1e-4)


def test_two_processes_fit_what_one_fits(cwsam: Cwsam, run: Any) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--calibrate", "--conformal", 0.9, "--json")
    one, two = (
        json.loads(cwsam(*common, "-o", f"{count}.pth", "--device", "cpu", "--gpus", count).stdout) for count in (1, 2)
    )
    assert two["calibration"]["temperature"] == pytest.approx(one["calibration"]["temperature"], rel=1e-3)
    assert two["calibration"]["thresholds"] == pytest.approx(one["calibration"]["thresholds"], abs=2e-3)
    assert two["calibration"]["pixels"] == one["calibration"]["pixels"]
    assert two["coverage"] == pytest.approx(one["coverage"], abs=2e-3)


def test_options_that_make_no_sense_are_refused(refused: Any, run: Any) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset)
    refused(2, *common, "--calibrate", names="no output")
    refused(2, *common, "--calibrate", "-o", "report", names="`report`")
    refused(2, *common, "--conformal", 90, "-o", "sets.pth", names="--conformal")
    refused(2, *common, "--calibrate", "--split", "val", "-o", "copy.pth", names="--split val")
    refused(2, *common, "--calibrate", "-o", run.checkpoint, names="is an input")


def test_set_sizes_need_a_model_with_thresholds(refused: Any, run: Any) -> None:
    told = refused(2, "predict", run.scene, "-c", run.checkpoint, "-o", "map.tif", "--set-size", names="--set-size")
    assert "--conformal" in told
