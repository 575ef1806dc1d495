"""Blend the windows of overlapping scenes into one map.

# K classes, S pixels per side of a window, L layers of the map

A pixel's score is the mean of the scores of all windows of all scenes that show it, weighted as in `blend`: a window
counts most in its middle. So a scene counts less near its border, and pixels without data do not count.

Windows arrive from north to south. Sums are kept across the area, for as many rows as a window has.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from cwsam_cli.predict.blend import WindowScores, hann
from cwsam_cli.raster.lattice import Rectangle
from cwsam_cli.taxonomy import IGNORE


class MosaicBlender:
    """Blend windows that lie anywhere.

    Args:
        size: S.
        finish: turns blended scores (K, h, w) into the layers of the map (L, h, w) uint8.
        layers: L.
        device: where the scores are.
    """

    def __init__(
        self, size: int, finish: Callable[[Tensor], Tensor], *, layers: int = 1, device: str | torch.device
    ) -> None:
        self.size, self.finish, self.layers, self.device = size, finish, layers, device

    def blend(self, windows: Iterable[WindowScores], area: Rectangle) -> Iterator[tuple[int, Tensor]]:
        """Yield finished rows of the area, top to bottom; see `Blender.blend`.

        Args:
            windows: sorted by the row of their first pixel. Those without a pixel that the map shows, and those that
                do not touch the area, may be missing.
            area: the part of the mosaic to finish.
        """
        first, end, left = int(area.row_off), int(area.row_off + area.height), int(area.col_off)
        width = int(area.width)
        sums: Tensor | None = None  # weighted scores and, last, weights, (K + 1, S, width)
        top = first  # of the sums
        for window in windows:
            row, col = window.place
            height, across = window.hidden.shape
            if row >= end:
                break
            if row > top:
                yield from self._finished(sums, top, row, width)
                if sums is not None:
                    move_up(sums, row - top)
                top = row
            above, beyond = max(0, top - row), min(height, end - row)
            before, after = max(0, left - col), min(across, left + width - col)
            if above >= beyond or before >= after:
                continue
            own = slice(above, beyond), slice(before, after)
            scores, hidden = window.scores[:, *own], window.hidden[own] > 0
            weights = (
                _weights(height, self.device)[own[0], None] * _weights(across, self.device)[own[1]]
            ).masked_fill_(hidden, 0)
            if sums is None:
                sums = torch.zeros((len(scores) + 1, self.size, width), device=self.device)
            there = sums[:, row + above - top : row + beyond - top, col + before - left : col + after - left]
            there[:-1] += scores.masked_fill_(hidden, 0).mul_(weights)
            there[-1] += weights
        yield from self._finished(sums, top, end, width)

    def _finished(self, sums: Tensor | None, top: int, end: int, width: int) -> Iterator[tuple[int, Tensor]]:
        """Yield rows that no later window touches."""
        summed = 0 if sums is None else min(self.size, end - top)
        rows = torch.full((self.layers, end - top, width), IGNORE, dtype=torch.uint8, device=self.device)
        for first in range(0, width if sums is not None else 0, self.size):  # a few columns at a time take less memory
            assert sums is not None
            part = sums[:, :summed, first : first + self.size]
            weights = part[-1]
            hidden = (weights == 0).to(torch.uint8) * IGNORE
            layers = self.finish(part[:-1] / weights.clamp_min(torch.finfo(weights.dtype).tiny))
            torch.bitwise_or(layers, hidden, out=rows[:, :summed, first : first + self.size])
        if end > top:
            yield top, rows


def move_up(sums: Tensor, rows: int) -> None:
    """Forget the first rows of (K, H, W), move the others up and clear the last ones."""
    kept = max(0, sums.shape[1] - rows)
    for plane in sums:
        plane[:kept] = plane[sums.shape[1] - kept :].clone()
        plane[kept:] = 0


def _weights(size: int, device: str | torch.device) -> Tensor:
    return torch.from_numpy(hann(size)).to(device, torch.float32)
