"""Write cloud-optimised GeoTIFFs of class codes, with overviews that show the most frequent class.

GDAL's resampling `mode` is slow: its overviews took 65 % of the CPU time of a COG of 55 million pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.raster.class_vrt import Source, write_class_vrt
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.mapfile import BLOCK, COG_CREATION
from cwsam_cli.raster.scene import verify_written, writing
from cwsam_cli.taxonomy import IGNORE, Taxonomy

COG_BLOCK = 512
"""Pixels per side of a COG's blocks. The smallest overview is not larger."""
DRAFT_CREATION = {
    "driver": "GTiff",
    "count": 1,
    "dtype": "uint8",
    "nodata": IGNORE,
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "compress": "zstd",
    "zstd_level": 1,
    "bigtiff": "yes",
    "sparse_ok": True,
}
"""Rasterio's options for files that soon become a COG."""
_STRIP_PIXELS = 2**22

Codes = NDArray[np.uint8]


def write_class_cog(draft: Path, part: Window, target: Path, taxonomy: Taxonomy, tags: Mapping[str, str]) -> None:
    """Write a part of a raster of class codes as a COG.

    Args:
        draft: the raster; a few files beside it are written and removed.
        part: the pixels that become the COG.
        target: the COG.
        taxonomy: the classes.
        tags: more metadata.

    Raises:
        MachineError: the file could not be written whole.
    """
    view = draft.with_suffix(".vrt")
    with rasterio.open(draft) as dataset:
        whole = Grid.of(dataset)
    grid, place = whole.part(part), Window(0, 0, part.width, part.height)
    cut = [Source(draft.name, (whole.width, whole.height), part, place)]
    write_class_vrt(view, grid, cut, taxonomy, tags)
    levels: list[Path] = []
    while max(grid.width, grid.height) > COG_BLOCK << len(levels):
        level = draft.with_suffix(f".{len(levels) + 1}.tif")
        _write_half(levels[-1] if levels else view, level)
        levels.append(level)
    write_class_vrt(view, grid, cut, taxonomy, tags, overviews=[level.name for level in levels])
    with writing(target):
        rasterio.shutil.copy(view, target, driver="COG", **COG_CREATION | {"overviews": "force_use_existing"})
    verify_written(target)
    for path in [view, *levels]:
        path.unlink()


def _write_half(source: Path, target: Path) -> None:
    """Write a raster of class codes in half its width and height."""
    with rasterio.open(source) as dataset, writing(target):
        width, height = (dataset.width + 1) // 2, (dataset.height + 1) // 2
        place = {"crs": dataset.crs, "transform": dataset.transform @ Affine.scale(2)}
        with rasterio.open(target, "w", width=width, height=height, **place, **DRAFT_CREATION) as half:
            rows = 2 * BLOCK * max(1, _STRIP_PIXELS // (2 * BLOCK * dataset.width))
            for top in range(0, dataset.height, rows):
                strip = Window(0, top, dataset.width, min(rows, dataset.height - top))
                codes = halve(dataset.read(1, window=strip))
                half.write(codes, 1, window=Window(0, top // 2, width, len(codes)))


def halve(codes: Codes) -> Codes:
    """Return the most frequent code of each 2 × 2 pixels, (H, W) → (H / 2, W / 2), rounded up.

    Nodata counts only where all four are nodata. Of two frequent codes, the one in the upper row wins, then the left.
    """
    height, width = codes.shape
    if height % 2 or width % 2:
        codes = np.pad(codes, ((0, height % 2), (0, width % 2)), constant_values=IGNORE)
    four = [codes[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    best = np.ascontiguousarray(four[0])
    votes = _votes(four, 0)
    for number in (1, 2):
        own = _votes(four, number)
        more = own > votes
        np.copyto(best, four[number], where=more)
        np.maximum(votes, own, out=votes)
    np.copyto(best, four[3], where=(votes == 0) & (four[3] != IGNORE))
    return best


def _votes(four: list[Codes], number: int) -> Codes:
    """Count how many of four codes equal one of them, 0 where it is nodata."""
    own = four[number]
    count = np.ones(own.shape, np.uint8)
    for other, codes in enumerate(four):
        if other != number:
            count += own == codes
    count *= own != IGNORE
    return count
