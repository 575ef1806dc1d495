"""Draw a map in small, beside its reference or with the points of a sample, for the report.

# H, W rows and columns of a picture
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from cwsam_cli.maps.strips import ClassRaster, open_classes
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import reading
from cwsam_cli.report.pictures import Picture
from cwsam_cli.survey.results import SampleAssessment
from cwsam_cli.survey.samplefile import NO_REFERENCE, REFERENCE, read_sample
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.verify.lookup import look_up, place_points

_LARGEST = 640  # pixels of a picture's longer side


@dataclass(slots=True)
class Thumbnail:
    """Codes of a raster in small, filled strip by strip. Pixels between those that are kept are left out."""

    grid: Grid
    values: NDArray[np.int64] = field(init=False)
    """Codes (H, W), 0 where there is none."""
    known: NDArray[np.bool_] = field(init=False)
    """Where there is a code, (H, W)."""

    def __post_init__(self) -> None:
        shape = tuple(-(-length // self.step) for length in (self.grid.height, self.grid.width))
        self.values, self.known = np.zeros(shape, np.int64), np.zeros(shape, bool)

    @property
    def step(self) -> int:
        """Return the distance of the kept pixels."""
        return -(-max(self.grid.width, self.grid.height) // _LARGEST)

    def paint(self, window: Window, values: NDArray[Any], known: NDArray[np.bool_]) -> None:
        """Add a strip of whole rows.

        Args:
            window: the strip.
            values: its codes.
            known: where it has a code.
        """
        first = -int(window.row_off) % self.step
        rows = slice((int(window.row_off) + first) // self.step, None)
        kept = np.s_[first :: self.step, :: self.step]
        height = len(values[kept])
        self.values[rows][:height], self.known[rows][:height] = values[kept], known[kept]

    def indices(self, places: Mapping[int, int | None]) -> NDArray[np.uint8]:
        """Return class indices (H, W), `IGNORE` where there is none.

        Args:
            places: class index by code.
        """
        codes, inverse = np.unique(self.values, return_inverse=True)
        found = [places.get(code) for code in codes.tolist()]
        index = np.array([IGNORE if place is None else place for place in found], np.uint8)
        return np.where(self.known, index[inverse.reshape(self.values.shape)], np.uint8(IGNORE))


def draw_sample(sample_path: Path, map_path: Path, band: int | None, result: SampleAssessment) -> Picture | None:
    """Draw a map with the interpreted points of a sample.

    Args:
        sample_path: the sample.
        map_path: the map that was assessed.
        band: the map's band, counted from 1; None if there is only one.
        result: the assessment.

    Returns:
        The picture; None if the map has too many classes for one.
    """
    if len(result.classes) >= IGNORE:
        return None
    sample = read_sample(sample_path)
    reference = sample.references(REFERENCE, result.design.classes)
    with open_classes(map_path, band) as source:
        mapped, _ = look_up(sample, source)
        columns, rows = place_points(sample, source.grid)
        small = _read_small(source)
    points = tuple(
        (round(column / small.step, 1), round(row / small.step, 1), code == own)
        for column, row, code, own in zip(
            columns.tolist(), rows.tolist(), reference.tolist(), mapped.tolist(), strict=True
        )
        if code != NO_REFERENCE
    )
    places = {entry.code: index for index, entry in enumerate(result.classes)}
    return Picture(map_path.name, small.indices(places), points=points)


def _read_small(source: ClassRaster) -> Thumbnail:
    """Read a map in small; GDAL reads its overviews where it has some."""
    small = Thumbnail(source.grid)
    shape = {"out_shape": small.values.shape, "resampling": Resampling.nearest}
    with reading(source.path):
        small.values = source.dataset.read(source.band, **shape).astype(np.int64)
        small.known = source.dataset.read_masks(source.band, **shape) != 0
    return small
