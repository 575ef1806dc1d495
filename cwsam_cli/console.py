"""What the program says while it works: log lines and progress bars, all on stderr.

stdout is kept for results, so that `--json` can be piped.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("cwsam")


ONCE = {"once": "text"}
"""Given as `extra`, shows a remark the first time only that a command makes it."""
ONCE_A_KIND = {"once": "kind"}
"""The same for remarks that differ in what they are about only, as by the file."""


class _BesideTheBar(logging.Handler):
    """Prints a line without tearing a progress bar apart."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        once = getattr(record, "once", None)
        if once is not None:
            key = record.msg if once == "kind" else text
            if key in self._said:
                return
            self._said.add(key)
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if "tqdm" in sys.modules:
            _tqdm().write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)


def setup(verbosity: int) -> None:
    """Send the log to stderr: warnings only at -1, notes at 0, details at 1 and above.

    Libraries' warnings are details: what matters of them is said in our own words.
    """
    warnings.showwarning = _as_detail
    log.handlers[:] = [_BesideTheBar()]
    log.propagate = False
    log.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))


def verbosity() -> int:
    """What `setup` was told."""
    return {logging.WARNING: -1, logging.INFO: 0}.get(log.level, 1)


def only_errors() -> None:
    """Be quiet in all processes of a run but the first."""
    log.setLevel(logging.ERROR)


def track(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "step") -> Iterator[T]:
    """Yield the items and show how far along they are, on a terminal only.

    Args:
        items: whatever is gone through.
        what: what is done with them.
        total: how many they are, where they do not know themselves.
        unit: what one of them is called.
    """
    hidden = not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO)
    yield from _tqdm()(items, desc=what, total=total, unit=f" {unit}", file=sys.stderr, disable=hidden, leave=False)


def close_bars() -> None:
    """Clear progress bars that an error or Ctrl-C has left on the terminal."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(_tqdm(), "_instances", ())):
            bar.close()


def _tqdm() -> Any:
    """The class `tqdm` with a lock for threads; its own for processes leaves a semaphore behind when killed."""
    from tqdm import tqdm

    if not hasattr(tqdm, "_lock"):
        tqdm.set_lock(threading.RLock())
    return tqdm


def _as_detail(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    log.debug("%s: %s", category.__name__, message, extra=ONCE)


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
