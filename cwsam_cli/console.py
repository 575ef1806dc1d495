"""What the program says while it works: log lines and progress bars, all on stderr.

stdout is kept for results, so that `--json` can be piped.
"""

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("cwsam")


class _BesideTheBar(logging.Handler):
    """Prints a line without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)


def setup(verbosity: int) -> None:
    """Send the log to stderr: warnings only at -1, notes at 0, details at 1 and above."""
    log.handlers[:] = [_BesideTheBar()]
    log.propagate = False
    log.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))


def verbosity() -> int:
    """What `setup` was told."""
    return {logging.WARNING: -1, logging.INFO: 0}.get(log.level, 1)


def only_errors() -> None:
    """Be quiet in all processes of a run but the first."""
    log.setLevel(logging.ERROR)


def track(items: Iterable[T], what: str, *, total: int | None = None) -> Iterator[T]:
    """Yield the items and show how far along they are, on a terminal only."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO)
    yield from tqdm(items, desc=what, total=total, file=sys.stderr, disable=hidden, leave=False)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say what is being loaded, if the block takes more than a second."""
    note = threading.Timer(1.0, log.info, ("loading %s …", what))
    note.daemon = True
    note.start()
    try:
        yield
    finally:
        note.cancel()
