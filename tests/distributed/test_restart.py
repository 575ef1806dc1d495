"""A run that was killed goes on as if it had not been: through the command line, at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.train.state import find_state
from tests.cli.conftest import SMALL, Run, run  # noqa: F401 # a fixture
from tests.states import state_tensors

ROOT = Path(__file__).parents[2]
EPOCHS = 12


def command(dataset: Path, output: Path, *more: object) -> list[str]:
    words: list[object] = [sys.executable, "-m", "cwsam_cli", "train", *SMALL, "--data", dataset, "-o", output]
    settings = (
        f"epoch_max={EPOCHS}",
        "epoch_val=1",
        "model.args.encoder_mode.embed_dim=64",
        "training_settings.ema=0.9",
    )
    return [str(word) for word in (*words, "--device", "cpu", *(w for s in settings for w in ("--set", s)), *more)]


def start(words: list[str]) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(words: list[str]) -> None:
    process = start(words)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr


def contents(output: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's state."""
    state = find_state(output / "last")
    assert state is not None
    return state_tensors(state)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_a_run_killed_at_random_moments_ends_bit_for_bit_like_one_that_was_not(
    run: Run,  # noqa: F811
    tmp_path: Path,
    optimizer: str,
    processes: int,
) -> None:
    more: tuple[Any, ...] = ("--set", f"optimizer.name={optimizer}", "--gpus", processes)
    began = time.monotonic()
    finish(command(run.dataset, tmp_path / "whole", *more))
    took = time.monotonic() - began
    chance = random.Random(f"{optimizer}{processes}")
    kills = 0
    for _ in range(3):
        resume = ["--resume"] if find_state(tmp_path / "killed" / "last") else []
        if not resume and (tmp_path / "killed").exists():  # killed before there was anything to go on with
            os.rename(tmp_path / "killed", tmp_path / f"nothing-{kills}")
        process = start(command(run.dataset, tmp_path / "killed", *more, *resume))
        time.sleep(chance.uniform(0.4, 0.9) * took)
        kills += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert kills
    resume = ["--resume"] if find_state(tmp_path / "killed" / "last") else []
    finish(command(run.dataset, tmp_path / "killed", *more, *resume))
    expected, found = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert expected.keys() == found.keys()
    assert any(name.startswith("average/") for name in expected)
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    epochs = [line.split(",")[0] for line in (tmp_path / "killed" / "history.jsonl").read_text().splitlines()]
    assert epochs == [f'{{"epoch": {epoch}' for epoch in range(1, EPOCHS + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_finishes_the_step_saves_and_exits_130(run: Run, tmp_path: Path, processes: int) -> None:  # noqa: F811
    more = ("--gpus", processes, "--set", "training_settings.workers=1")
    finish(command(run.dataset, tmp_path / "whole", *more))
    words = command(run.dataset, tmp_path / "stopped", *more)
    process = start(words)
    deadline = time.monotonic() + 120
    while not (tmp_path / "stopped" / "history.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to readers and all
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    finish([*words, "--resume"])
    expected, found = contents(tmp_path / "whole"), contents(tmp_path / "stopped")
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    weights = load_checkpoint(tmp_path / "stopped" / "model_epoch_last.pth").weights
    averaged = {name: found.get(f"average/{name}", found[f"model/{name}"]) for name in weights}
    assert [name for name, value in averaged.items() if not torch.equal(value, weights[name])] == []
