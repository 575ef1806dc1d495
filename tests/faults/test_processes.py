"""Two processes that write one output, workers that die, and inputs of odd times."""

import os
import platform
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.conftest import COMMANDS
from tests.faults.forks import contents, make_fresh, run_again, run_in_fork, signal_at_rename, start_in_fork

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]

PATIENCE_S = 300.0


@pytest.mark.parametrize("name", ["tile", "train", "predict", "vectorize"])
def test_the_second_process_is_refused_by_name_and_a_stale_lock_is_taken_over(inputs: Path, name: str) -> None:
    folder, words = make_fresh(inputs, "two"), COMMANDS[name]
    first = start_in_fork(folder, words, signal_at_rename(0, signal.SIGSTOP), folder.with_name("first.out"))
    try:
        deadline = time.monotonic() + PATIENCE_S
        while psutil.Process(first.process.pid).status() != psutil.STATUS_STOPPED:
            assert first.process.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)
        before = contents(folder)

        code, text = run_in_fork(folder, words)
        assert code == 6 and "is being written by another process" in text, text
        assert f"process {first.process.pid} on {platform.node()}" in text and "hint: wait until it ends" in text, text
        assert contents(folder) == before
    finally:
        first.kill()
    assert first.finish()[0] == -signal.SIGKILL
    assert [path for path in contents(folder) if path.endswith(".lock")]
    code, text = run_in_fork(folder, words)
    assert code == 0, text
    assert not [path for path in contents(folder) if ".part" in path or ".lock" in path or ".journal" in path]


@pytest.mark.parametrize("when", [-3e9, 4e9])
def test_inputs_from_before_1970_or_the_future_are_read(inputs: Path, when: float) -> None:
    folder = make_fresh(inputs, "times")
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
    folder, words = make_fresh(inputs, "workers"), (*COMMANDS[name], *options)
    code, text = run_in_fork(folder, words, fault)
    own = [line for line in text.splitlines() if "/torch/" not in line]  # torch logs if it happens during its imports
    assert code == 6 and message in text and "hint: " in text and "Traceback" not in "\n".join(own), text
    assert not [path for path in contents(folder) if ".part" in path or ".lock" in path]
    assert name == "train" or not (folder / "data").exists()
    code, text = run_again(folder, words)
    assert code == 0, text
    expected = make_fresh(inputs, "undisturbed")
    assert run_in_fork(expected, words)[0] == 0
    ours, theirs = contents(folder), contents(expected)
    assert {path for path in ours if path.endswith(".pth") and ours[path] != theirs[path]} == set()
    assert ours.keys() == theirs.keys()
