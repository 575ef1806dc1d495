"""Calls on a cluster: each gives its result or its error once, whatever workers and the scheduler do."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cwsam_cli.distributed import scheduler
from cwsam_cli.distributed.scheduler import LostScheduler, Workers, connect
from cwsam_cli.errors import DataError, MachineError, UsageError
from tests.clusters import quick_cluster


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with quick_cluster(resources={"GPU": 1}) as cluster, connect(cluster.scheduler_address) as connected:
        yield connected


def double(number: int) -> int:
    return 2 * number


class Unsendable(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


def refuse_three(number: int) -> int:
    if number == 3:
        raise DataError("three", hint="take another number") from Unsendable(1, 2)
    return number


def crash(number: int) -> int:
    raise ZeroDivisionError


def test_each_call_gives_its_result_once(workers: Workers) -> None:
    assert workers.slots == 2
    assert sorted(workers.each(double, [(number,) for number in range(20)])) == list(range(0, 40, 2))
    assert workers.call(double, 4) == 8


def test_an_error_of_a_call_comes_as_it_was_raised_and_hinders_no_later_call(workers: Workers) -> None:
    with pytest.raises(DataError, match="three") as caught:
        list(workers.each(refuse_three, [(number,) for number in range(10)]))
    assert caught.value.hint == "take another number"
    with pytest.raises(ZeroDivisionError):
        workers.call(crash, 1)
    assert sorted(workers.each(double, [(number,) for number in range(9)])) == list(range(0, 18, 2))


def test_workers_of_another_version_are_refused(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    real = workers._client.submit
    monkeypatch.setattr(
        workers._client, "submit", lambda guarded, version, *rest, **named: real(guarded, "0", *rest, **named)
    )
    with pytest.raises(MachineError, match="this process 0"):
        workers.call(double, 1)


_running = threading.BoundedSemaphore(2)


def take_turn(number: int) -> int:
    assert _running.acquire(blocking=False), "more calls than the cluster has GPUs"
    time.sleep(0.005)
    _running.release()
    return number


def test_several_threads_share_the_workers_and_no_gpu_gets_two_calls(workers: Workers) -> None:
    def many(first: int) -> list[int]:
        return sorted(workers.each(take_turn, [(number,) for number in range(first, first + 10)]))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(many, (0, 10, 20, 30))) == [list(range(first, first + 10)) for first in (0, 10, 20, 30)]


def test_calls_are_handed_out_as_workers_finish(workers: Workers) -> None:
    taken = []

    def calls() -> Iterator[tuple[int]]:
        for number in range(50):
            taken.append(number)
            yield (number,)

    results = workers.each(double, calls())
    next(results)
    assert len(taken) <= 6
    results.close()
    assert workers.call(double, 1) == 2


def test_a_scheduler_that_stops_is_told_as_lost() -> None:
    cluster = quick_cluster(resources={"GPU": 1})
    with connect(cluster.scheduler_address, timeout_s=1) as workers:
        results = workers.each(double, [(number,) for number in range(1000)])
        next(results)
        cluster.close()
        with pytest.raises(LostScheduler, match="connection to the scheduler is lost") as caught:
            list(results)
        assert "same command continues" in caught.value.hint
        with pytest.raises(LostScheduler):
            workers.call(double, 1)


def time_out(number: int) -> int:
    raise TimeoutError(110, "Connection timed out")


def test_a_call_that_times_out_is_not_made_again(workers: Workers) -> None:
    with pytest.raises(TimeoutError, match="Connection timed out"):
        workers.call(time_out, 1)
    assert workers.call(double, 1) == 2


def linger(number: int) -> int:
    time.sleep(1)
    return number


def test_calls_do_not_wait_for_local_workers_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_RESTART_S", 1.0), ("_LOOK_S", 0.1)):
        monkeypatch.setattr(scheduler, name, seconds)
    with quick_cluster(resources={"GPU": 1}) as cluster, connect(cluster.scheduler_address) as connected:
        connected._is_local = True
        for worker in cluster.workers.values():
            worker.loop.call_later(0.5, worker.close)
        with pytest.raises(MachineError, match="all workers have ended"):
            list(connected.each(linger, [(number,) for number in range(4)]))


@pytest.mark.parametrize(("name", "kind"), [("nonsense", UsageError), ("tcp://127.0.0.1:1", MachineError)])
def test_a_scheduler_that_is_not_there_is_refused(name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name), connect(name, timeout_s=0.5):
        pass


def die_at(number: int, place: Path | None) -> int:
    """Kill this worker: once, or each time without a place."""
    if number == 1 and (place is None or not place.exists()):
        time.sleep(2)  # Dask does not restart a worker that dies while it starts
        if place is not None:
            place.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_call_survives_the_death_of_a_worker_and_one_that_ends_all_workers_is_told(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))  # a server of forks that other tests use
    with connect("local", processes=2) as workers:
        family = [psutil.Process(), *(set(psutil.Process().children(recursive=True)) - before)]
        listening = [at.laddr.ip for one in family for at in one.net_connections() if at.status == "LISTEN"]
        assert len(listening) >= 4 and set(listening) == {"127.0.0.1"}
        assert workers.call(os.getenv, "MALLOC_TRIM_THRESHOLD_") == os.getenv("MALLOC_TRIM_THRESHOLD_")
        calls = [(number, tmp_path / "died") for number in range(6)]
        assert sorted(workers.each(die_at, calls)) == list(range(6))
        with pytest.raises(MachineError, match="ended each worker that tried it"):
            list(workers.each(die_at, [(number, None) for number in range(3)]))
        assert workers.call(die_at, 0, None) == 0
    left = [" ".join(child.cmdline()) for child in set(psutil.Process().children(recursive=True)) - before]
    assert not [words for words in left if "resource_tracker" not in words]
