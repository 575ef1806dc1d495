"""Read each tile once, and keep the little that the audit compares."""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.pixels import read_image
from cwsam_cli.raster.place import has_position
from cwsam_cli.raster.scene import open_raster, reading
from cwsam_cli.taxonomy import IGNORE

REDUCED = 16
"""Pixels per side of a reduced tile."""
_POINTS = 40
"""Labelled pixels that are kept of a tile for the variogram."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TileFacts:
    """What the audit keeps of a tile."""

    split: str
    image: Path
    grid: Grid | None
    """None if the tile has no position."""
    digest: bytes
    """Hash of the pixels; empty if all pixels are equal, as in black tiles."""
    reduced: Floats
    """The tile with 16 × 16 pixels, mean 0 and length 1, (256,); zeros if the tile is uniform."""
    valid: int
    """Pixels with data."""
    codes: dict[int, int]
    """Labelled pixels by code."""
    points: NDArray[np.int64]
    """Column, row and code of some labelled pixels, (P, 3)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The pixels of a tile and their labels."""

    image: NDArray[np.generic]
    """(C, H, W)."""
    valid: NDArray[np.bool_]
    """Where the image has data (H, W)."""
    codes: NDArray[np.integer]
    """(H, W)."""
    labelled: NDArray[np.bool_]
    """Where the image has data and a label (H, W)."""
    grid: Grid

    @property
    def is_north_up(self) -> bool:
        """Whether the top of the image is north."""
        t = self.grid.transform
        return self.grid.crs is not None and t.a > 0 > t.e and t.b == t.d == 0


def read_pair(image_path: Path, label_path: Path) -> Pair:
    """Read an image and its label.

    Raises:
        DataError: a file is damaged, or image and label differ in size.
    """
    with open_raster(image_path) as dataset, reading(image_path):
        image, valid = read_image(dataset, dataset.indexes, Window(0, 0, dataset.width, dataset.height))
        grid = Grid.of(dataset)
    with open_raster(label_path) as dataset, reading(label_path):
        codes, nodata = dataset.read(1), dataset.nodata
    if codes.shape != valid.shape or not np.issubdtype(codes.dtype, np.integer):
        raise DataError(
            f"`{label_path}` does not have the size of `{image_path.name}`, or holds no whole numbers",
            hint="compare them: gdalinfo",
        )
    labelled = valid & (codes != IGNORE)
    if nodata is not None:
        labelled &= codes != nodata
    return Pair(image, valid, codes, labelled, grid)


def read_tile(split: str, image_path: Path, label_path: Path) -> TileFacts:
    """Read a tile.

    Raises:
        DataError: a file is damaged, or image and label differ in size.
    """
    pair = read_pair(image_path, label_path)
    image, valid, grid = pair.image, pair.valid, pair.grid
    values, counts = np.unique(pair.codes[pair.labelled], return_counts=True)
    is_uniform = bool((image == image[:, :1, :1]).all())
    return TileFacts(
        split=split,
        image=image_path,
        grid=grid if has_position(grid) else None,
        digest=b"" if is_uniform else blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest(),
        reduced=reduce_image(image, valid, REDUCED),
        valid=int(valid.sum()),
        codes=dict(zip(values.tolist(), counts.tolist(), strict=True)),
        points=_some_points(pair.codes, pair.labelled),
    )


def reduce_image(image: NDArray[np.generic], valid: NDArray[np.bool_], side: int) -> Floats:
    """Return the mean of all bands in `side` × `side` cells, with mean 0 and length 1, (side²,)."""
    height, width = valid.shape
    cells = np.arange(height)[:, None] * side // height * side + np.arange(width) * side // width
    gray = np.where(valid, image.mean(axis=0, dtype=np.float32), 0)
    count = np.bincount(cells[valid], minlength=side**2)
    means = np.bincount(cells[valid], gray[valid], side**2) / np.maximum(count, 1)
    known = count > 0
    means = np.where(known, means - (means[known].mean() if known.any() else 0), 0)
    length = float(np.linalg.norm(means))
    spread = float(gray[valid].std()) if known.any() else 0.0
    return (means / length if length > 1e-3 * max(spread, 1e-6) * side else means * 0).astype(np.float32)


def local_mean(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return the mean of the pixels around each pixel (H, W), in a square of 2 × reach + 1 pixels per side."""
    side = 2 * reach + 1
    padded = np.pad(values, ((reach + 1, reach), (reach + 1, reach)), mode="reflect").cumsum(0).cumsum(1)
    corners = padded[side:, side:] - padded[:-side, side:] - padded[side:, :-side] + padded[:-side, :-side]
    return np.asarray(corners / side**2)


def _some_points(codes: NDArray[np.generic], labelled: NDArray[np.bool_]) -> NDArray[np.int64]:
    places = np.flatnonzero(labelled)
    if not len(places):
        return np.zeros((0, 3), np.int64)
    chosen = np.random.default_rng(0).choice(places, min(_POINTS, len(places)), replace=False)
    rows, columns = np.divmod(chosen, codes.shape[1])
    return np.stack([columns, rows, codes.ravel()[chosen].astype(np.int64)], axis=1)
