"""A run that goes on is as if it had never stopped, whatever stopped it."""

import dataclasses
import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from cwsam_cli.files import reserved
from cwsam_cli.main import app
from tests.cli.runs import EXPERTS, history, load, options, progress, same_weights
from tests.states import state_shapes

Cwsam = Callable[..., Result]


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, *, crash: bool = False) -> None:
    """Let the run of the next command be asked to stop in a step, counted from 1, or crash before it."""
    import cwsam_cli.train.pipeline as pipeline

    taken, take = [], pipeline.take_step

    def ask(*arguments: Any, **named: Any) -> Any:
        taken.append(1)
        if crash and len(taken) == step:
            raise KeyboardInterrupt  # as if killed: nothing is saved
        result = take(*arguments, **named)
        status = result.status._replace(is_interrupted=result.status.is_interrupted or len(taken) == step)
        return dataclasses.replace(result, status=status)

    monkeypatch.setattr(pipeline, "take_step", ask)


KINDS = {
    "dense": (),
    "experts": tuple(f"model.args.encoder_mode.{expert}" for expert in EXPERTS),
    "8-bit": ("optimizer.name=adamw8bit", "model.args.encoder_mode.decoder_mlp_dim=256"),
    "averaged": ("training_settings.ema=0.9", "training_settings.grad_accum_steps=2"),
    "balanced": ("train_dataset.sampler=balanced", "model.args.loss_weight=auto"),
}


@pytest.mark.parametrize(
    ("kind", "crash"),
    [
        ("dense", False),
        ("dense", True),
        ("experts", True),
        ("8-bit", False),
        ("averaged", False),
        ("balanced", True),
    ],
)
def test_a_run_that_was_interrupted_goes_on_as_if_it_never_stopped(
    cwsam: Cwsam,
    run: Any,
    small: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    crash: bool,
) -> None:
    common = ("epoch_max=3", "epoch_val=1", "train_dataset.batch_size=4", "training_settings.workers=0")
    settings = options(*common, *KINDS[kind])
    command = ("train", *small, *settings, "--data", run.dataset)
    cwsam(*command, "-o", "whole")
    rows = history(tmp_path / "whole")
    assert (torch.uint8 in {dtype for _, dtype in state_shapes(tmp_path / "whole" / "last").values()}) is (
        kind == "8-bit"
    )
    steps = math.ceil(len([*(run.dataset / "images" / "train").iterdir()]) / 4)
    if "averaged" in kind:
        steps = math.ceil(steps / 2)
    assert steps >= 3

    with monkeypatch.context() as patch:
        interrupt(patch, steps + 2, crash=crash)
        result = CliRunner().invoke(app, [str(word) for word in (*command, "-o", "broken")])
    assert result.exit_code == 130
    assert load(tmp_path / "broken" / "model_epoch_last.pth")["epoch"] == 1
    assert progress(tmp_path / "broken")["epoch"] == 1
    assert (progress(tmp_path / "broken")["samples"] > 0) is not crash
    assert not same_weights(tmp_path / "whole" / "model_epoch_last.pth", tmp_path / "broken" / "model_epoch_last.pth")

    cwsam(*command, "-o", "broken", "--resume")
    for name in ("last", "best"):
        file = f"model_epoch_{name}.pth"
        assert same_weights(tmp_path / "whole" / file, tmp_path / "broken" / file)
        assert load(tmp_path / "whole" / file)["metrics"] == load(tmp_path / "broken" / file)["metrics"]
    unsteady = ("train/images_per_s", "memory/")
    for one, other in zip(rows, history(tmp_path / "broken"), strict=True):
        assert one.keys() == other.keys()
        assert {name for name in one if one[name] != other[name] and not name.startswith(unsteady)} == set()


