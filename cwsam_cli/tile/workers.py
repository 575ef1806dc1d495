"""Apply a function to parts of a work, here, in processes of this machine or on a cluster, with results in order."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from cwsam_cli.console import log, setup, track, verbosity
from cwsam_cli.distributed.scheduler import Workers
from cwsam_cli.errors import MachineError

P = TypeVar("P")
R = TypeVar("R")

_function: Callable[[Any], Any]
"""The function of a worker process."""
_context: AbstractContextManager[Callable[[Any], Any]]
"""The context that yielded it. It would end when nothing refers to it."""


def in_order(
    function: Callable[[], AbstractContextManager[Callable[[P], R]]],
    parts: Sequence[P],
    workers: int | Workers,
    what: str,
) -> Generator[R, None, None]:
    """Yield the results for all parts in order.

    Args:
        function: context that yields the function. Each process enters it once, so open files are its own. Workers
            of a cluster enter it for each part, because they outlive the work.
        parts: the parts.
        workers: number of processes, where 1 is this process; or a cluster.
        what: text of the progress bar.

    Raises:
        MachineError: a worker process died.
    """
    if isinstance(workers, Workers):
        yield from track(workers.in_order(_apply_once, function, parts), what, total=len(parts), unit="part")
        return
    if min(workers, len(parts)) <= 1:
        with function() as apply:
            for part in track(parts, what, unit="part"):
                yield apply(part)
        return
    # A forked worker has loaded all libraries already. Only Linux forks safely.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    shown = verbosity() if verbosity() > 0 else -1  # this process has shown the messages about scenes and labels
    pool = ProcessPoolExecutor(
        min(workers, len(parts)), mp_context=context, initializer=_begin, initargs=(function, shown)
    )
    try:
        yield from track(pool.map(_apply, parts), what, total=len(parts), unit="part")
    except BrokenProcessPool:
        raise MachineError("a worker process died", hint="if the memory was full, use fewer: --workers 1") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(function: Callable[[], AbstractContextManager[Callable[[Any], Any]]], verbosity: int) -> None:
    global _context, _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started the workers ends them
    setup(verbosity)
    _context = function()
    _function = _context.__enter__()  # open until the process ends


def _apply(part: Any) -> Any:
    return _function(part)


def _apply_once(function: Callable[[], AbstractContextManager[Callable[[P], R]]], part: P) -> R:
    """Apply a function in a worker of a cluster."""
    if not log.handlers:
        setup(-1)  # this process shows no progress
    with function() as apply:
        return apply(part)


def cut(places: Sequence[object], least: int) -> list[slice]:
    """Cut a list into parts of at least `least` items that end where the place changes.

    Args:
        places: the place of each item, such as its scene and row. Equal places are neighbours.
        least: fewest items of a part, except the last.
    """
    ends = [number for number in range(1, len(places)) if places[number] != places[number - 1]]
    parts, start = [], 0
    for end in [*ends, len(places)]:
        if end - start >= least or end == len(places):
            parts.append(slice(start, end))
            start = end
    return parts
