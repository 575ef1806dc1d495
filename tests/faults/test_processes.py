"""Two processes that write one output, workers that die, and clocks that jump."""

import os
import platform
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.conftest import COMMANDS
from tests.faults.forks import contents, finish, run_in_fork, signal_at_rename, start_in_fork

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]

PATIENCE_S = 300.0
YEARS_S = 3e8
"""Almost ten years."""


def fresh(inputs: Path, name: str) -> Path:
    folder = inputs.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["tile", "train", "predict", "vectorize"])
def test_the_second_process_is_refused_by_name_and_a_stale_lock_is_taken_over(inputs: Path, name: str) -> None:
    folder, words = fresh(inputs, "two"), COMMANDS[name]
    first, out = start_in_fork(folder, words, signal_at_rename(0, signal.SIGSTOP), folder.with_name("first.out"))
    deadline = time.monotonic() + PATIENCE_S
    while psutil.Process(first.pid).status() != psutil.STATUS_STOPPED:
        assert first.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    before = contents(folder)

    code, text = run_in_fork(folder, words)
    assert code == 6 and "is being written by another process" in text, text
    assert f"process {first.pid} on {platform.node()}" in text and "hint: wait until it ends" in text, text
    assert contents(folder) == before

    os.kill(first.pid, signal.SIGKILL)
    assert finish(first, out)[0] == -signal.SIGKILL
    assert [path for path in contents(folder) if path.endswith(".lock")]
    code, text = run_in_fork(folder, words)
    assert code == 0, text
    assert not [path for path in contents(folder) if ".part" in path or ".lock" in path or ".journal" in path]


def _jump() -> None:
    real, calls = time.time, [0]

    def jumping() -> float:
        calls[0] += 1
        return real() + YEARS_S * (-1) ** calls[0]

    time.time = jumping


def test_a_clock_that_jumps_changes_no_training(inputs: Path) -> None:
    words = (*COMMANDS["train"], "--set", "training_settings.save_every=1s")
    found: list[dict[str, Any]] = []
    for fault in (None, _jump):
        folder = fresh(inputs, "clock")
        code, text = run_in_fork(folder, words, fault)
        assert code == 0, text
        found.append({path: content for path, content in contents(folder).items() if path.endswith(".pth")})
    assert found[0] == found[1] and found[0]

    folder = fresh(inputs, "clock")
    assert run_in_fork(folder, words, signal_at_rename(3, signal.SIGKILL))[0] == -signal.SIGKILL
    code, text = run_in_fork(folder, (*words, "--resume"), partial(_set_back, YEARS_S))
    if "holds no run" in text:
        code, text = run_in_fork(folder, words, partial(_set_back, YEARS_S))
    assert code == 0, text
    assert {path: content for path, content in contents(folder).items() if path.endswith(".pth")} == found[0]


def _set_back(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() - seconds


@pytest.mark.parametrize("when", [-YEARS_S * 10, 4e9])
def test_inputs_from_before_1970_or_the_future_are_read(inputs: Path, when: float) -> None:
    folder = fresh(inputs, "times")
    for name in ("scene.tif", "labels.tif", "map.tif"):
        shutil.copy(inputs / name, folder)
        os.utime(folder / name, (when, when))
    for name in ("tile", "predict", "vectorize"):
        words = [word.replace("../inputs/", "") if word.endswith(".tif") else word for word in COMMANDS[name]]
        words = [word.replace("map.tif", "drawn.tif") if name == "predict" else word for word in words]
        code, text = run_in_fork(folder, words)
        assert code == 0, text


def _die_in_a_worker_of_tile() -> None:
    from cwsam_cli.tile import workers

    begin = workers._begin

    def begin_badly(*given: Any) -> None:
        begin(*given)
        workers._function = lambda part: os.kill(os.getpid(), signal.SIGKILL)

    workers._begin = begin_badly


def _die_in_a_loader() -> None:
    from torch.utils.data import get_worker_info

    from cwsam_cli.dataset.samples import TileDataset

    read = TileDataset.__getitem__

    def read_or_die(self: TileDataset, key: Any) -> Any:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, key)

    TileDataset.__getitem__ = read_or_die  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "options", "fault", "message"),
    [
        ("tile", ("--workers", "2", "--size", "8"), _die_in_a_worker_of_tile, "a worker process died"),
        ("train", ("--set", "training_settings.workers=2"), _die_in_a_loader, "a process that reads tiles died"),
    ],
)
def test_a_worker_that_dies_ends_the_command_and_the_next_one_finishes(
    inputs: Path, name: str, options: tuple[str, ...], fault: Any, message: str
) -> None:
    folder, words = fresh(inputs, "workers"), (*COMMANDS[name], *options)
    code, text = run_in_fork(folder, words, fault)
    assert code == 6 and message in text and "hint: " in text and "Traceback" not in text, text
    assert not [path for path in contents(folder) if ".part" in path or ".lock" in path]
    assert name == "train" or not (folder / "data").exists()
    code, text = run_in_fork(folder, words if name == "tile" else (*words, "--resume"))
    if "holds no run" in text:
        code, text = run_in_fork(folder, words)
    assert code == 0, text
    expected = fresh(inputs, "undisturbed")
    assert run_in_fork(expected, words)[0] == 0
    ours, theirs = contents(folder), contents(expected)
    assert {path for path in ours if path.endswith(".pth") and ours[path] != theirs[path]} == set()
    assert ours.keys() == theirs.keys()