def test_resuming_a_finished_run_changes_nothing(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    settings = ("--set", "epoch_max=6", "--set", "epoch_val=3")
    cwsam("train", *small, *settings, "--data", run.dataset, "-o", "run", "--resume")
    for name in ("last", "best"):
        file = f"model_epoch_{name}.pth"
        assert same_weights(run.folder / file, tmp_path / "run" / file)


def test_a_finished_run_may_be_prolonged(cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    cwsam("train", *small, "--set", "epoch_max=8", "--data", run.dataset, "-o", "run", "--resume")
    assert load(tmp_path / "run" / "model_epoch_last.pth")["epoch"] == 8
    best = load(tmp_path / "run" / "model_epoch_best.pth")["metrics"]["mean_iou"]
    assert best >= load(run.checkpoint)["metrics"]["mean_iou"]


def test_ctrl_c_finishes_the_step_saves_and_leaves(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cwsam_cli.train.pipeline as pipeline

    take, before = pipeline.take_step, signal.getsignal(signal.SIGINT)

    def press(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return take(*arguments, **named)

    settings = options("epoch_max=2", "train_dataset.batch_size=4")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "take_step", press)
        command = ("train", *small, *settings, "--data", str(run.dataset), "-o", "run")
        result = CliRunner().invoke(app, [*command])
    assert result.exit_code == 130
    assert "--resume" in result.stderr and "Traceback" not in result.stderr
    assert (progress(tmp_path / "run")["epoch"], progress(tmp_path / "run")["samples"]) == (0, 4)
    assert signal.getsignal(signal.SIGINT) is before
    cwsam(*command, "--resume")
    assert progress(tmp_path / "run")["epoch"] == 2
    assert [row["epoch"] for row in history(tmp_path / "run")] == [1, 2]


def test_a_run_that_was_killed_before_it_kept_anything_begins_anew(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", *small, *options("epoch_max=2", "train_dataset.batch_size=8"), "--data", run.dataset)
    cwsam(*command, "-o", "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 3, crash=True)
        assert CliRunner().invoke(app, [str(word) for word in (*command, "-o", "broken")]).exit_code == 130
    assert not (tmp_path / "broken" / "last").exists()
    result = cwsam(*command, "-o", "broken", "--resume")
    assert "starting again from the beginning" in result.stderr
    assert same_weights(*(tmp_path / name / "model_epoch_last.pth" for name in ("whole", "broken")))
    assert [row["epoch"] for row in history(tmp_path / "broken")] == [1, 2]


def test_a_run_that_lost_its_state_is_not_begun_anew_over_its_weights(
    refused: Callable[..., str], run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "last")
    assert "resume=best" in refused(5, "train", *small, "--data", run.dataset, "-o", "run", "--resume", names="`run`")


def test_an_interruption_in_an_epochs_last_step_loses_nothing(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        "train",
        *small,
        *options("epoch_max=2", "epoch_val=1", "train_dataset.batch_size=500"),
        "--data",
        run.dataset,
    )
    cwsam(*command, "-o", "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        assert CliRunner().invoke(app, [str(word) for word in (*command, "-o", "broken")]).exit_code == 130
    assert "nan" in cwsam(*command, "-o", "broken", "--resume").stderr  # images a second, of no image
    assert "train/images_per_s" not in history(tmp_path / "broken")[0]
    assert same_weights(*(tmp_path / name / "model_epoch_last.pth" for name in ("whole", "broken")))
    for name in ("train/loss", "train/lr"):
        assert [row[name] for row in history(tmp_path / "broken")] == [row[name] for row in history(tmp_path / "whole")]


@pytest.fixture
def finished(cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path) -> Path:
    """A run of four epochs in `run`, with a checkpoint of each."""
    settings = options("epoch_max=4", "epoch_val=1", "epoch_save=1", "optimizer.args.lr=3e-3")
    cwsam("train", *small, *settings, "--data", run.dataset, "-o", "run")
    return tmp_path / "run"


def _go_on(cwsam: Cwsam, run: Any, small: tuple[str, ...], resume: object, epochs: int) -> dict[str, Any]:
    settings = options(f"epoch_max={epochs}", "epoch_val=1", "epoch_save=1", "optimizer.args.lr=3e-3")
    command = ("train", *small, *settings, *options(f"resume={resume}"), "--data", run.dataset, "-o", "run", "--json")
    return dict(json.loads(cwsam(*command).stdout))


def test_a_run_may_go_on_from_an_epochs_weights(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], finished: Path, tmp_path: Path
) -> None:
    third = load(finished / "model_epoch_3.pth")
    best = load(finished / "model_epoch_best.pth")
    (finished / "model_epoch_3.pth").rename(tmp_path / "third.pth")
    shutil.copy(tmp_path / "third.pth", finished / "model_epoch_3.pth")
    old = history(finished)
    result = _go_on(cwsam, run, small, 3, epochs=5)
    rows = history(finished)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[:3] == old[:3]
    assert rows[3]["train/loss"] < old[0]["train/loss"]  # from the third epoch's weights, not from nothing
    assert result["epochs"] == 5
    assert result["mean_iou"] >= best["metrics"]["mean_iou"]
    assert same_weights(tmp_path / "third.pth", finished / "model_epoch_3.pth")
    assert third["epoch"] == 3
    assert progress(finished)["epoch"] == 5


def test_a_run_may_go_on_from_its_best_weights(cwsam: Cwsam, run: Any, small: tuple[str, ...], finished: Path) -> None:
    best = load(finished / "model_epoch_best.pth")
    result = _go_on(cwsam, run, small, "best", epochs=5)
    assert [row["epoch"] for row in history(finished)] == [1, 2, 3, 4, 5]
    assert result["epochs"] == 5
    assert result["mean_iou"] >= best["metrics"]["mean_iou"]
    assert (result["best_epoch"] == best["epoch"]) or result["mean_iou"] > best["metrics"]["mean_iou"]


def test_an_epochs_weights_are_enough_where_nothing_was_validated_yet(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], finished: Path
) -> None:
    (finished / "model_epoch_best.pth").unlink()
    assert _go_on(cwsam, run, small, 3, epochs=4)["best_epoch"] == 4
    assert load(finished / "model_epoch_best.pth")["epoch"] == 4


def test_going_on_from_weights_begins_with_exactly_these(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cwsam_cli.train.pipeline as pipeline

    begun: list[dict[str, torch.Tensor]] = []
    take = pipeline.take_step

    def look(learner: Any, *arguments: Any, **named: Any) -> Any:
        if not begun:
            begun.append({name: value.clone() for name, value in learner.model.state_dict().items()})
            assert not learner.optimizer.state
        return take(learner, *arguments, **named)

    kept = {name: value.clone() for name, value in load(finished / "model_epoch_2.pth")["weights"].items()}
    monkeypatch.setattr(pipeline, "take_step", look)
    _go_on(cwsam, run, small, 2, epochs=3)
    assert begun[0].keys() == kept.keys()
    assert all(torch.equal(begun[0][name], value) for name, value in kept.items())


def test_a_run_that_went_back_and_was_killed_goes_on_from_where_it_went_back_to(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = history(finished)
    settings = options("epoch_max=4", "epoch_val=1", "epoch_save=1", "optimizer.args.lr=3e-3", "resume=2")
    with monkeypatch.context() as patch:
        interrupt(patch, 1, crash=True)
        command = ("train", *small, *settings, "--data", run.dataset, "-o", "run")
        assert CliRunner().invoke(app, [str(word) for word in command]).exit_code == 130
    assert progress(finished)["epoch"] == 2
    cwsam(*command, "--resume")
    rows = history(finished)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[:2] == old[:2]
    assert progress(finished)["epoch"] == 4


def test_what_a_killed_run_left_half_written_goes_with_the_next_one(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    command = ("train", *small, *options("epoch_max=2", "epoch_val=1"), "--data", run.dataset, "-o", "run")
    shutil.copytree(run.folder, tmp_path / "run")
    half = tmp_path / "run" / ".model_epoch_best.pth.abcd_fg9.part"
    half.mkdir()
    (half / "model_epoch_best.pth").write_bytes(b"half")
    own = tmp_path / "run" / ".notes.part"
    own.mkdir()
    cwsam(*command, "--resume")
    assert not half.exists() and own.exists()


def test_one_folder_has_one_run_at_a_time(
    refused: Callable[..., str], run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    with reserved(tmp_path / "run"):
        refused(6, "train", *small, "--data", run.dataset, "-o", "run", "--resume", names="`run` is being written")
