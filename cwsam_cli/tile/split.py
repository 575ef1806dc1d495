"""Split the ground, not the tiles, into training, validation and test.

Neighbouring pixels are similar, so a test tile beside training ground makes a model look better than it is.
Scenes are therefore cut into square blocks on a lattice on the ground. A whole block goes to one split, and
tiles never leave their block. Scenes on the same grid share the blocks of the ground that both cover.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.raster.grid import Grid

_CANDIDATES = 500
_ENOUGH_BLOCKS = 24
_LARGEST_BLOCK = 8


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of one scene that goes to one split."""

    key: str
    """Its name: grid, pixels per side, column and row on the lattice. Blocks with equal keys go to the same split."""
    window: Window


def choose_block_size(grids: Sequence[Grid], size: int) -> int:
    """Return the pixels per side of a block: a few tiles, but small enough to leave a choice of blocks.

    Args:
        grids: the scenes' grids.
        size: pixels per side of a tile.
    """
    tiles = sum((grid.width * grid.height) // size**2 for grid in grids)
    return size * min(_LARGEST_BLOCK, max(1, isqrt(tiles // _ENOUGH_BLOCKS)))


def cut_blocks(grid: Grid, block: int, size: int, scene: str) -> list[Block]:
    """Cut a scene's grid into blocks. A remainder smaller than a tile joins the block beside it.

    Args:
        grid: the scene's grid.
        block: pixels per side of a block.
        size: pixels per side of a tile.
        scene: the scene's name, which distinguishes scenes without CRS and position.
    """
    t = grid.transform
    if t.b or t.d or (grid.crs is None and (t.c, t.f) == (0, 0)):
        place, phase_x, phase_y = scene, 0, 0
    else:
        lattice = f"{grid.crs.to_wkt() if grid.crs else None} {t.a!r} {t.e!r}"
        place = sha256(lattice.encode()).hexdigest()[:8]
        phase_x, phase_y = round(t.c / t.a), round(t.f / t.e)
    return [
        Block(f"{place}/{block}/{x}/{y}", Window(left, top, right - left, bottom - top))
        for y, top, bottom in _cut(grid.height, block, size, phase_y)
        for x, left, right in _cut(grid.width, block, size, phase_x)
    ]


def _cut(length: int, block: int, size: int, phase: int) -> list[tuple[int, int, int]]:
    """Return (lattice number, start, stop) of blocks along one axis; pixel 0 lies at `phase` of the lattice."""
    first = phase // block
    pieces = [
        (number, max(0, number * block - phase), min(length, (number + 1) * block - phase))
        for number in range(first, (phase + length - 1) // block + 1)
    ]
    if len(pieces) > 1 and pieces[0][2] - pieces[0][1] < size:
        pieces[:2] = [(pieces[1][0], pieces[0][1], pieces[1][2])]
    if len(pieces) > 1 and pieces[-1][2] - pieces[-1][1] < size:
        pieces[-2:] = [(pieces[-2][0], pieces[-2][1], pieces[-1][2])]
    return pieces


def assign(histograms: NDArray[np.int64], shares: Sequence[float], *, seed: int) -> list[str]:
    """Choose each block's split so that every class is divided as evenly as the blocks allow.

    Of 500 random divisions the best is chosen. In the best one, each split's part of each class is closest to the
    split's share, and no class is missing from training. A class has the weight of the square root of its size, so
    that rare classes count too.

    Args:
        histograms: labelled pixels by block and class (N, K).
        shares: of train, val and test; they need not sum to 1.
        seed: the seed of the random divisions.

    Returns:
        `train`, `val` or `test` for each of the N blocks.
    """
    count = len(histograms)
    wanted = np.asarray(shares, float) / sum(shares)
    sizes = _sizes(count, wanted)
    labels = np.repeat(np.arange(len(SPLITS)), sizes)
    rng = np.random.default_rng(seed)
    candidates = np.stack([rng.permutation(labels) for _ in range(_CANDIDATES)])
    one_hot = candidates[:, None, :] == np.arange(len(SPLITS))[None, :, None]  # (candidates, splits, blocks)
    known = histograms[:, histograms.sum(axis=0) > 0]
    pixels = known.sum(axis=0)
    share = one_hot @ (known / pixels)  # (candidates, splits, classes)
    uneven = ((share - wanted[:, None]) ** 2).sum(axis=1) @ np.sqrt(pixels / pixels.sum())
    cost = uneven + (share[:, 0] == 0).sum(axis=1)
    return [SPLITS[i] for i in candidates[int(cost.argmin())]]


def _sizes(count: int, wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of blocks per split: rounded shares, at least one where the share is not 0, the rest train."""
    held_out = np.where(wanted[1:] > 0, np.maximum(1, np.rint(wanted[1:] * count)), 0).astype(np.int64)
    floor = 1 if wanted[0] > 0 else 0
    while held_out.sum() > count - floor:  # the larger first; test if equal, because training needs validation
        held_out[1 if held_out[1] >= held_out[0] else 0] -= 1
    return np.array([count - held_out.sum(), *held_out])
