"""Workers keep their files open and give their results in order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

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
