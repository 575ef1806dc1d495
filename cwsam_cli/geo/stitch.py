"""Put overlapping windows together again: blend their scores, take the best class, row by row.

# K classes, S pixels a side of a window

Each window counts most in its middle and never nothing at its edge, so that there are no
seams and the scene's border pixels keep their score. Windows arrive row by row; rows that no
later window touches are final and leave at once, so memory grows with the scene's width,
not with its height.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

Scores = NDArray[np.float32]


@lru_cache(maxsize=4)
def window_weight(size: int) -> Scores:
    """A Hann window sampled between its zeros, (S, S), so that it is positive everywhere."""
    edge = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return np.outer(edge, edge).astype(np.float32)


def stitch(scored: Iterable[tuple[Window, Scores]], width: int, height: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Blend scored windows and yield finished rows of class indices, top to bottom.

    The weights' sum is never divided by: it is the same for all classes of a pixel, and only
    the best class counts.

    Args:
        scored: windows in row order with their scores (K, h, w), at least as large as the window.
        width: pixels of the whole scene.
        height: pixels of the whole scene.

    Yields:
        The first row's offset and indices (rows, width) uint8; together all rows, each once.
    """
    total: Scores | None = None
    first = 0
    for window, scores in scored:
        rows, cols = int(window.height), int(window.width)
        weighted = scores[:, :rows, :cols] * window_weight(max(scores.shape[1:]))[:rows, :cols]
        if total is None:
            total = np.zeros((scores.shape[0], rows, width), np.float32)
        done = int(window.row_off) - first
        if done > 0:
            yield first, total[:, :done].argmax(axis=0).astype(np.uint8)
            kept = total[:, done:].copy()
            total[:] = 0
            total[:, : kept.shape[1]] = kept
            first += done
        left = int(window.col_off)
        total[:, :rows, left : left + cols] += weighted
    if total is not None:
        yield first, total[:, : height - first].argmax(axis=0).astype(np.uint8)


def aligned(rows: Iterable[tuple[int, NDArray[np.uint8]]], block: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Regroup finished rows into runs that start and end on a file's blocks.

    Args:
        rows: row offset and rows, top to bottom without gaps.
        block: rows of a block in the file.
    """
    held: list[NDArray[np.uint8]] = []
    first = 0
    for _, some in rows:
        held.append(some)
        ready = sum(map(len, held)) // block * block
        if ready:
            stack = np.concatenate(held)
            yield first, stack[:ready]
            first, held = first + ready, [stack[ready:]]
    if held and sum(map(len, held)):
        yield first, np.concatenate(held)
