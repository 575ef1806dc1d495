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
from cwsam_cli.vectorize.pipeline import vectorize
from cwsam_cli.vectorize.request import VectorizeRequest
map_path, output = map(Path, sys.argv[1:3])
result = vectorize(VectorizeRequest(map_path=map_path, output=output, min_area=sys.argv[3], simplify="15m"))
print(result.polygons, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
WIDTH = 2048


def blobs(path: Path, height: int, grain: int) -> Path:
    """Random squares of 7 classes, `grain` pixels per side."""
    rng = np.random.default_rng(0)
    options = {"crs": "EPSG:32617", "transform": from_origin(600_000, 4_000_000, 10, 10), "compress": "deflate"}
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, width=WIDTH, height=height, tiled=True, **options
    ) as target:
        for top in range(0, height, 256):
            coarse = rng.integers(1, 8, (256 // grain, WIDTH // grain), np.uint8)
            codes = coarse.repeat(grain, axis=0).repeat(grain, axis=1)
            target.write(codes, 1, window=Window(0, top, WIDTH, 256))
    return path


def measured(tmp_path: Path, height: int, grain: int, min_area: str) -> tuple[int, int]:
    """The number of polygons, and the peak memory in bytes."""
    arguments = [str(blobs(tmp_path / f"{height}.tif", height, grain)), str(tmp_path / f"{height}.gpkg"), min_area]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    polygons, peak = map(int, done.stdout.split())
    return polygons, peak


def test_peak_memory_does_not_grow_with_the_height_of_a_map(tmp_path: Path) -> None:
    (few, low), (many, high) = (measured(tmp_path, height, 16, "3ha") for height in (4096, 16384))
    assert many > 3.5 * few
    assert high - low < 60e6


def test_regions_that_are_nearly_all_too_small_take_few_bytes_each(tmp_path: Path) -> None:
    """They are one cluster over the whole map, so all of them wait for the last row."""
    heights = 4096, 16384
    (_, low), (_, high) = (measured(tmp_path, height, 4, "9ha") for height in heights)
    squares = (heights[1] - heights[0]) * WIDTH // 4**2
    assert high - low < 180 * squares
