"""Place the windows of a map over its scene.

This module imports neither rasterio nor numpy, so that blending runs where only torch is installed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rasterio.windows import Window


class Rectangle(Protocol):
    """Rectangle of pixels, such as rasterio's `Window`."""

    col_off: float
    row_off: float
    width: float
    height: float


def spread(length: int, size: int, overlap: int) -> list[int]:
    """Spread windows evenly along one axis.

    If only the last window shifted inwards, it could cover almost all of its neighbour.

    Args:
        length: length of the axis in pixels.
        size: side of a window in pixels.
        overlap: pixels that neighbouring windows share, at least.

    Returns:
        First pixel of each window.
    """
    if length <= size:
        return [0]
    steps = ceil((length - size) / (size - overlap))
    return [index * (length - size) // steps for index in range(steps + 1)]


def cuts(first: int, length: int, step: int, *, from_end: bool = False) -> tuple[int, ...]:
    """Cut a stretch of pixels into steps; `from_end` leaves the short step at its beginning."""
    end = first + length
    if from_end:
        return tuple(sorted({first, *range(end, first, -step)}))
    return (*range(first, end, step), end)


@dataclass(frozen=True, slots=True)
class Lattice:
    """Fixed set of windows over a whole scene. A part of the scene uses the same windows."""

    width: int
    height: int
    size: int
    rows: tuple[int, ...]
    """First pixel row of each row of windows; negative if the windows reach beyond the scene."""
    cols: tuple[int, ...]
    """First pixel column of each column of windows, likewise."""

    @classmethod
    def over(cls, width: int, height: int, size: int, overlap: int, margin: int = 0) -> "Lattice":
        """Place windows of `size` pixels over a scene.

        Args:
            width: width of the scene in pixels.
            height: height of the scene in pixels.
            size: side of a window in pixels. A shorter or equal side of the scene gets one window.
            overlap: pixels that neighbouring windows share, at least.
            margin: pixels by which the outermost windows reach beyond the scene.
        """
        rows, cols = (
            tuple(start - margin for start in spread(length + 2 * margin, size, overlap)) if length > size else (0,)
            for length in (height, width)
        )
        return cls(width, height, size, rows, cols)

    def of_part(self, col: int, row: int, width: int, height: int) -> "Lattice":
        """Place windows over a part of the scene, as if it were a scene of its own.

        They are this lattice's windows inside the part, and further ones along its borders. They reach beyond the
        part by as much as this lattice reaches beyond its scene.

        Args:
            col: first column of the part.
            row: first row of the part.
            width: width of the part in pixels.
            height: height of the part in pixels.
        """

        def along(starts: Sequence[int], first: int, length: int) -> tuple[int, ...]:
            if length <= self.size:
                return (0,)
            lowest, highest = starts[0], length - starts[0] - self.size
            return (lowest, *(start - first for start in starts if lowest < start - first < highest), highest)

        return Lattice(width, height, self.size, along(self.rows, row, height), along(self.cols, col, width))

    def window(self, row: int, col: int) -> "Window":
        """Return the window of a row and column of the lattice."""
        from rasterio.windows import Window

        return Window(self.cols[col], self.rows[row], min(self.size, self.width), min(self.size, self.height))

    def touching(self, area: Rectangle) -> tuple[range, range]:
        """Return rows and columns of the windows that share a pixel with an area."""
        return (
            _touching(self.rows, self.size, area.row_off, area.row_off + area.height),
            _touching(self.cols, self.size, area.col_off, area.col_off + area.width),
        )

    @property
    def largest_overlap(self) -> int:
        """Largest overlap of two neighbouring windows along either axis, in pixels."""
        pairs = [*pairwise(self.rows), *pairwise(self.cols)]
        return max((self.size - (later - earlier) for earlier, later in pairs), default=0)


def _touching(starts: Sequence[int], size: int, first: float, end: float) -> range:
    return range(bisect_right(starts, first - size), bisect_left(starts, end))
