"""Read a scene for a model: every block once, windows in batches, while the model works.

A strip on the model's device holds the rows that the current windows need, in the scene's dtype. Rows that the next
windows share with them are kept. The others are read from the end of the last reading to the end of a row of blocks,
by several threads if the device is an accelerator. These threads read ahead for the next group of window rows while
the model works on the current one. Batches never mix groups of window rows, so their content does not
depend on where the reading began: a run that starts in the middle repeats the same batches.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from cwsam_cli.predict.scoring.transfer import staging
from cwsam_cli.raster.lattice import Lattice
from cwsam_cli.raster.scene import Scene

MARGIN = 16
"""Pixels that windows see beyond the scene's border: one patch of the encoder.

Without them, windows end at the border, where a model sees its own zero padding. On ground unlike
its training ground, that changes the class of 25 % of the outermost pixels, with the margin 9 %.
"""

CELL_BYTES = 4 << 20  # read at a time: GDAL's cache must hold blocks of the image and of every band's mask until then

_MOST_READERS = 8  # threads; each decodes about 50 million values per second


class Inside(Protocol):
    """A part of the scene that is not a rectangle."""

    def touches(self, window: Window) -> bool:
        """Whether a window may share a pixel with it."""

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Pixels of a window that lie in it, (h, w)."""


VALID, SHOWN = 1, 2
"""Bits of a mask: the scene has values there; the map shows the pixel (then it is valid too)."""


@dataclass(frozen=True, slots=True)
class WindowPixels:
    """A window's pixels, on the model's device."""

    row: int
    col: int
    """Its place in the lattice."""
    image: Tensor
    """(C, h, w) in the scene's dtype."""
    mask: Tensor
    """(h, w) uint8, of the bits above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What to read of a scene, and how to batch it."""

    lattice: Lattice
    """The scene's windows."""
    rows: range
    """Rows of the lattice; the first one begins a group."""
    cols: range
    """Columns of the lattice."""
    shown: Window
    """The pixels that the map shows."""
    inside: Inside | None = None
    """A part of the scene; the map shows only pixels inside it."""
    batch: int = 8
    """Largest number of windows per batch."""
    group: int = 1
    """Rows of windows that fill batches together."""


