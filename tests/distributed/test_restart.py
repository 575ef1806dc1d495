"""A run that was killed goes on as if it had not been: through the command line, at random moments."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.train.state import find_state
from tests.cli.conftest import SMALL, Run, run  # noqa: F401 # a fixture
from tests.cli.runs import PATIENCE_S, finish, history, kill, options, progress, start_until
from tests.states import state_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EPOCHS = 6
COMMON = (
    f"epoch_max={EPOCHS}",
    "epoch_val=1",
    "train_dataset.batch_size=2",
    "model.args.encoder_mode.embed_dim=64",
    "training_settings.ema=0.9",
    "training_settings.save_every=2 steps",
)
DENSE: tuple[str, ...] = ()
MIXTURE = (
    "stages=[{name: integrate, epochs: 2}, {name: adapt, epochs: 2}, {name: finetune, epochs: 2}]",
    "training_settings.activation_checkpointing=true",
    "training_settings.grad_accum_steps=2",
    "model.args.encoder_mode.depth=2",
    "model.args.encoder_mode.global_attn_indexes=[1]",
    "model.args.encoder_mode.moe_start_layer_index=1",
    "model.args.encoder_mode.moe_num_expert_groups=2",
    "model.args.encoder_mode.moe_experts_per_group=2",
    "model.args.encoder_mode.moe_noisy_gating=true",
)


class Setup(NamedTuple):
    """What a run is of."""

    optimizer: str
    processes: int
    settings: tuple[str, ...]


SETUPS = {
    "mixture": Setup("adamw", 1, MIXTURE),
    "8-bit, two": Setup("adamw8bit", 2, DENSE),
    "mixture, three": Setup("adamw", 3, MIXTURE),
    "8-bit mixture, four": Setup("adamw8bit", 4, MIXTURE),
}


class Whole(NamedTuple):
    """A run that nothing interrupted."""

    folder: Path
    learning_s: float
    """From its first state to its end."""


def command(dataset: Path, output: Path, setup: Setup, *more: str) -> list[str]:
    words: list[object] = [sys.executable, "-m", "cwsam_cli", "train", *SMALL, "--data", dataset, "-o", output]
    settings = options(f"optimizer.name={setup.optimizer}", *COMMON, *setup.settings)
    return [str(word) for word in (*words, "--device", "cpu", "--gpus", setup.processes, *settings, *more)]


def has_reached(output: Path, epoch: int) -> bool:
    """Whether the run has saved a state of an epoch, counted from 0, or of a later one."""
    try:
        return bool(progress(output)["epoch"] >= epoch)
    except OSError:  # there is no state yet, or it is being replaced
        return False


def contents(output: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's state."""
    state = find_state(output / "last")
    assert state is not None
    return state_tensors(state)


def check_same(whole: Path, resumed: Path) -> None:
    """Both runs end with the same bits in all tensors of their states, after the same epochs."""
    expected, found = contents(whole), contents(resumed)
    assert expected.keys() == found.keys()
    assert any(name.startswith("average/") for name in expected)
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    assert [row["epoch"] for row in history(resumed)] == list(range(1, EPOCHS + 1))


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Setup], Whole]:  # noqa: F811
    """The uninterrupted run of a setup, which the tests share."""

    @cache
    def through(setup: Setup) -> Whole:
        folder = tmp_path_factory.mktemp("whole") / "run"
        process = start_until(command(run.dataset, folder, setup), lambda: has_reached(folder, 0))
        began = time.monotonic()
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, stderr
        return Whole(folder, time.monotonic() - began)

    return through


@pytest.mark.parametrize("name", SETUPS)
def test_a_run_killed_at_random_moments_ends_bit_for_bit_like_one_that_was_not(
    run: Run,  # noqa: F811
    whole: Callable[[Setup], Whole],
    tmp_path: Path,
    name: str,
) -> None:
    setup, output = SETUPS[name], tmp_path / "killed"
    expected = whole(setup)
    chance, resume = random.Random(name), ()
    for epoch in sorted(chance.sample(range(EPOCHS - 1), 2 if setup.processes < 3 else 1)):
        words = command(run.dataset, output, setup, *resume)
        process = start_until(words, partial(has_reached, output, epoch))
        time.sleep(chance.uniform(0, 0.5) * expected.learning_s / EPOCHS)
        kill(process)
        resume = ("--resume",)
    finish(command(run.dataset, output, setup, *resume))
    check_same(expected.folder, output)


@pytest.mark.parametrize("name", ["mixture", "8-bit, two"])
def test_ctrl_c_finishes_the_step_saves_and_exits_130(
    run: Run,  # noqa: F811
    whole: Callable[[Setup], Whole],
    tmp_path: Path,
    name: str,
) -> None:
    setup, output = SETUPS[name], tmp_path / "stopped"
    words = command(run.dataset, output, setup, *options("training_settings.workers=1"))
    process = start_until(words, (output / "history.jsonl").exists)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to readers and all
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    finish([*words, "--resume"])
    check_same(whole(setup).folder, output)
    found = contents(output)
    weights = load_checkpoint(output / "model_epoch_last.pth").weights
    averaged = {name: found.get(f"average/{name}", found[f"model/{name}"]) for name in weights}
    assert [name for name, value in averaged.items() if not torch.equal(value, weights[name])] == []
