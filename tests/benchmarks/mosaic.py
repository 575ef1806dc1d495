"""CPU seconds, wall and peak memory of `cwsam mosaic` against `rio merge` and `gdalwarp`, in one run.

python tests/benchmarks/mosaic.py [--side N] [--size N] [--folder DIR]

The maps are made here: SIDE × SIDE parts (default 10 × 10) of SIZE × SIZE pixels (default 2,000) of
one landscape of 33 classes. Neighbours share a tenth of their width, and 5 % of each map's pixels in
patches show another class, so that maps disagree. They are compressed as `predict` writes them. Every
program makes a cloud-optimised GeoTIFF with overviews of the most frequent class, in deflate.
`rio merge` writes a tiled GeoTIFF first, which rasterio's COG driver then copies; both count, and the
merging alone is printed too. Every program runs as a process of its own, so its start counts. Memory
is also measured with a quarter of the maps in the same width, to show that it does not grow.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from vectorize import BANDS, CLASSES, noise

from cwsam_cli.raster.mapfile import GTIFF_CREATION
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import from_names

OURS = (sys.executable, "-m", "cwsam_cli", "-q", "mosaic")
RIO = (str(Path(sys.executable).with_name("rio")), "merge")
COG = {"COMPRESS": "DEFLATE", "OVERVIEW_RESAMPLING": "MODE", "BIGTIFF": "IF_SAFER"}
COPY = "import rasterio.shutil, sys; rasterio.shutil.copy(*sys.argv[1:3], driver='COG', **%r)" % COG  # noqa: UP031


def make_maps(folder: Path, side: int, size: int) -> None:
    """Overlapping maps of one landscape, from north to south and west to east."""
    folder.mkdir()
    step = size * 9 // 10
    for row in range(side):
        levels = [
            ((band - 0.25) / 0.5 * BANDS).clip(0, BANDS - 1).astype(np.uint8)
            for band in (noise(row * step, size, (side - 1) * step + size, seed) for seed in (0, 1))
        ]
        codes = ((levels[0] * BANDS + levels[1]) * 7 % CLASSES).astype(np.uint8)
        for column in range(side):
            part = codes[:, column * step : column * step + size].copy()
            rng = np.random.default_rng([row, column])
            patches = (rng.random((size // 20 + 1, size // 20 + 1)) < 0.05).repeat(20, 0).repeat(20, 1)
            part[patches[:size, :size]] = rng.integers(0, CLASSES)
            path = folder / f"{row:02}_{column:02}.tif"
            place = from_origin(600_000 + 10 * column * step, 4_000_000 - 10 * row * step, 10, 10)
            form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "crs": "EPSG:32617"}
            with rasterio.open(path, "w", height=size, width=size, transform=place, **form, **GTIFF_CREATION) as target:
                target.write(part, 1)
                tag_classes(target, from_names([f"class {code}" for code in range(CLASSES)]))


def measured(*words: str) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak memory in MB of a process."""
    start = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, words[:5]
    return used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss / 1024


def show(name: str, figures: tuple[float, float, float], base: float | None = None) -> float:
    cpu, wall, memory = figures
    ratio = f"  mosaic needs {base / cpu:.2f} ×" if base else ""
    print(f"{name:<28}{cpu:8.1f} CPU s {wall:8.1f} s {memory:8.0f} MB{ratio}", flush=True)
    return cpu


def main() -> None:
    """Make the maps, run every program, print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=10)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        # In a process of its own, because the memory of this one would count as that of the programs it starts.
        maker = get_context("spawn").Process(target=make_maps, args=(folder / "maps", arguments.side, arguments.size))
        maker.start()
        maker.join()
        maps = sorted(str(path) for path in (folder / "maps").iterdir())

        def target() -> str:
            path = folder / "region.tif"
            path.unlink(missing_ok=True)
            return str(path)

        base = show("mosaic", measured(*OURS, *maps, "-o", target()))
        show("mosaic --by vote", measured(*OURS, *maps, "-o", target(), "--by", "vote"))
        few = maps[: max(arguments.side, len(maps) // 4)]
        show(f"mosaic, {len(few)} maps", measured(*OURS, *few, "-o", target()))
        draft = folder / "draft.tif"
        creation = ("--co", "tiled=true", "--co", "compress=deflate")
        merged = measured(*RIO, *maps, "-o", str(draft), *creation)
        show("rio merge, no overviews", merged, base)
        copied = measured(sys.executable, "-c", COPY, str(draft), target())
        both = (merged[0] + copied[0], merged[1] + copied[1], max(merged[2], copied[2]))
        show("rio merge and COG copy", both, base)
        if shutil.which("gdalwarp"):
            options = [word for key, value in COG.items() for word in ("-co", f"{key}={value}")]
            show("gdalwarp", measured("gdalwarp", "-q", "-of", "COG", *options, *maps, target()), base)


if __name__ == "__main__":
    main()
