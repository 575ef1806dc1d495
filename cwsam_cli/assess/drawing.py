"""Draw image, reference and map of a few scenes and of the least accurate tiles, for the report.

The tiles are scored again, because keeping all predictions would take too much memory.

# N tiles; H, W rows and columns of a picture; S pixels per side of a sample
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.assess.counts import find_worst
from cwsam_cli.assess.places import Places
from cwsam_cli.assess.trained import Trained
from cwsam_cli.dataset.samples import Sample
from cwsam_cli.distributed.world import World
from cwsam_cli.report.pictures import Picture, Pictures
from cwsam_cli.taxonomy import IGNORE

_WORST = 6  # least accurate tiles shown
_SCENES = 2  # scenes shown
_SQUARES = 48  # samples scored again per scene
_LARGEST = 640  # pixels of a picture's longer side
_PERCENTILES = (2, 98)  # between which bands are stretched


class _Canvas:
    """A part of a scene, onto which samples are painted. Large parts are reduced by leaving out pixels.

    Args:
        part: the part, in pixels of the scene.
        bands: indices of the bands shown as red, green and blue.
    """

    def __init__(self, part: Window, bands: Sequence[int]) -> None:
        self.top, self.left, self.bands = int(part.row_off), int(part.col_off), list(bands)
        self.step = -(-max(int(part.height), int(part.width)) // _LARGEST)
        shape = tuple(-(-int(length) // self.step) for length in (part.height, part.width))
        self.image = np.zeros((3, *shape), np.float32)
        self.reference, self.predicted = (np.full(shape, IGNORE, np.uint8) for _ in range(2))

    def paint(self, tile: Window, sample: Sample, image: NDArray[Any], label: NDArray[Any], best: NDArray[Any]) -> None:
        """Paint a sample (bands, S, S) with its labels and its predicted classes (S, S)."""
        rows, into_rows = self._along(int(tile.row_off) - self.top, int(tile.height), sample.top, len(label))
        columns, into_columns = self._along(int(tile.col_off) - self.left, int(tile.width), sample.left, len(label))
        here, there = (rows, columns), (into_rows, into_columns)
        has_data = (image[:, *here] != 0).any(axis=0)  # normalised pixels without data are 0 in all bands
        self.image[:, *there] = np.where(has_data, image[self.bands][:, *here], self.image[:, *there])
        self.predicted[there] = np.where(has_data, best[here], self.predicted[there])
        self.reference[there] = np.where(label[here] != IGNORE, label[here], self.reference[there])

    def _along(self, tile: int, length: int, sample: int, size: int) -> tuple[slice, slice]:
        """Return the pixels of a sample to take along one axis, and where they go."""
        start = tile + sample
        first = -start % self.step
        own = range(first, min(size, length - sample), self.step)
        begin = (start + first) // self.step
        return slice(first, max(first, own.stop), self.step), slice(begin, begin + len(own))

    def picture(self, title: str) -> Picture:
        """Return the picture."""
        image = _stretched(self.image, self.predicted != IGNORE)
        return Picture(title, self.predicted, self.reference, image)


def draw_pictures(
    trained: Trained, world: World, places: Places, tiles: NDArray[np.int64], batch_size: int
) -> Pictures:
    """Draw the scenes with most labels, and the least accurate tiles.

    Args:
        trained: the model and the dataset.
        world: this process.
        places: scenes, blocks and windows of the tiles.
        tiles: labelled and correct pixels of each tile (N, 2).
        batch_size: images per batch.
    """
    samples: dict[int, list[int]] = defaultdict(list)
    for number, sample in enumerate(trained.dataset.samples):
        samples[sample.tile].append(number)
    alone = replace(world, rank=0, size=1)
    names = [image.stem for image, _ in trained.dataset.pairs]
    jobs: list[tuple[str, list[int]]] = []
    for number in find_worst(tiles, _WORST):
        pixels, right = tiles[number].tolist()
        jobs.append((f"{names[number]}: {100 * right / pixels:.0f} % of {pixels:,} pixels correct", [number]))
    worst = len(jobs)
    for scene in _scenes(places, tiles):
        own = _choose_tiles(scene, places, tiles, samples)
        title = scene.replace("\\", "/").rpartition("/")[2]
        jobs.append((f"{title}, {len(own)} of {places.scenes.count(scene)} tiles", own))
    bands = _display_bands([band.name for band in trained.dataset.bands])
    pictures = []
    for title, own in jobs:
        windows = {number: places.windows[number] or _alone(trained, samples[number]) for number in own}
        canvas = _Canvas(_around(list(windows.values())), bands)
        wanted = [sample for number in own for sample in samples[number]]
        for batch in trained.score(alone, batch_size, samples=wanted):
            best = batch.logits.argmax(dim=1).cpu().numpy().astype(np.uint8)
            for number, image, label, guess in zip(
                batch.samples, batch.images.numpy(), batch.labels.numpy(), best, strict=True
            ):
                sample = trained.dataset.samples[number]
                canvas.paint(windows[sample.tile], sample, image, label, guess)
        pictures.append(canvas.picture(title))
    return Pictures(tuple(pictures[worst:]), tuple(pictures[:worst]))


def _scenes(places: Places, tiles: NDArray[np.int64]) -> list[str]:
    """Return the scenes with most labelled pixels, if the dataset says where its tiles lie."""
    pixels: dict[str, int] = defaultdict(int)
    for scene, window, count in zip(places.scenes, places.windows, tiles[:, 0].tolist(), strict=True):
        if window is not None:
            pixels[scene] += count
    return sorted(pixels, key=lambda scene: -pixels[scene])[:_SCENES]


def _choose_tiles(scene: str, places: Places, tiles: NDArray[np.int64], samples: dict[int, list[int]]) -> list[int]:
    """Return tiles of a scene: the block with most labelled pixels, and its neighbours while few samples are needed."""
    blocks: dict[str, list[int]] = defaultdict(list)
    for number, (own, block) in enumerate(zip(places.scenes, places.blocks, strict=True)):
        if own == scene:
            blocks[block].append(number)
    first = max(blocks.values(), key=lambda numbers: int(tiles[numbers, 0].sum()))
    corners = {number: (window.row_off, window.col_off) for number, window in enumerate(places.windows) if window}

    def distance(numbers: list[int]) -> float:
        return min(math.dist(corners[one], corners[other]) for one in first for other in numbers)

    chosen: list[int] = []
    for numbers in sorted(blocks.values(), key=distance):
        if chosen and sum(len(samples[number]) for number in [*chosen, *numbers]) > _SQUARES:
            break
        chosen += numbers
    return chosen


def _alone(trained: Trained, samples: Sequence[int]) -> Window:
    """Return the extent of a tile whose window in the scene is unknown."""
    own = [trained.dataset.samples[number] for number in samples]
    size = trained.dataset.size
    return Window(0, 0, max(each.left for each in own) + size, max(each.top for each in own) + size)


def _around(windows: Sequence[Window]) -> Window:
    left, top = (min(int(offset) for offset in offsets) for offsets in _starts(windows))
    right = max(int(window.col_off + window.width) for window in windows)
    bottom = max(int(window.row_off + window.height) for window in windows)
    return Window(left, top, right - left, bottom - top)


def _starts(windows: Sequence[Window]) -> tuple[list[float], list[float]]:
    return [window.col_off for window in windows], [window.row_off for window in windows]


def _display_bands(names: Sequence[str]) -> list[int]:
    """Return the indices of the bands shown as red, green and blue, as in the quicklook."""
    if {"red", "green", "blue"} <= set(names):
        return [names.index(name) for name in ("red", "green", "blue")]
    return [2, 1, 0] if len(names) >= 3 else [0, 0, 0]


def _stretched(image: NDArray[np.float32], has_data: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Stretch each band between two percentiles, (3, H, W) → (H, W, 4); pixels without data are transparent."""
    picture = np.zeros((*has_data.shape, 4), np.uint8)
    picture[has_data, 3] = 255
    if has_data.any():
        for channel, band in enumerate(image):
            low, high = np.percentile(band[has_data], _PERCENTILES)
            picture[has_data, channel] = np.clip((band[has_data] - low) / max(high - low, 1e-6), 0, 1) * 255
    return picture
