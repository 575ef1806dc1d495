"""Counts from which all figures of an evaluation follow.

# G cells of ground, N tiles, K classes, E groups of experts
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.metrics.reliability import BINS

_FEWEST = 0.05  # share of the largest tile's labelled pixels; a tile with fewer is not called the worst


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts over a dataset; each labelled pixel counts once."""

    matrices: NDArray[np.int64]
    """Confusion matrices (G, K, K); rows reference, columns map."""
    boundaries: NDArray[np.int64]
    """See `count_boundaries`, (G, K, 4)."""
    bins: NDArray[np.float64]
    """See `count_bins`, (G, bins, 3)."""
    tiles: NDArray[np.int64]
    """Labelled and correct pixels of each tile, (N, 2)."""
    groups: NDArray[np.int64]
    """Labelled and correct pixels by the group of experts with the largest weight, (G, E, 2)."""

    @classmethod
    def empty(cls, cells: int, tiles: int, classes: int, groups: int = 0) -> "Counts":
        """Return counts of nothing."""
        return cls(
            np.zeros((cells, classes, classes), np.int64),
            np.zeros((cells, classes, 4), np.int64),
            np.zeros((cells, BINS, 3)),
            np.zeros((tiles, 2), np.int64),
            np.zeros((cells, groups, 2), np.int64),
        )


def find_worst(tiles: NDArray[np.int64], count: int) -> list[int]:
    """Return the numbers of the least accurate tiles, without those of which hardly a pixel is labelled.

    Args:
        tiles: labelled and correct pixels of each tile, (N, 2).
        count: largest number of tiles.
    """
    pixels, right = tiles.T
    enough = np.flatnonzero((pixels > 0) & (pixels >= _FEWEST * pixels.max(initial=0)))
    order = np.argsort(right[enough] / pixels[enough], kind="stable")
    return [int(number) for number in enough[order][:count]]
