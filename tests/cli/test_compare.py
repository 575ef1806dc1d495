"""`eval --compare` measures two models on the same ground."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from cwsam_cli.checkpoints.checkpoint import load_checkpoint, save_checkpoint

Cwsam = Callable[..., Result]


@pytest.fixture
def spoiled(run: Any, tmp_path: Path) -> Path:
    """The run's model with noise on its weights."""
    checkpoint, path = load_checkpoint(run.checkpoint), tmp_path / "spoiled.pth"
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.weights.items()
    }
    save_checkpoint(dataclasses.replace(checkpoint, weights=noisy), path)
    return path


def test_differences_are_those_of_two_evaluations(cwsam: Cwsam, run: Any, spoiled: Path, tmp_path: Path) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--split", "train")
    told = json.loads(cwsam(*common, "--compare", spoiled, "-o", "comparison", "--json").stdout)
    own = json.loads(cwsam(*common, "--json").stdout)
    other = json.loads(cwsam("eval", "-c", spoiled, *common[3:], "--json").stdout)
    figures = {(row["class"], row["figure"]): row for row in told["figures"]}
    for name in ("accuracy", "mean_iou", "kappa"):
        row = figures["", name]
        assert (row["first"], row["second"]) == (own[name], other[name])
        assert row["difference"] == pytest.approx(own[name] - other[name])
    for first, second in zip(own["classes"], other["classes"], strict=True):
        assert figures[first["name"], "iou"]["first"] == first["iou"]
        assert figures[first["name"], "iou"]["second"] == second["iou"]
    assert {path.name for path in (tmp_path / "comparison").iterdir()} == {"comparison.json", "comparison.csv"}
    with (tmp_path / "comparison" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(told["figures"])


def test_the_table_says_which_model_is_better_and_in_how_many_blocks(cwsam: Cwsam, run: Any, spoiled: Path) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--compare", spoiled)
    table = cwsam(*common).stdout
    told = json.loads(cwsam(*common, "--json").stdout)
    assert f"The first model is better in {told['better_blocks']}" in table
    assert f"p = {told['p_value']:.3g}" in table
    assert "nan" not in table.lower()


def test_models_of_other_classes_or_missing_ones_are_refused(refused: Any, run: Any, odd_classes: Any) -> None:
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--compare")
    refused(5, *common, odd_classes.checkpoint, names="冰川")
    refused(5, *common, "gone.pth", names="gone.pth")
    refused(2, *common, run.checkpoint, "--calibrate", "-o", "copy.pth", names="--compare")
