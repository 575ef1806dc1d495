"""Compile a loop over pixels to machine code, once per installation.

numba keeps what it compiled beside the package, or in the user's cache where that folder is
read-only. Only the rooms that polygonize import it: nothing else waits for it.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function, compiled at its first call; it runs without Python's lock."""
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder to keep it in
        return cast(F, numba.njit(nogil=True)(function))


def inlined(function: F) -> F:
    """A small function for other compiled ones, which take it in where they call it."""
    return cast(F, numba.njit(nogil=True, forceinline=True)(function))
