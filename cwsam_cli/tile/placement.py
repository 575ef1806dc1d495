"""Place tiles where labels are, if few pixels of a block have labels.

A lattice cuts small label clusters at arbitrary lines. Here, rows with labels are covered by strips, and the labelled
columns of each strip by tiles. Strips and tiles do not overlap. Each is moved so that its labels lie in the middle, as
far as its neighbours allow.
"""

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.raster.grid import offsets

Starts = list[tuple[int, int]]
"""First row and first column of tiles."""


def place_on_labels(known: NDArray[np.bool_], size: int) -> Starts | None:
    """Return tiles that contain all labelled pixels and do not overlap.

    Args:
        known: which pixels of a block have a label (H, W); at least `size` pixels on each side.
        size: pixels per side of a tile.

    Returns:
        The tiles' first rows and columns. None if a lattice needs no more tiles, or if there is no room for tiles that
        do not overlap.
    """
    rows = _cover(np.asarray(known.any(axis=1)), size)
    if rows is None:
        return None
    starts: Starts = []
    for row in rows:
        columns = _cover(np.asarray(known[row : row + size].any(axis=0)), size)
        if columns is None:
            return None
        starts += [(row, column) for column in columns]
    return starts if len(starts) < _lattice_tiles(known, size) else None


def _cover(labelled: NDArray[np.bool_], size: int) -> list[int] | None:
    """Return starts of intervals that do not overlap and contain all labelled places of an axis, or None."""
    places = np.flatnonzero(labelled).tolist()
    groups: list[tuple[int, int]] = []
    for place in places:
        if groups and place < groups[-1][0] + size:
            groups[-1] = groups[-1][0], place
        else:
            groups.append((place, place))
    last_start = len(labelled) - size
    earliest: list[int] = []
    for first, last in groups:
        start = max(0, last + 1 - size, *(earlier + size for earlier in earliest[-1:]))
        if start > min(first, last_start):
            return None
        earliest.append(start)
    starts: list[int] = []
    limit = last_start
    for (first, last), start in zip(reversed(groups), reversed(earliest), strict=True):
        middle = (first + last + 1 - size) // 2
        starts.append(min(max(middle, start), first, limit))
        limit = starts[-1] - size
    return starts[::-1]


def _lattice_tiles(known: NDArray[np.bool_], size: int) -> int:
    """Return the number of a lattice's tiles with labels."""
    rows, columns = offsets(known.shape[0], size, size), offsets(known.shape[1], size, size)
    return sum(bool(known[row : row + size, column : column + size].any()) for row in rows for column in columns)
