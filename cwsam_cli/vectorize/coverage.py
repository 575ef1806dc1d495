"""Check that polygons are a coverage: each edge occurs once in each direction.

Each edge is stored as a hash of 64 bits with a sign for its direction. A pair of opposite edges is
removed, so memory is bounded by the edges that still lack their opposite.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from cwsam_cli.maps.codes import NODATA, Strip

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Coverage:
    """The state of the check."""

    edges: int = 0
    """Edges of polygons, both directions counted."""
    invalid: int = 0
    """Polygons that are not valid."""
    drawn: dict[int, float] = field(default_factory=dict)
    """Area of the polygons in m², by code."""
    mapped: dict[int, float] = field(default_factory=dict)
    """Area of the pixels in m², by code; `count_areas` fills it."""
    _keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    _signs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def unmatched(self) -> int:
        """Return the number of edges without their opposite."""
        return int(np.abs(self._signs).sum())

    def add_edges(self, starts: Floats, ends: Floats) -> None:
        """Add directed edges.

        Args:
            starts: (N, 2).
            ends: (N, 2).
        """
        forwards = (starts[:, 0] < ends[:, 0]) | ((starts[:, 0] == ends[:, 0]) & (starts[:, 1] < ends[:, 1]))
        low, high = np.where(forwards[:, None], starts, ends), np.where(forwards[:, None], ends, starts)
        keys = np.concatenate([self._keys, _hash(np.concatenate([low, high], axis=1))])
        signs = np.concatenate([self._signs, np.where(forwards, 1, -1)])
        order = np.argsort(keys)
        keys, signs = keys[order], signs[order]
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.intp)
        sums = np.add.reduceat(signs, first) if len(first) else signs
        self._keys, self._signs = keys[first][sums != 0], sums[sums != 0]

    def add_rings(self, xy: Floats, ring_offsets: NDArray[np.int64]) -> None:
        """Add the edges of polygons' rings.

        Args:
            xy: vertices (V, 2).
            ring_offsets: the first vertex of each ring, and V.
        """
        inner = np.ones(max(0, len(xy) - 1), bool)
        inner[ring_offsets[1:-1] - 1] = False
        self.edges += int(inner.sum())
        self.add_edges(xy[:-1][inner], xy[1:][inner])

    def add_polygons(self, polygons: NDArray[Any]) -> None:
        """Count the polygons that are not valid."""
        self.invalid += int(np.count_nonzero(~shapely.is_valid(polygons)))

    def add_areas(self, codes: NDArray[np.int32], areas: Floats) -> None:
        """Add areas of polygons.

        Args:
            codes: (N,).
            areas: (N,) in m².
        """
        _add(self.drawn, codes, areas)

    @property
    def area_error(self) -> float:
        """Return the largest relative difference between the polygons and the pixels of a class.

        The difference is 1 for a class that only the polygons or only the pixels have.
        """
        codes = self.drawn.keys() | self.mapped.keys()
        pairs = [(self.drawn.get(code, 0.0), self.mapped.get(code, 0.0)) for code in codes]
        return max((abs(one - other) / max(one, other) for one, other in pairs), default=0.0)


def count_areas(
    strips: Iterable[Strip], areas: Callable[[int, int], Floats], mapped: dict[int, float]
) -> Iterator[Strip]:
    """Yield the strips unchanged and add up the area of each code's pixels.

    Args:
        strips: the map.
        areas: returns the pixel areas in m² for a first row and a number of rows, (rows, 1) or (rows, W).
        mapped: receives the areas in m², by code.
    """
    top = 0
    for strip in strips:
        rows = len(strip.codes)
        weights = np.broadcast_to(areas(top, rows), strip.codes.shape)
        valid = strip.codes != NODATA
        _add(mapped, strip.codes[valid], weights[valid])
        top += rows
        yield strip


def _add(totals: dict[int, float], codes: NDArray[np.int32], areas: Floats) -> None:
    present, index = np.unique(codes, return_inverse=True)
    for code, area in zip(present.tolist(), np.bincount(index, areas, len(present)).tolist(), strict=True):
        totals[code] = totals.get(code, 0.0) + area


def _hash(coordinates: Floats) -> NDArray[np.uint64]:
    """Return a hash of 64 bits for each row."""
    words = np.ascontiguousarray(coordinates + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    key = np.zeros(len(words), np.uint64)
    for column in words.T:
        key ^= column
        key *= np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(32)
        key *= np.uint64(0xD6E8FEB86659FD93)
        key ^= key >> np.uint64(29)
    return key
