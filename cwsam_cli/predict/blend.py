"""Blend overlapping windows and finish the rows of a map as soon as no later window touches them.

# K classes, S pixels per side of a window, L layers of the map

A window counts most in its middle (a Hann window) and still a little at its edge. So there are no seams, and the
scene's border pixels keep their scores. A pixel's weights sum to 1, so blended scores are means, and where one window
covers a pixel they are that window's scores bit for bit.

Windows arrive row by row. Only the overlaps are kept: below the row (as wide as the area) and right of the window.
Scores are added in the order of the windows, so the sums are those of an accumulator of the whole scene, bit for bit,
however the area is cut.

Everything stays on the model's device, and nothing waits for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwsam_cli.raster.lattice import Lattice, Rectangle
from cwsam_cli.taxonomy import IGNORE

Layers = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class WindowScores:
    """A window's scores."""

    row: int
    col: int
    """Its place in the lattice."""
    scores: Tensor
    """(K, S, S) float32; blending overwrites it."""
    hidden: Tensor
    """(h, w) uint8, of the window's size: 255 where the map shows nodata, else 0."""
    place: tuple[int, int] = (0, 0)
    """Row and column of its first pixel in the map's raster; only a mosaic needs it."""


def hann(size: int) -> NDArray[np.float64]:
    """How much a window counts at the pixel centres along an axis (size,); nowhere 0."""
    return np.asarray(np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2)


def shares(starts: Sequence[int], size: int, length: int) -> list[NDArray[np.float32]]:
    """Each window's weights along one axis; a pixel's weights sum to 1."""
    shape = hann(size)[: min(size, length)]
    places = [slice(start - starts[0], start - starts[0] + len(shape)) for start in starts]
    total = np.zeros(places[-1].stop)
    for place in places:
        total[place] += shape
    return [(shape / total[place]).astype(np.float32) for place in places]


class Blender:
    """Blend the windows of a lattice over an area of the scene.

    Args:
        lattice: all windows of the scene.
        finish: turns blended scores (K, h, w) into the layers of the map (L, h, w) uint8.
        layers: L.
        device: where the scores are.
    """

    def __init__(
        self, lattice: Lattice, finish: Callable[[Tensor], Tensor], *, layers: int = 1, device: str | torch.device
    ) -> None:
        self.lattice, self.finish, self.layers, self.device = lattice, finish, layers, device
        self.row_shares, self.col_shares = (
            [torch.from_numpy(share).to(device) for share in shares(starts, lattice.size, length)]
            for starts, length in ((lattice.rows, lattice.height), (lattice.cols, lattice.width))
        )

    def blend(self, windows: Iterable[WindowScores], area: Rectangle) -> Iterator[tuple[int, Tensor]]:
        """Yield finished rows of the area, top to bottom.

        Args:
            windows: in the lattice's order. Those without a pixel that the map shows, and those that do not touch
                the area, may be missing.
            area: the part of the scene to finish.

        Yields:
            The first row's offset in the scene, and layers (L, rows, area's width). Together they are all rows of
            the area, each once.
        """
        size, width = self.lattice.size, int(area.width)
        rows, cols = self.lattice.touching(area)
        tops = _Axis(self.lattice.rows, rows, size, int(area.row_off), int(area.row_off + area.height))
        lefts = _Axis(self.lattice.cols, cols, size, int(area.col_off), int(area.col_off + area.width))
        waiting = (item for item in windows if item.row in rows and item.col in cols)
        item = next(waiting, None)
        below: Tensor | None = None  # sums of earlier rows of windows in unfinished rows of pixels, (K, overlap, width)
        beside: Tensor | None = None  # sums in the columns that the window before shares, (K, S, overlap)
        for row in rows:
            top, done, bottom = tops.begin(row), tops.done(row), tops.end(row)
            carried = tops.end(row - 1) - top if row > rows[0] else 0
            finished = torch.full((self.layers, done - top, width), IGNORE, dtype=torch.uint8, device=self.device)
            before = -2
            while item is not None and item.row == row:
                col, scores = item.col, item.scores
                left, final, right = lefts.begin(col), lefts.done(col), lefts.end(col)
                if below is None or beside is None:
                    below = torch.zeros((len(scores), tops.largest_overlap, width), device=self.device)
                    beside = torch.empty((len(scores), size, lefts.largest_overlap), device=self.device)
                at_row, at_col = top - self.lattice.rows[row], left - self.lattice.cols[col]
                own = slice(at_row, at_row + bottom - top), slice(at_col, at_col + right - left)
                total = scores[:, *own]
                total *= self.row_shares[row][own[0], None] * self.col_shares[col][own[1]]
                shared = lefts.end(before) - left if before == col - 1 else 0
                if shared:
                    total[..., :shared] += beside[:, : bottom - top, :shared]
                origin = left - int(area.col_off)
                if carried:
                    total[:, :carried, shared:] += below[:, :carried, origin + shared : origin + right - left]
                if bottom > done:
                    below[:, : bottom - done, origin : origin + final - left] = total[:, done - top :, : final - left]
                beside[:, : bottom - top, : right - final] = total[..., final - left :]
                if done > top and final > left:
                    layers = self.finish(total[:, : done - top, : final - left])
                    hidden = item.hidden[own][: done - top, : final - left]
                    torch.bitwise_or(layers, hidden, out=finished[:, :, origin : origin + final - left])
                before, item = col, next(waiting, None)
            if done > top:
                yield top, finished


@dataclass(frozen=True, slots=True)
class _Axis:
    """Windows along one axis, cut to an area."""

    starts: Sequence[int]
    touching: range
    size: int
    first: int
    last: int

    @property
    def largest_overlap(self) -> int:
        """Pixels that neighbouring windows share, at most."""
        return max((self.end(index - 1) - self.begin(index) for index in self.touching[1:]), default=0)

    def begin(self, index: int) -> int:
        """The first pixel of window `index` within the area."""
        return max(self.starts[index], self.first)

    def done(self, index: int) -> int:
        """Where the next window begins: pixels before it are finished."""
        return self.begin(index + 1) if index + 1 in self.touching else self.last

    def end(self, index: int) -> int:
        """The end of window `index`."""
        return min(self.starts[index] + self.size, self.last)


def cut_rows(stretches: Iterable[tuple[int, Layers]], cuts: Sequence[int]) -> Iterator[tuple[int, Layers]]:
    """Regroup finished rows into pieces that lie between neighbouring cuts.

    Args:
        stretches: row offset and rows (L, rows, width), top to bottom without gaps, from the first cut on.
        cuts: row offsets, ascending; the last one ends the last piece.

    Yields:
        A piece's number, from 0 at the first cut, and its rows.
    """
    held: list[Layers] = []
    number, have = 0, cuts[0]
    for _, rows in stretches:
        held.append(rows)
        have += rows.shape[1]
        while number + 1 < len(cuts) and have >= cuts[number + 1]:
            stack = held[0] if len(held) == 1 else np.concatenate(held, axis=1)
            height = cuts[number + 1] - cuts[number]
            yield number, stack[:, :height]
            held = [stack[:, height:]]
            number += 1
