"""How a run ends: by a signal, by the clock, or because it no longer gets better; its state is saved each time."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner, Result

from cwsam_cli.main import app
from tests.cli.runs import history, load, options, progress, same_weights

Cwsam = Callable[..., Result]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_finishes_the_step_saves_and_leaves(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import cwsam_cli.train.pipeline as pipeline

    take, number = pipeline.take_step, getattr(signal, name)
    before = signal.getsignal(number)

    def receive(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(number)
        return take(*arguments, **named)

    command = ("train", *small, *options("epoch_max=2", "train_dataset.batch_size=4"), "--data", str(run.dataset))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "take_step", receive)
        result = CliRunner().invoke(app, [*command, "-o", "run"])
    assert result.exit_code == 130
    assert f"{name} in epoch 1" in result.stderr and "--resume" in result.stderr
    assert (progress(tmp_path / "run")["epoch"], progress(tmp_path / "run")["samples"]) == (0, 4)
    assert signal.getsignal(number) is before
    assert "resuming from `run/last`: epoch 1, after 4 of its tiles" in cwsam(*command, "-o", "run", "--resume").stderr


def test_a_time_limit_ends_the_run_with_its_state_saved(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    command = ("train", *small, *options("epoch_max=3", "epoch_val=1"), "--data", run.dataset)
    cwsam(*command, "-o", "whole")
    limited = cwsam(*command, *options("training_settings.time_limit=0.001s"), "-o", "run", "--json")
    told = json.loads(limited.stdout)
    assert (told["end"], told["best"], told["epochs"]) == ("time_limit", None, 0)
    assert "the time limit of 0.001s is near in epoch 1" in limited.stderr
    resumed = cwsam(*command, "-o", "run", "--resume", "--json")
    assert json.loads(resumed.stdout)["end"] == "finished"
    assert same_weights(*(tmp_path / name / "model_epoch_last.pth" for name in ("whole", "run")))


def test_patience_ends_a_run_whose_score_no_longer_improves(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    settings = options(
        "epoch_max=50", "epoch_val=1", "optimizer.args.lr=1e-12", "lr_min=0", "training_settings.patience=2"
    )
    command = ("train", *small, *settings, "--data", run.dataset, "-o", "run")
    result = cwsam(*command, "--json")
    told = json.loads(result.stdout)
    assert (told["end"], told["best_epoch"], told["epochs"]) == ("patience", 1, 3)
    assert "mIoU did not improve in 2 validations" in result.stderr
    again = json.loads(cwsam(*command, "--resume", "--json").stdout)
    assert (again["end"], again["epochs"]) == ("patience", 3)


def test_a_state_may_be_saved_every_few_steps_and_the_last_model_at_the_end_only(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cwsam_cli.train.run as runs

    saved, write = [], runs.Run.write_checkpoint
    command = ("train", *small, *options("epoch_max=3", "epoch_val=1", "train_dataset.batch_size=4"))
    command = (*command, "--data", str(run.dataset))
    cwsam(*command, "-o", "whole")

    def note(self: Any, path: Path, *more: Any) -> None:
        saved.append(path.name)
        write(self, path, *more)

    monkeypatch.setattr(runs.Run, "write_checkpoint", note)
    cwsam(*command, *options("training_settings.save_every=5 steps"), "-o", "run")
    assert saved.count("model_epoch_last.pth") == 1
    assert saved[-1] == "model_epoch_last.pth"
    assert same_weights(*(tmp_path / name / "model_epoch_last.pth" for name in ("whole", "run")))
    assert progress(tmp_path / "run")["epoch"] == 3


def test_validation_tiles_without_a_label_are_refused_before_training(
    refused: Callable[..., str], run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run.dataset, tmp_path / "dataset")
    for path in (tmp_path / "dataset" / "labels" / "val").iterdir():
        with rasterio.open(path, "r+") as labels:
            labels.write(np.full(labels.shape, 255, np.uint8), 1)
    message = refused(4, "train", *small, "--data", "dataset", "-o", "run", names="`dataset/labels/val`")
    assert "no labelled pixel" in message


def test_going_back_to_an_epoch_sets_the_best_of_later_ones_aside(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    settings = options("epoch_max=4", "epoch_val=1", "epoch_save=1", "optimizer.args.lr=3e-3")
    cwsam("train", *small, *settings, "--data", run.dataset, "-o", "run")
    folder = tmp_path / "run"
    best = load(folder / "model_epoch_best.pth")
    if best["epoch"] == 1:
        pytest.skip("the first epoch was the best")
    (folder / f"model_epoch_{best['epoch']}.pth").unlink()
    again = options("epoch_max=2", "epoch_val=1", "optimizer.args.lr=1e-12", "lr_min=0", "resume=1")
    result = cwsam("train", *small, *again, "--data", run.dataset, "-o", "run", "--json")
    told = json.loads(result.stdout)
    assert told["best_epoch"] in (1, 2)
    first = next(row for row in history(folder) if row["epoch"] == 1)["val/mIoU"]
    assert told["mean_iou"] == pytest.approx(first, abs=0.02)
    assert f"the best model so far is from epoch {best['epoch']}" in result.stderr
    assert load(folder / f"model_epoch_{best['epoch']}.pth")["metrics"] == best["metrics"]
    assert load(folder / "model_epoch_best.pth")["epoch"] == told["best_epoch"]
