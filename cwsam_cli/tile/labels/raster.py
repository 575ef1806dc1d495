"""Bring label rasters onto a scene's pixel grid, and their values to class codes.

A label raster may have another CRS and resolution. It is resampled to the nearest neighbour. One band holds whole
numbers of any dtype. Three bands hold colours.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from cwsam_cli.console import ONCE, ONCE_A_KIND, log
from cwsam_cli.errors import DataError
from cwsam_cli.raster.globe import views_on
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.pixels import read_image
from cwsam_cli.raster.place import has_position, missing_crs
from cwsam_cli.raster.scene import moving, open_raster, reading, refuse_unplaced, warn_of_pages
from cwsam_cli.taxonomy import IGNORE, LabelTable
from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED, Codes, Conflicts, Value

_RGB = (1, 2, 3)
_WHOLE = float(2**63)
"""Floats from here on are no int64."""


@dataclass(frozen=True, slots=True)
class RasterLabels:
    """An open label raster on the scene's grid."""

    path: Path
    views: tuple[rasterio.DatasetReader | WarpedVRT, ...]
    """Views of the raster. All but the first find ground on the other side of the antimeridian."""
    codes: dict[int, int]
    """Class code, or `NO_LABEL`, by value. Colours are the values 0xRRGGBB."""
    bands: tuple[int, ...] = (1,)
    """The band of values, or the bands of colours."""

    def read(self, window: Window) -> Codes:
        """See `Labels`."""
        codes = self._codes(*self._values(self.views[0], window))
        for view in self.views[1:]:
            unknown = codes == NO_LABEL
            if unknown.any():
                codes[unknown] = self._codes(*self._values(view, window))[unknown]
        return codes

    def unexpected(self, window: Window) -> Counter[Value]:
        """See `Labels`."""
        found: Counter[Value] = Counter()
        for view in self.views:
            values, known = self._values(view, window)
            odd, counts = np.unique(values[self._codes(values, known) == UNEXPECTED], return_counts=True)
            texts: list[Value] = odd.tolist() if len(self.bands) == 1 else [f"#{value:06x}" for value in odd.tolist()]
            found += Counter(dict(zip(texts, counts.tolist(), strict=True)))
        return found

    def conflicts(self, window: Window) -> Conflicts:
        """Return none, because a raster has one class per pixel."""
        return Counter()

    def _values(
        self, view: rasterio.DatasetReader | WarpedVRT, window: Window
    ) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
        """Return the values of a window (H, W), and where there are any."""
        with reading(self.path):
            image, known = read_image(view, self.bands, window)
        if len(self.bands) > 1:
            red, green, blue = image.astype(np.int32)
            return red << 16 | green << 8 | blue, known
        values = image[0]
        if np.issubdtype(values.dtype, np.integer) and values.dtype != np.uint64:
            return values, known
        far = values[known & ((values < -_WHOLE) | (values >= _WHOLE) | (np.mod(values, 1) != 0))]
        if far.size:
            raise DataError(
                f"`{self.path}` holds {far[0]:g}, but labels are whole numbers of at most 64 bits",
                hint="is this the label raster, and not an image?",
            )
        return np.where(known, values, 0).astype(np.int64), known

    def _codes(self, values: NDArray[np.integer], known: NDArray[np.bool_]) -> Codes:
        codes = recode(values, self.codes)
        if not known.all():
            codes[~known] = NO_LABEL
        return codes


def recode(values: NDArray[np.integer], codes: dict[int, int]) -> Codes:
    """Return the class code of each value, `UNEXPECTED` where it has none.

    Args:
        values: whole numbers of any dtype.
        codes: codes by value.
    """
    low, high = int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max)
    inside = {value: code for value, code in codes.items() if low <= value <= high}
    if values.dtype.itemsize <= 2:
        table = np.full(1 << 8 * values.dtype.itemsize, UNEXPECTED, np.int16)
        table[list(inside)] = list(inside.values())  # negative values count from the table's end, here and below
        return np.asarray(table.take(values, mode="wrap"))  # 0.6 × the time of `table[values]`
    keys = np.array(sorted(inside), values.dtype)
    if not keys.size:
        return np.full(values.shape, UNEXPECTED, np.int16)
    place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    found = np.array([inside[key] for key in keys.tolist()], np.int16)[place]
    return np.where(keys[place] == values, found, np.int16(UNEXPECTED))


