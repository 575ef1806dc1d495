"""Compile a loop over pixels to machine code, once per installation.

Only the rooms that polygonize import this, and numba: nothing else waits for it. What numba
compiled it keeps by a file's time and size, and does not look at what that file imports; so
its folder is named after the contents of all of them.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from cwsam_cli.console import log

F = TypeVar("F", bound=Callable[..., Any])

_UNUSED_S = 30 * 24 * 3600


def _own_folder() -> Path:
    """Where this version's machine code is kept; that of versions unused for a month goes."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    folder = Path(cache, "cwsam", hashlib.sha256(sources).hexdigest()[:16])
    with suppress(OSError):  # it need not be there, or ours to write to
        os.utime(folder)
    for other in folder.parent.glob("*"):
        with suppress(OSError):
            if re.fullmatch("[0-9a-f]{16}", other.name) and other.stat().st_mtime < time.time() - _UNUSED_S:
                shutil.rmtree(other)
    return folder


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(_own_folder())
if not Path(os.environ["NUMBA_CACHE_DIR"]).exists():
    log.info("compiling the loops that follow borders, once: this takes ten to thirty seconds")

import numba  # noqa: E402 - it reads the variable when imported

_COUNTED: dict[str, Any] = {"nogil": True}  # numba's own stubs do not know all of its options
_UNCOUNTED = _COUNTED | {"_nrt": False}


def compiled(function: F) -> F:
    """The function, compiled at its first call; it runs without Python's lock and makes no array.

    If it could, it would count who uses each array, atomically: that took half of `scan`'s time.
    """
    return _cached(function, _UNCOUNTED)


def allocating(function: F) -> F:
    """The same for a function that makes arrays."""
    return _cached(function, _COUNTED)


def inlined(function: F) -> F:
    """A small function for other compiled ones, which take it in where they call it."""
    return cast(F, numba.njit(forceinline=True, **_UNCOUNTED)(function))


def _cached(function: F, options: dict[str, Any]) -> F:
    try:
        found: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return cast(F, numba.njit(**options)(function))
    if not hasattr(found, "_cache"):  # NUMBA_DISABLE_JIT
        return cast(F, found)
    keep = found._cache.save_overload

    def keep_if_possible(*compiled: Any) -> None:
        with suppress(OSError):  # a full disk there is none of the user's concern
            keep(*compiled)

    found._cache.save_overload = keep_if_possible
    return cast(F, found)