def batches(readers: "Readers", area: Area, device: torch.device) -> Iterator[list[WindowPixels]]:
    """Yield the windows of an area in the lattice's order, without those of which the map shows no pixel.

    Args:
        readers: of the scene; they are used from this thread only.
        area: what to read.
        device: where the pixels go.
    """
    strip = _Strip(readers, area, device)
    starts = range(area.rows.start, area.rows.stop, area.group)
    groups = [range(first, min(first + area.group, area.rows.stop)) for first in starts]
    for own, following in zip(groups, [*groups[1:], None], strict=True):
        if not strip.move_to(own):
            continue
        if following is not None:
            strip.read_ahead(following)
        seen = [window for row in own for col in area.cols if (window := strip.window(row, col)) is not None]
        parts = -(-len(seen) // area.batch)
        ends = [part * len(seen) // parts for part in range(parts + 1)] if seen else []
        for begin, end in pairwise(ends):
            yield seen[begin:end]


class Readers:
    """Open copies of one scene. Each copy is used by one thread at a time, because GDAL's handles are not shared.

    Args:
        scenes: the copies.
        settings: GDAL's settings, which each thread needs for itself.
    """

    def __init__(self, scenes: Sequence[Scene], settings: Mapping[str, Any]) -> None:
        self.scene, self._settings = scenes[0], settings
        self._free: SimpleQueue[Scene] = SimpleQueue()
        for scene in scenes:
            self._free.put(scene)
        self.count = len(scenes)
        self._threads = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def read(self, windows: Sequence[Window]) -> Iterator[tuple[NDArray[np.generic], NDArray[np.bool_]]]:
        """Read windows of the scene; see `Scene.read_north_up`.

        If there are several threads, they begin at once. Otherwise each window is read when it is asked for.
        """
        if self._threads is None:
            return map(self.scene.read_north_up, windows)
        return self._threads.map(self._read, windows)

    def _read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        scene = self._free.get()
        try:
            with rasterio.Env(**self._settings):
                return scene.read_north_up(window)
        finally:
            self._free.put(scene)

    def close(self) -> None:
        """Wait for the threads. The scenes stay open."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


def count_readers(device: torch.device, processes: int) -> int:
    """Count threads that decode the scene: one beside a model on the CPU, else as many as there are cores for them."""
    return 1 if device.type == "cpu" else max(1, min(_MOST_READERS, (os.cpu_count() or 1) // processes))


@dataclass(frozen=True, slots=True)
class _Reading:
    """Rows of the scene that are being read."""

    begin: int
    end: int
    cells: list[Window]
    """Windows that share out the rows; empty if the rows lie outside the scene."""
    pixels: Iterator[tuple[NDArray[np.generic], NDArray[np.bool_]]]
    """Image (C, h, w) and validity (h, w) of each cell."""


class _Strip:
    """Rows of the scene, across some columns of windows."""

    def __init__(self, readers: Readers, area: Area, device: torch.device) -> None:
        self.readers, self.area, self.device, self.scene = readers, area, device, readers.scene
        lattice = area.lattice
        self.lattice = lattice
        self.left = lattice.cols[area.cols.start]
        self.right = lattice.cols[area.cols.stop - 1] + min(lattice.size, lattice.width)
        self.top = self.end = lattice.rows[0]
        self.dtype = torch.from_numpy(np.empty(0, self.scene.dtype)).dtype
        self._ahead: _Reading | None = None
        self._hold(0)

    def _hold(self, height: int) -> None:
        width = self.right - self.left
        self.image = torch.empty((len(self.scene.bands), height, width), dtype=self.dtype, device=self.device)
        self.mask = torch.empty((height, width), dtype=torch.uint8, device=self.device)
        self.is_shown = np.zeros((height, width), bool)  # as the mask's bit; the host asks which windows are needed

    def move_to(self, rows: range) -> bool:
        """Hold the rows of pixels under some rows of windows; return False if the map shows none of them."""
        if not self._is_touched(rows):
            return False
        top = self.lattice.rows[rows.start]
        begin, end = self._missing(rows)
        kept, new = max(0, self.end - top), end - begin
        image, mask, is_shown = self.image, self.mask, self.is_shown
        self._hold(kept + new)
        if kept:
            self.image[:, :kept], self.mask[:kept], self.is_shown[:kept] = (
                image[:, -kept:],
                mask[-kept:],
                is_shown[-kept:],
            )
        self.top, self.end = top, end
        if new:
            reading = self._ahead or self._start_reading(begin, end)
            self._ahead = None
            if reading.cells:
                self._read(reading)
            self._repeat_edges(slice(kept, kept + new))
        return True

    def read_ahead(self, rows: range) -> None:
        """Begin to read what the next call, `move_to(rows)`, will need."""
        begin, end = self._missing(rows)
        if self.readers.count > 1 and begin < end and self._is_touched(rows):
            self._ahead = self._start_reading(begin, end)

    def _is_touched(self, rows: range) -> bool:
        top, need = self._span(rows)
        inside = self.area.inside
        return inside is None or inside.touches(Window(self.left, top, self.right - self.left, need - top))

    def _span(self, rows: range) -> tuple[int, int]:
        """Return the first row of pixels under some rows of windows, and the row after the last one."""
        lattice = self.lattice
        return lattice.rows[rows.start], lattice.rows[rows.stop - 1] + min(lattice.size, lattice.height)

    def _missing(self, rows: range) -> tuple[int, int]:
        """Return the first row of pixels to read for some rows of windows, and the row after the last one."""
        top, need = self._span(rows)
        begin = max(top, self.end)
        return begin, max(begin, need, self.scene.end_of_blocks(min(need, self.lattice.height), self.lattice.size))

    def _repeat_edges(self, rows: slice) -> None:
        """Continue the scene's outermost pixels into the margin that windows see around it."""
        first, last = max(0, -self.left), self.lattice.width - 1 - self.left
        upper, lower = max(0, -self.top), self.lattice.height - 1 - self.top
        if first or last + 1 < self.mask.shape[1]:
            for pixels in (self.image, self.mask):
                pixels[..., rows, :first] = pixels[..., rows, first : first + 1]
                pixels[..., rows, last + 1 :] = pixels[..., rows, last : last + 1]
            self.mask[rows, :first] &= VALID
            self.mask[rows, last + 1 :] &= VALID
        if upper or lower + 1 < self.mask.shape[0]:
            for pixels in (self.image, self.mask):
                pixels[..., :upper, :] = pixels[..., upper : upper + 1, :]
                pixels[..., lower + 1 :, :] = pixels[..., lower : lower + 1, :]
            self.mask[:upper] &= VALID
            self.mask[lower + 1 :] &= VALID

    def _start_reading(self, begin: int, end: int) -> _Reading:
        """Start to read some rows; rows above and below the scene are left out."""
        begin, end = max(begin, 0), min(end, self.lattice.height)
        cells = [Window(a, begin, b - a, end - begin) for a, b in self._cells(end - begin)] if begin < end else []
        return _Reading(begin, end, cells, self.readers.read(cells))

    def _read(self, reading: _Reading) -> None:
        """Bring rows of the scene to the device."""
        left, right = max(self.left, 0), min(self.right, self.lattice.width)
        place = np.s_[reading.begin - self.top : reading.end - self.top, left - self.left : right - self.left]
        targets = self.image[:, *place], self.mask[place]
        staged = [staging(target) for target in targets]
        image, mask = (pixels.numpy() for pixels in staged)
        for cell, (values, valid) in zip(reading.cells, reading.pixels, strict=True):
            own = slice(cell.col_off - left, cell.col_off - left + cell.width)
            image[:, :, own], mask[:, own] = values, valid
            self._mark_shown(cell, valid)
        mask |= self.is_shown[place].astype(np.uint8) * SHOWN
        for target, pixels in zip(targets, staged, strict=True):
            if pixels is not target:
                target.copy_(pixels, non_blocking=True)

    def _mark_shown(self, window: Window, valid: NDArray[np.bool_]) -> None:
        shown, top, left = self.area.shown, int(window.row_off), int(window.col_off)
        above, below = max(top, int(shown.row_off)), min(top + valid.shape[0], int(shown.row_off + shown.height))
        west, east = max(left, int(shown.col_off)), min(left + valid.shape[1], int(shown.col_off + shown.width))
        if above < below and west < east:
            part = np.s_[above - self.top : below - self.top, west - self.left : east - self.left]
            self.is_shown[part] = valid[above - top : below - top, west - left : east - left]
            if self.area.inside is not None:
                self.is_shown[part] &= self.area.inside.mask(Window(west, above, east - west, below - above))

    def _cells(self, height: int) -> Iterator[tuple[int, int]]:
        """Cut the reading of a few rows at borders of blocks: at most `CELL_BYTES` each, and one for every thread."""
        left, right = max(self.left, 0), min(self.right, self.lattice.width)
        block = self.scene.block_width
        widest = CELL_BYTES // (len(self.scene.bands) * self.image.itemsize * height)
        fair = -(-(right - left) // self.readers.count) + block - 1
        step = max(1, min(widest, fair) // block) * block
        return pairwise([left, *range((left // step + 1) * step, right, step), right])

    def window(self, row: int, col: int) -> WindowPixels | None:
        """Return a window's pixels; None if the map shows none of them."""
        place = self.lattice.window(row, col)
        own = np.s_[
            place.row_off - self.top : place.row_off - self.top + place.height,
            place.col_off - self.left : place.col_off - self.left + place.width,
        ]
        return WindowPixels(row, col, self.image[:, *own], self.mask[own]) if self.is_shown[own].any() else None
