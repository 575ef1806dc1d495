"""Compile loops over pixels to machine code with numba, once per installation.

Only modules with compiled loops import this module, so other commands do not load numba. Numba recompiles
a file when its own time or size changes, but not when a file that it imports changes. The folder of the
cache is therefore named after the contents of all modules of the packages with compiled loops.
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

_COMPILED = ("regions", "vectorize")
"""The packages with compiled loops."""
_UNUSED_S = 30 * 24 * 3600


def _own_folder() -> Path:
    """Return the cache folder of this version, and remove folders of versions unused for a month."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    folders = (Path(__file__).parents[1] / name for name in _COMPILED)
    sources = b"".join(path.read_bytes() for folder in folders for path in sorted(folder.glob("*.py")))
    folder = Path(cache, "cwsam", hashlib.sha256(sources).hexdigest()[:16])
    with suppress(OSError):  # the folder may be missing or read-only
        os.utime(folder)
    for other in folder.parent.glob("*"):
        with suppress(OSError):
            if re.fullmatch("[0-9a-f]{16}", other.name) and other.stat().st_mtime < time.time() - _UNUSED_S:
                shutil.rmtree(other)
    return folder


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(_own_folder())
if not Path(os.environ["NUMBA_CACHE_DIR"]).exists():
    log.info("compiling the loops that follow borders: this takes half a minute, once per installation")

import numba  # noqa: E402 - numba reads the variable when it is imported

_COUNTED: dict[str, Any] = {"nogil": True}  # Any, because numba's stubs lack some options
_UNCOUNTED = _COUNTED | {"_nrt": False}


def compiled(function: F) -> F:
    """Compile a function that creates no array, at its first call, to run without Python's global lock.

    Functions that may create arrays count references to arrays atomically. That took half of the time of `scan`.
    """
    return _cached(function, _UNCOUNTED)


def allocating(function: F) -> F:
    """Compile a function that creates arrays."""
    return _cached(function, _COUNTED)


def inlined(function: F) -> F:
    """Compile a small function that is inlined into the compiled functions that call it."""
    return cast(F, numba.njit(forceinline=True, **_UNCOUNTED)(function))


def _cached(function: F, options: dict[str, Any]) -> F:
    try:
        found: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder is writable
        return cast(F, numba.njit(**options)(function))
    if not hasattr(found, "_cache"):  # NUMBA_DISABLE_JIT
        return cast(F, found)
    keep = found._cache.save_overload

    def keep_if_possible(*compiled: Any) -> None:
        with suppress(OSError):  # a full disk costs only the time of the next compilation
            keep(*compiled)

    found._cache.save_overload = keep_if_possible
    return cast(F, found)
