"""Read a scene for a model: every block once, windows in batches, while the model works.

A strip holds the rows that the current windows need. Rows that the next windows share with them are kept. The others
are read from the end of the last reading to the end of a row of blocks. Batches never mix groups of window rows, so
their content does not depend on where the reading began: a run that starts in the middle repeats the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.predict.blend import Mask
from cwsam_cli.raster.grid import Lattice
from cwsam_cli.raster.scene import Scene

MARGIN = 16
"""Pixels that windows see beyond the scene's border: one patch of the encoder.

Without them, windows end at the border, where a model sees its own zero padding. On ground unlike
its training ground, that changes the class of 25 % of the outermost pixels, with the margin 9 %.
"""

CELL_BYTES = 4 << 20  # read at a time: GDAL's cache must hold blocks of the image and of every band's mask until then

_PLACES = ((0.5, 0.5), (0.1, 0.1), (0.9, 0.9), (0.1, 0.9), (0.9, 0.1), (0.5, 0.1), (0.5, 0.9), (0.1, 0.5), (0.9, 0.5))
"""Where a scene is sampled, as shares of its height and width; the first ones count most."""
_PLACE_PIXELS = 1 << 16  # at each of them: read at least, kept at most
_SAMPLE_PIXELS = 1 << 20  # read in all, or 4 % of a large scene: they are read again for the map


def sample(scene: Scene) -> NDArray[np.float64]:
    """Read values of valid pixels (bands, N): whole blocks of the file, or parts of large ones, at a few places."""
    height, width = scene.grid.height, scene.grid.width
    block = scene.dataset.block_shapes[scene.bands[0] - 1]
    high, wide = min(int(block[0]), height), min(int(block[1]), width)
    high = min(height, -(-_PLACE_PIXELS // (high * wide)) * high)
    count = max(1, max(_SAMPLE_PIXELS, height * width // 25) // (high * wide))
    places = dict.fromkeys((int(y * height) // high * high, int(x * width) // wide * wide) for y, x in _PLACES)
    rows = max(1, min(high, _SAMPLE_PIXELS // wide))
    found = []
    for top, left in list(places)[:count]:
        image, valid = scene.read(Window(left, top, min(wide, width - left), min(rows, height - top)))
        values = image[:, valid]
        found.append(values[:, :: values.shape[1] // _PLACE_PIXELS + 1].astype(np.float64))
    return np.concatenate(found, axis=1)


class Inside(Protocol):
    """A part of the scene that is not a rectangle."""

    def touches(self, window: Window) -> bool:
        """Whether a window may share a pixel with it."""

    def mask(self, window: Window) -> Mask:
        """Pixels of a window that lie in it, (h, w)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A window's pixels; they are valid until the next batch is requested."""

    row: int
    col: int
    """Its place in the lattice."""
    image: NDArray[np.generic]
    """(C, h, w) in the scene's dtype."""
    valid: Mask
    wanted: Mask
    """Valid pixels that the map shows."""


