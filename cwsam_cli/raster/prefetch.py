"""Prepare the next item in a second thread while the present one is in use."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield the same items; a thread of its own makes each while its predecessor is in use.

    All items are made, and a generator of them is closed, in that one thread: GDAL's datasets
    and settings belong to a thread.

    Raises:
        Exception: the items' own, in the place of the item that failed.
    """
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        try:
            following = thread.submit(next, iterator, end)
            while (item := following.result()) is not end:
                following = thread.submit(next, iterator, end)
                yield item  # type: ignore[misc] # next() returns an item or `end`
                del item  # else two items would stay in memory while this thread waits for a third
        finally:
            if isinstance(iterator, Generator):
                thread.submit(iterator.close).result()
