"""A map may be of any height: memory follows its width."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

resource: Any = pytest.importorskip("resource")  # Windows has none

PROGRAM = """
import resource, sys
from pathlib import Path
from cwsam_cli.vectorize.pipeline import VectorOptions, vectorize
result = vectorize(Path(sys.argv[1]), Path(sys.argv[2]), VectorOptions(min_area="3ha", simplify="15m"))
print(result.polygons, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
WIDTH, GRAIN = 2048, 16


def blobs(path: Path, height: int) -> Path:
    """Random squares of 7 classes."""
    rng = np.random.default_rng(0)
    options = {"crs": "EPSG:32617", "transform": from_origin(600_000, 4_000_000, 10, 10), "compress": "deflate"}
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, width=WIDTH, height=height, tiled=True, **options
    ) as target:
        for top in range(0, height, 256):
            coarse = rng.integers(1, 8, (256 // GRAIN, WIDTH // GRAIN), np.uint8)
            codes = coarse.repeat(GRAIN, axis=0).repeat(GRAIN, axis=1)
            target.write(codes, 1, window=Window(0, top, WIDTH, 256))
    return path


def test_peak_memory_does_not_grow_with_the_height_of_a_map(tmp_path: Path) -> None:
    polygons, peaks = [], []
    for height in (4096, 16384):
        arguments = [str(blobs(tmp_path / f"{height}.tif", height)), str(tmp_path / f"{height}.gpkg")]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        count, peak = map(int, done.stdout.split())
        polygons.append(count)
        peaks.append(peak)
    assert polygons[1] > 3.5 * polygons[0]
    assert peaks[1] - peaks[0] < 60e6
