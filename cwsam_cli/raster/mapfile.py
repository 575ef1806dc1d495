"""The form of a map's files: names, blocks and compression, and what they cover. Module `style` has the classes."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid

BLOCK = 256
"""Pixels per side of a map file's blocks; pieces of a map are as high."""
COG_CREATION: dict[str, Any] = {"compress": "deflate", "bigtiff": "if_safer", "num_threads": "all_cpus"}
GTIFF_CREATION: dict[str, Any] = COG_CREATION | {
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "interleave": "band",
}
"""GDAL's creation options where the user gives no others."""

MODEL_TAG = "CWSAM_CHECKPOINT_SHA256"
"""Tag of a map: SHA-256 of the model that made it, or of several with commas between them."""
KINDS = ("confidence", "probabilities", "entropy", "experts", "set_size")
"""Layers that can stand beside a map, each in a file of its own."""


def beside(target: Path, kind: str) -> Path:
    """Where a layer lies beside its map: `map.tif` → `map.confidence.tif`."""
    return target.with_name(f"{target.stem}.{kind}{target.suffix}")


def without_layers(paths: Sequence[str]) -> list[str]:
    """Leave out the layers that `predict` wrote beside maps, such as `map.confidence.tif` beside `map.tif`."""
    given = set(paths)
    return [path for path in paths if not any(path.endswith(end) and base in given for end, base in _bases(path))]


def _bases(path: str) -> Iterable[tuple[str, str]]:
    suffix = os.path.splitext(path)[1]
    for kind in KINDS:
        end = f".{kind}{suffix}"
        yield end, path.removesuffix(end) + suffix


def files_of_map(target: Path) -> list[Path]:
    """Return the files of a map that are there: sidecars and layers first, the map last."""
    rasters = [*(beside(target, kind) for kind in KINDS), target]
    sidecars = [
        target.with_suffix(".qml"),
        target.with_suffix(".json"),
        *(path.with_name(f"{path.name}.aux.xml") for path in rasters),
    ]
    return [path for path in (*sidecars, *rasters) if path.exists()]


@dataclass(frozen=True, slots=True)
class Tally:
    """Pixels and ground that a map's classes cover."""

    grid: Grid
    """Of the map."""
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Number by code."""
    areas_m2: NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))
    """Ground by code; 0 where the map has no CRS."""

    def add(self, codes: NDArray[np.uint8], window: Window) -> None:
        """Count the codes (h, w) of a window."""
        flat = codes.ravel()
        pixels = np.bincount(flat, minlength=256)
        self.pixels[:] += pixels
        if self.grid.pixel_area_m2 is not None:
            self.areas_m2[:] += pixels * self.grid.pixel_area_m2
        elif self.grid.crs is not None:
            areas = self.grid.pixel_areas(int(window.row_off), codes.shape[0])
            if areas.shape[1] > 1:
                areas = areas[:, int(window.col_off) : int(window.col_off) + codes.shape[1]]
            self.areas_m2[:] += np.bincount(flat, np.broadcast_to(areas, codes.shape).ravel(), 256)
