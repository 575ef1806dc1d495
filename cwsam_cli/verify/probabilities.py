"""Read the probabilities that `predict --probabilities` wrote beside a map: at points, and their means over the map."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio import DatasetReader
from rasterio.windows import Window

from cwsam_cli.maps.legend import Legend
from cwsam_cli.maps.strips import ClassRaster, open_classes
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.mapfile import beside
from cwsam_cli.raster.scene import open_raster, reading
from cwsam_cli.survey.samplefile import Sample
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.verify.lookup import place_points

_KEY = "CWSAM_KEY"
"""Tag that a map and its layers share."""
_BYTES = 2**23
_PERCENT = np.arange(IGNORE) / 100


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Probabilities of the classes of a map, 0 to 1."""

    path: Path
    codes: tuple[int, ...]
    at_points: NDArray[np.float64]
    """At each point of the sample, (N, classes)."""
    means: NDArray[np.float64]
    """Over the ground of the map, (classes,)."""


def read_probabilities(map_path: Path, band: int | None, sample: Sample) -> Probabilities | None:
    """Read the probabilities beside a map.

    Args:
        map_path: the map that the sample was drawn from.
        band: its band, counted from 1; None if there is only one.
        sample: the sample.

    Returns:
        None if there is no layer of this map, or if it has no value where the map has a class.
    """
    path = beside(map_path, "probabilities")
    if not path.is_file():
        return None
    with open_classes(map_path, band) as source, open_raster(path) as layer:
        legend = Legend.read(source.dataset, source.band)
        by_name = {name: code for code, name in legend.names.items()}
        names = [name or "" for name in layer.descriptions]
        is_own = layer.tags().get(_KEY) and layer.tags().get(_KEY) == source.dataset.tags().get(_KEY)
        if not is_own or Grid.of(layer) != source.grid or not set(names) <= set(by_name):
            return None
        means = _means(source, layer, path)
        if means is None:
            return None
        columns, rows = (np.floor(part).astype(int).tolist() for part in place_points(sample, source.grid))
        with reading(path):
            points = [
                layer.read(window=Window(column, row, 1, 1))[:, 0, 0] for column, row in zip(columns, rows, strict=True)
            ]
    return Probabilities(path, tuple(by_name[name] for name in names), np.stack(points) / 100, means)


def _means(source: ClassRaster, layer: DatasetReader, path: Path) -> NDArray[np.float64] | None:
    """Return the mean of each band over the ground where the map has a class; None if a value is missing there."""
    grid, sums, ground = source.grid, np.zeros(layer.count), 0.0
    for window in _windows(layer):
        known = ~source.read(window)[1]
        areas = None
        if grid.crs is not None and grid.pixel_area_m2 is None:
            areas = grid.pixel_areas(int(window.row_off), int(window.height))
            if areas.shape[1] > 1:
                areas = areas[:, int(window.col_off) : int(window.col_off + window.width)]
            areas = np.broadcast_to(areas, known.shape)[known]
        ground += float(known.sum() if areas is None else areas.sum())
        with reading(path):
            bands = layer.read(window=window)
        for number, values in enumerate(bands):
            counts = np.bincount(values[known], areas, 256)
            if counts[IGNORE]:
                return None
            sums[number] += counts[:IGNORE] @ _PERCENT
    return sums / ground if ground else None


def _windows(layer: DatasetReader) -> Iterator[Window]:
    """Yield windows of whole blocks, so that each block is decoded once. All their bands have about `_BYTES`."""
    rows, columns = layer.block_shapes[0]
    pixels = _BYTES // layer.count
    wide = min(layer.width, columns * max(1, pixels // (rows * columns)))
    tall = rows * max(1, pixels // (rows * wide))
    for top in range(0, layer.height, tall):
        for left in range(0, layer.width, wide):
            yield Window(left, top, min(wide, layer.width - left), min(tall, layer.height - top))
