"""Find tiles of different splits that show the same picture."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.audit.tiles import TileFacts, reduce_image
from cwsam_cli.raster.pixels import read_image
from cwsam_cli.raster.scene import open_raster, reading

_ALIKE = 0.98
"""Correlation from which reduced tiles count as alike."""
_FINE = 64
"""Pixels per side at which candidates are compared again."""
_ROWS = 512
_CANDIDATES = 1000
"""Most candidates that are read again."""

Likeness = tuple[TileFacts, TileFacts, float]
"""Two tiles and their correlation."""


def find_duplicates(tiles: Sequence[TileFacts]) -> list[tuple[TileFacts, TileFacts]]:
    """Return pairs of tiles of different splits whose pixels are equal. Tiles of a single colour show nothing."""
    same: dict[bytes, list[TileFacts]] = defaultdict(list)
    for tile in tiles:
        if tile.digest:
            same[tile.digest].append(tile)
    return [
        (one, other)
        for group in same.values()
        for number, one in enumerate(group)
        for other in group[number + 1 :]
        if one.split != other.split
    ]


def find_near_duplicates(tiles: Sequence[TileFacts]) -> list[Likeness]:
    """Return pairs of tiles of different splits that correlate by 0.98, at 16 × 16 and again at 64 × 64 pixels.

    Changes of brightness, compression or noise do not hide such pairs. Turned or shifted tiles are not found.
    """
    splits = np.unique([tile.split for tile in tiles], return_inverse=True)[1]
    reduced = np.stack([tile.reduced for tile in tiles]) if tiles else np.zeros((0, 1), np.float32)
    found: list[tuple[float, int, int]] = []
    for start in range(0, len(tiles), _ROWS):
        alike = reduced[start : start + _ROWS] @ reduced.T
        rows, columns = np.nonzero(alike >= _ALIKE)
        apart = (splits[rows + start] != splits[columns]) & (rows + start < columns)
        rows, columns = rows[apart], columns[apart]
        found += zip(alike[rows, columns].tolist(), (rows + start).tolist(), columns.tolist(), strict=True)
    confirmed = []
    for _, i, j in sorted(found, reverse=True)[:_CANDIDATES]:
        if tiles[i].digest != tiles[j].digest:
            one, other = _read(tiles[i].image), _read(tiles[j].image)
            side = min(_FINE, *one[1].shape, *other[1].shape)
            fine = float(reduce_image(*one, side) @ reduce_image(*other, side))
            if fine >= _ALIKE:
                confirmed.append((tiles[i], tiles[j], fine))
    return confirmed


def _read(path: Path) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    with open_raster(path) as dataset, reading(path):
        return read_image(dataset, dataset.indexes, Window(0, 0, dataset.width, dataset.height))
