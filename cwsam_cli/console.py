"""Log lines and progress bars, all on stderr.

stdout is only for results, so the output of `--json` can be piped.
"""

import logging
import os
import re
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("cwsam")


ONCE = {"once": "text"}
"""Pass it as `extra=` to show a message only once per command."""
ONCE_A_KIND = {"once": "kind"}
"""Pass it as `extra=` to show only the first of several messages that differ in their arguments, e.g. the file."""
_LINE_S = 60.0
"""Seconds between lines of progress that does not go to a terminal."""

_URL = r"(?:[a-z][a-z0-9+.-]*:/|/vsi[a-z0-9_]+)"
_LOGIN = re.compile(rf"({_URL}/)[^\s/`\"']*@", re.I)  # to the last @ of the host, as URLs are read
_QUERY = re.compile(rf"({_URL}[^\n?`\"]*|\.\w+)\?[^\s`\"]*?(?=[,:;.)]*(?:[\s`\"]|$))", re.I)


def without_secrets(text: str) -> str:
    """Return a text without the queries and logins of the URLs in it, because they can be signatures and tokens."""
    if "?" not in text and "@" not in text:
        return text
    return _QUERY.sub(r"\1", _LOGIN.sub(r"\1", text))


class _BesideTheBar(logging.Handler):
    """Print log lines above the progress bars."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = without_secrets(self.format(record))
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
    """Send the log to stderr.

    Libraries' warnings are shown as details only; the package has its own messages for those that matter.

    Args:
        verbosity: -1 shows warnings and errors, 0 also messages, 1 and above also details.
    """
    warnings.showwarning = _as_detail
    log.handlers[:] = [_BesideTheBar()]
    log.propagate = False
    log.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))


def verbosity() -> int:
    """Return the verbosity that `setup` received; worker processes are started with it."""
    return {logging.WARNING: -1, logging.INFO: 0}.get(log.level, 1)


def only_errors() -> None:
    """Show errors only; all processes of a run except the first call this."""
    log.setLevel(logging.ERROR)


def track(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "step") -> Iterator[T]:
    """Yield the items and show progress: a bar on a terminal, elsewhere a line now and then.

    `CWSAM_PROGRESS_S` in the environment is the number of seconds between these lines.

    Args:
        items: the items.
        what: the label of the bar, e.g. "reading tiles".
        total: the number of items, if they have no length.
        unit: the name of one item.
    """
    if not log.isEnabledFor(logging.INFO):
        yield from items
    elif sys.stderr.isatty():
        yield from _tqdm()(items, desc=what, total=total, unit=f" {unit}", file=sys.stderr, leave=False)
    else:
        yield from _report(items, what, total if total is not None or not isinstance(items, Sized) else len(items))


def _report(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    """Yield the items, and log now and then how far they are."""
    begun = told = time.monotonic()
    interval = _seconds_between_lines()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if total and done < total and now - told >= interval:
            left = (now - begun) * (total - done) / done
            log.info(
                "%s: %d %%, %s left",
                what,
                100 * done // total,
                f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s",
            )
            told = now


def _seconds_between_lines() -> float:
    try:
        return float(os.environ.get("CWSAM_PROGRESS_S", _LINE_S))
    except ValueError:
        return _LINE_S


def close_bars() -> None:
    """Remove progress bars that are still on the terminal after an error or Ctrl-C."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(_tqdm(), "_instances", ())):
            bar.close()


def _tqdm() -> Any:
    """Return the class `tqdm` with a lock for threads; its default lock leaks a semaphore if the process is killed."""
    from tqdm import tqdm

    if not hasattr(tqdm, "_lock"):
        tqdm.set_lock(threading.RLock())
    return tqdm


def _as_detail(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    log.debug("%s: %s", category.__name__, message, extra=ONCE)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Print "loading …" if the block takes more than a second."""
    note = threading.Timer(1.0, log.info, ("loading %s …", what))
    note.daemon = True
    note.start()
    try:
        yield
    finally:
        note.cancel()


def size_text(count: float) -> str:
    """Bytes as people write them: `1.5 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def padded(text: str, width: int) -> str:
    """Fill a text with spaces up to a width on the terminal. Chinese, Japanese and Korean characters take two."""
    return text + " " * (width - text_width(text))


def text_width(text: str) -> int:
    """Count the columns of a text on the terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
