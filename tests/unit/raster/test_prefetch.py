import threading
from collections.abc import Iterator

import pytest

from cwsam_cli.raster.prefetch import prefetch


def test_items_come_in_order_and_from_another_thread() -> None:
    def items() -> Iterator[tuple[int, int]]:
        for number in range(20):
            yield number, threading.get_ident()

    found = list(prefetch(items()))
    assert [number for number, _ in found] == list(range(20))
    assert {ident for _, ident in found} != {threading.get_ident()}


def test_the_next_item_is_made_while_this_one_is_used() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        made.set()
        yield 1

    found = prefetch(items())
    assert next(found) == 0
    assert made.wait(5)
    found.close()


def test_an_error_is_raised_where_the_items_are_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = prefetch(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_closing_ends_the_thread_and_closes_the_items() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    before = threading.active_count()
    found = prefetch(prefetch(items()))
    assert [next(found), next(found)] == [0, 1]
    found.close()
    assert closed.wait(5)
    assert threading.active_count() == before
