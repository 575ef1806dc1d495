"""What `cwsam train` learns from: several datasets, folds, and pictures without a position."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from cwsam_cli.dataset.folds import split_by_fold

ONCE = ("--set", "epoch_max=1", "--set", "epoch_val=1")


def tiles_of(run: Path) -> Any:
    """How many tiles each part had, as the model records it."""
    return torch.load(run / "model_epoch_best.pth", weights_only=True)["provenance"]["tiles"]


def test_a_fold_is_validation_and_the_others_are_trained_on(cwsam: Any, run: Any, small: Any, tmp_path: Path) -> None:
    cwsam("tile", run.scene, "--labels", run.labels, "-o", "folds", "--size", 16, "--folds", 3)
    cwsam("train", *small, *ONCE, "--data", "folds", "-o", "save", "--set", "train_dataset.fold=1")
    training, validation = split_by_fold(tmp_path / "folds", 1)
    assert training and validation
    assert tiles_of(tmp_path / "save") == {"train": len(training), "val": len(validation)}


def test_several_datasets_are_trained_on_together(cwsam: Any, run: Any, small: Any, tmp_path: Path) -> None:
    cwsam("tile", run.scene, "--labels", run.labels, "-o", "other", "--size", 32, "--seed", 5)
    cwsam("train", *small, *ONCE, "--data", run.dataset, "--data", "other", "-o", "save")
    roots = (run.dataset, tmp_path / "other")
    counts = [yaml.safe_load((root / "dataset.yaml").read_text("utf-8"))["tiles"] for root in roots]
    assert tiles_of(tmp_path / "save") == {split: sum(count[split] for count in counts) for split in ("train", "val")}


def test_datasets_with_other_classes_are_refused(refused: Any, run: Any, odd_classes: Any, small: Any) -> None:
    options = ("--data", run.dataset, "--data", odd_classes.dataset, "-o", "save")
    refused(3, "train", *small, *options, names="other classes")


def test_pictures_without_a_position_are_trained_on(cwsam: Any, small: Any, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            rng = np.random.default_rng(number)
            codes = rng.integers(0, 2, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            image = (codes[..., None] * 100 + rng.integers(0, 50, (64, 64, 3))).astype(np.uint8)
            for kind, picture, suffix in (("pictures", image, "jpg"), ("codes", codes, "png")):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(tmp_path / split / kind / f"{number}.{suffix}")
    settings = []
    for name, split in (("train_dataset", "train"), ("val_dataset", "val")):
        args = {"root_path_1": f"{split}/pictures", "root_path_2": f"{split}/codes", "classes": ["bare", "grass"]}
        settings.append(f"{name}.dataset.args={json.dumps(args)}")
    cwsam("train", *small, *ONCE, *(word for setting in settings for word in ("--set", setting)), "-o", "save")
    assert tiles_of(tmp_path / "save") == {"train": 2, "val": 2}