def _number_codes(table: LabelTable | None) -> dict[int, int]:
    """Return class codes by number. Without a table every code is itself, and 255 is no label unless a class has it."""
    if table is None:
        return {code: code for code in range(IGNORE)} | {IGNORE: NO_LABEL}
    numbers = {value: code for value, code in table.values.items() if isinstance(value, int)}
    return {value: NO_LABEL if code == IGNORE else code for value, code in ({IGNORE: IGNORE} | numbers).items()}


def _color_codes(table: LabelTable, path: Path) -> dict[int, int]:
    """Return class codes by colour, 0xRRGGBB.

    Raises:
        DataError: two classes have the same colour.
    """
    codes: dict[int, int] = {}
    texts = [(entry.color, entry.code) for entry in table.taxonomy.classes]
    texts += [(value, code) for value, code in table.values.items() if isinstance(value, str) and value[:1] == "#"]
    for text, code in texts:
        own = NO_LABEL if code == IGNORE else code
        if codes.setdefault(int(text[1:], 16), own) != own:
            raise DataError(
                f"`{path}` holds colours, but in the class table the colour {text} has two meanings",
                hint="give each class a colour of its own",
            )
    return codes


@contextmanager
def open_raster_labels(
    path: Path, grid: Grid, scene: Path | str, table: LabelTable | None = None, *, is_checked: bool = False
) -> Iterator[RasterLabels]:
    """Open a label raster on a scene's grid.

    Args:
        path: the label raster.
        grid: the scene's grid.
        scene: the scene's path, for messages.
        table: the class table; None if the values are class codes.
        is_checked: the raster was opened before, so its place needs no check.

    Raises:
        DataError: its values cannot be class codes, or it cannot be brought onto the grid.
    """
    with open_raster(path) as dataset:
        own = Grid.of(dataset)
        if not is_checked:
            refuse_unplaced(dataset, path)
            warn_of_pages(dataset, path)
        bands = _bands(dataset, path, table)
        codes = _number_codes(table) if table is None or len(bands) == 1 else _color_codes(table, path)
        same_pixels = (own.width, own.height) == (grid.width, grid.height) and own.transform.almost_equals(
            grid.transform, 1e-6 * abs(grid.transform.a)
        )
        if own.crs is None or grid.crs is None:
            same_size = (own.width, own.height) == (grid.width, grid.height)
            if not same_pixels and not (same_size and own.crs is None and not has_position(own)):
                both: tuple[tuple[Path | str, Grid], ...] = ((scene, grid), (path, own))
                lacking = both[0] if grid.crs is None else both[1]
                raise missing_crs(*lacking, "so labels and scene cannot be combined", both)
            if own.crs is None and grid.crs is not None:
                why = "its pixels coincide with the scene's" if same_pixels else "it has as many pixels as the scene"
                log.warning("`%s` has no CRS; %s, so it gets the scene's place", path, why, extra=ONCE_A_KIND)
            yield RasterLabels(path, (dataset,), codes, bands)
            return
        if own.crs == grid.crs and same_pixels:
            yield RasterLabels(path, (dataset,), codes, bands)
            return
        log.info("labels (%s) are resampled to the scene's grid (%s)", own, grid, extra=ONCE)
        has_alpha = ColorInterp.alpha in dataset.colorinterp
        options: dict[str, Any] = {} if dataset.nodata is not None or has_alpha else {"add_alpha": True}
        with moving(path, own, grid), ExitStack() as stack:
            yield RasterLabels(path, views_on(grid, dataset, stack, **options), codes, bands)


def _bands(dataset: rasterio.DatasetReader, path: Path, table: LabelTable | None) -> tuple[int, ...]:
    """Return the bands that hold the labels, counted from 1: one of values, or three of colours.

    Raises:
        DataError: the raster holds no labels, or colours without a class table.
    """
    if "complex" in dataset.dtypes[0]:
        raise DataError(f"`{path}` holds complex values", hint="labels are whole numbers")
    image = sum(kind != ColorInterp.alpha for kind in dataset.colorinterp)
    if image == 1:
        return (1,)
    if image != len(_RGB) or set(dataset.dtypes) != {"uint8"}:
        raise DataError(
            f"`{path}` has {dataset.count} bands of {dataset.dtypes[0]}",
            hint="labels are a raster of one band, or of three bands of uint8 that hold colours",
        )
    if table is None:
        raise DataError(
            f"`{path}` has 3 bands, so its labels are colours, and a class table must say which colour is which class",
            hint="give a class table with these colours: --classes",
        )
    return _RGB
