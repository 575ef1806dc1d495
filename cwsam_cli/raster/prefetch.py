"""Make the next item in a second thread while the current one is in use."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield the same items, each made in a second thread while the previous one is in use.

    One thread makes all items and also closes a generator, because GDAL's datasets and settings
    belong to a thread.

    Args:
        items: items to yield.

    Raises:
        Exception: an error of an item, at the place of that item.
    """
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        try:
            following = thread.submit(next, iterator, end)
            while (item := following.result()) is not end:
                following = thread.submit(next, iterator, end)
                yield item  # type: ignore[misc] # next() returns an item or `end`
                del item  # otherwise two items would stay in memory while this thread waits for a third
        finally:
            if isinstance(iterator, Generator):
                thread.submit(iterator.close).result()
