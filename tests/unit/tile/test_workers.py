"""Workers keep their files open and give their results in order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cwsam_cli import console
from cwsam_cli.tile.workers import in_order


@contextmanager
def opened() -> Iterator[Callable[[int], tuple[int, bool]]]:
    state = {"open": True}
    try:
        yield lambda part: (part, state["open"])
    finally:
        state["open"] = False


@pytest.mark.parametrize("workers", [1, 2])
def test_the_context_of_a_worker_is_open_while_it_works(workers: int) -> None:
    assert list(in_order(opened, range(4), workers, "counting")) == [(part, True) for part in range(4)]


@contextmanager
def talking() -> Iterator[Callable[[int], int]]:
    console.log.info("labels are resampled")
    console.log.warning("a tile is damaged")
    yield lambda part: part


def test_workers_repeat_no_message_of_the_process_that_starts_them(capfd: pytest.CaptureFixture[str]) -> None:
    before = console.verbosity()
    console.setup(0)
    try:
        assert list(in_order(talking, range(4), 2, "counting")) == [0, 1, 2, 3]
    finally:
        console.setup(before)
    told = capfd.readouterr().err
    assert "labels are resampled" not in told
    assert "a tile is damaged" in told
