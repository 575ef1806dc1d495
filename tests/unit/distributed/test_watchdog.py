"""Who stands still is found and ended, and nobody else is."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from cwsam_cli.distributed import watchdog as module
from cwsam_cli.distributed.watchdog import Heartbeat, Watchdog, read_start_ticks
from cwsam_cli.distributed.world import World

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its SystemExit

TIMEOUT_S = 1.0


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes of the watchdogs that would have ended their process."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        sys.exit()  # this thread alone

    monkeypatch.setattr(module.os, "_exit", end)
    return codes


@pytest.fixture
def pair(ended: list[int], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two watchdogs of one run, both in this process, and what they told."""
    monkeypatch.setattr(module.os, "kill", lambda pid, number: None)
    told: list[Exception] = []
    store = HashStore()
    dogs = [
        Watchdog(store, rank=rank, size=2, timeout_s=TIMEOUT_S, hint="resume", on_error=told.append)
        for rank in range(2)
    ]
    for dog in dogs:
        dog.start()
    yield dogs, told
    for dog in dogs:
        dog.stop()
        dog.join()


def _until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.02)
    return bool(condition())


def test_a_process_that_waits_for_a_paused_one_is_not_ended(pair: Any, ended: list[int]) -> None:
    (waiting, busy), told = pair
    waiting.beat()
    world = World(torch.device("cpu"), rank=1, size=2, watchdog=busy)
    with world.pause_watchdog():
        time.sleep(3 * TIMEOUT_S)
    waiting.beat()
    assert not told and not ended


def test_a_pause_ends_with_its_block_also_by_an_error(pair: Any, ended: list[int]) -> None:
    (waiting, busy), told = pair
    with pytest.raises(ValueError), World(torch.device("cpu"), rank=1, size=2, watchdog=busy).pause_watchdog():
        raise ValueError
    waiting.beat()
    waiting.beat()
    assert _until(lambda: ended, 10 * TIMEOUT_S)
    assert "rank 1" in str(told[0])


def test_a_process_that_dies_while_it_is_paused_is_blamed(pair: Any, ended: list[int]) -> None:
    (waiting, busy), told = pair
    waiting.beat()
    busy.pause()
    time.sleep(0.3)
    busy.stop()
    assert _until(lambda: ended, 10 * TIMEOUT_S)
    assert "rank 1" in str(told[0])


def _ending(blamed: Heartbeat, ended: list[int]) -> Watchdog:
    dog = Watchdog(HashStore(), rank=0, size=2, timeout_s=TIMEOUT_S, hint="resume", on_error=lambda error: None)
    thread = threading.Thread(target=dog._end_standstill, args=([(1, blamed)],))
    thread.start()
    thread.join()
    assert ended == [6]
    return dog


def test_a_blamed_process_that_is_gone_does_not_keep_this_one_from_ending(ended: list[int]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    _ending(Heartbeat(1, 1, gone.pid, module.socket.gethostname(), start_ticks=1), ended)


@pytest.mark.skipif(not read_start_ticks(os.getpid()), reason="reads /proc")
@pytest.mark.parametrize("same", [True, False])
def test_only_the_blamed_process_itself_is_killed_and_none_that_has_its_number_now(
    ended: list[int], same: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = read_start_ticks(process.pid) - (not same)
        _ending(Heartbeat(1, 1, process.pid, module.socket.gethostname(), start_ticks=started), ended)
        process.communicate(b"\n", timeout=30)
    assert (process.returncode < 0) == same
