"""Cut scenes into square blocks on a lattice on the ground.

Neighbouring pixels are similar, so a test tile beside training ground makes a model look better than it is.
A whole block therefore goes to one split, and tiles never leave their block. Scenes on the same grid share the
blocks of the ground that both cover.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isqrt

from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid

_ENOUGH_BLOCKS = 24
_LARGEST_BLOCK = 8


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of one scene that goes to one split."""

    key: str
    """Its name: grid, pixels per side, column and row on the lattice. Blocks with equal keys go to the same split."""
    window: Window
    unit: str = ""
    """What goes to one split: the key, or the name of the scene, or its date."""


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
        Block(key := f"{place}/{block}/{x}/{y}", Window(left, top, right - left, bottom - top), key)
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