def batches(
    scene: Scene,
    lattice: Lattice,
    rows: range,
    cols: range,
    *,
    shown: Window,
    inside: Inside | None = None,
    batch: int = 8,
    group: int = 1,
) -> Iterator[list[Seen]]:
    """Yield the windows of an area in the lattice's order, without those of which the map shows no pixel.

    Args:
        scene: read from this thread only.
        lattice: the scene's windows.
        rows: rows of the lattice; the first one begins a group.
        cols: columns of the lattice.
        shown: the pixels that the map shows.
        inside: a part of the scene; the map shows only pixels inside it.
        batch: largest number of windows per batch.
        group: rows of windows that fill batches together.
    """
    strip = _Strip(scene, lattice, cols, shown, inside)
    for first in range(rows.start, rows.stop, group):
        own = range(first, min(first + group, rows.stop))
        if not strip.move_to(own):
            continue
        seen = [item for row in own for col in cols if (item := strip.window(row, col)).wanted.any()]
        parts = -(-len(seen) // batch)
        ends = [part * len(seen) // parts for part in range(parts + 1)] if seen else []
        for begin, end in pairwise(ends):
            yield seen[begin:end]


class _Strip:
    """Rows of the scene, across some columns of windows."""

    def __init__(self, scene: Scene, lattice: Lattice, cols: range, shown: Window, inside: Inside | None) -> None:
        self.scene, self.lattice, self.shown, self.inside = scene, lattice, shown, inside
        self.left = lattice.cols[cols.start]
        self.right = lattice.cols[cols.stop - 1] + min(lattice.size, lattice.width)
        self.top = self.end = lattice.rows[0]
        width = self.right - self.left
        self.image: NDArray[Any] = np.empty((len(scene.bands), 0, width), scene.dtype)
        self.valid: Mask = np.empty((0, width), bool)
        self.wanted: Mask = np.empty((0, width), bool)

    def move_to(self, rows: range) -> bool:
        """Hold the rows of pixels under some rows of windows; return False if the map shows none of them."""
        top = self.lattice.rows[rows.start]
        need = self.lattice.rows[rows.stop - 1] + min(self.lattice.size, self.lattice.height)
        if self.inside is not None and not self.inside.touches(
            Window(self.left, top, self.right - self.left, need - top)
        ):
            return False
        begin = max(top, self.end)
        end = max(begin, need, self.scene.end_of_blocks(min(need, self.lattice.height), self.lattice.size))
        kept, new = max(0, self.end - top), end - begin
        width = self.right - self.left
        image = np.empty((len(self.scene.bands), kept + new, width), self.scene.dtype)
        valid = np.empty((kept + new, width), bool)
        wanted = np.zeros((kept + new, width), bool)
        if kept:
            image[:, :kept], valid[:kept], wanted[:kept] = (
                self.image[:, -kept:],
                self.valid[-kept:],
                self.wanted[-kept:],
            )
        self.image, self.valid, self.wanted, self.top, self.end = image, valid, wanted, top, end
        if new:
            first, last = max(begin, 0), min(end, self.lattice.height)
            if first < last:
                self._read(first, last)
            self._repeat_edges(slice(kept, kept + new))
        return True

    def _repeat_edges(self, rows: slice) -> None:
        """Continue the scene's outermost pixels into the margin that windows see around it."""
        first, last = max(0, -self.left), self.lattice.width - 1 - self.left
        upper, lower = max(0, -self.top), self.lattice.height - 1 - self.top
        for pixels in (self.image, self.valid):
            pixels[..., rows, :first] = pixels[..., rows, first : first + 1]
            pixels[..., rows, last + 1 :] = pixels[..., rows, last : last + 1]
            pixels[..., :upper, :] = pixels[..., upper : upper + 1, :]
            pixels[..., lower + 1 :, :] = pixels[..., lower : lower + 1, :]

    def _read(self, begin: int, end: int) -> None:
        rows = slice(begin - self.top, end - self.top)
        for left, right in pairwise(self._cells(end - begin)):
            window = Window(left, begin, right - left, end - begin)
            cols = slice(left - self.left, right - self.left)
            self.image[:, rows, cols], self.valid[rows, cols] = self.scene.read_north_up(window)
            above, below = (max(begin, int(self.shown.row_off)), min(end, int(self.shown.row_off + self.shown.height)))
            west, east = (max(left, int(self.shown.col_off)), min(right, int(self.shown.col_off + self.shown.width)))
            if above < below and west < east:
                part = np.s_[above - self.top : below - self.top, west - self.left : east - self.left]
                self.wanted[part] = self.valid[part]
                if self.inside is not None:
                    self.wanted[part] &= self.inside.mask(Window(west, above, east - west, below - above))

    def _cells(self, height: int) -> list[int]:
        """Where to cut the reading of a few rows: at borders of blocks, `CELL_BYTES` apart."""
        block = self.scene.block_width
        pixel = len(self.scene.bands) * self.image.itemsize
        step = max(1, CELL_BYTES // (pixel * height * block)) * block
        left, right = max(self.left, 0), min(self.right, self.lattice.width)
        return [left, *range((left // step + 1) * step, right, step), right]

    def window(self, row: int, col: int) -> Seen:
        place = self.lattice.window(row, col)
        rows = slice(place.row_off - self.top, place.row_off - self.top + place.height)
        cols = slice(place.col_off - self.left, place.col_off - self.left + place.width)
        return Seen(row, col, self.image[:, rows, cols], self.valid[rows, cols], self.wanted[rows, cols])
