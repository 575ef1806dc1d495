"""Read a class raster strip by strip, one strip ahead of whoever works on it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import DatasetReader
from rasterio.enums import MaskFlags
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from cwsam_cli.console import track
from cwsam_cli.errors import DataError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.raster.prefetch import prefetch
from cwsam_cli.raster.scene import on_pixels_of, open_raster, reading, refuse_unplaced
from cwsam_cli.vectorize.codes import HOLE, NODATA, Strip

DTYPES = ("uint8", "int8", "uint16", "int16", "int32")
_PIXELS = 2**19
_BLOCK_BYTES = 2**25
"""A row of blocks larger than this is read at once, so that GDAL's cache need not hold it."""
_CACHE_BYTES = 2**23, 2**26
"""GDAL's cache, at least and at most: of the blocks of masks, mosaics and other rasters nothing is known."""


@dataclass(frozen=True, slots=True)
class ClassRaster:
    """A map that can be read more than once."""

    path: Path
    dataset: DatasetReader
    band: int
    grid: Grid

    def strips(self, what: str, values: tuple[WarpedVRT, ...] = ()) -> Iterator[Strip]:
        """The map from its first row to its last, with other rasters' values on its grid.

        Args:
            what: is said beside the progress bar.
            values: from `on_grid`.
        """
        rows = self._rows()
        tops = track(range(0, self.grid.height, rows), what, total=-(-self.grid.height // rows), unit="strip")
        return prefetch(self._read(top, min(rows, self.grid.height - top), values) for top in tops)

    @property
    def cache_bytes(self) -> int:
        """GDAL's cache that decodes each block once: strips may lie in two rows of blocks."""
        least, most = _CACHE_BYTES
        bands = self.dataset.count  # GDAL keeps them all where they lie pixel by pixel
        return most if self.dataset.driver == "VRT" else min(most, max(least, 2 * bands * self._row_of_blocks))

    @property
    def _row_of_blocks(self) -> int:
        itemsize = np.dtype(self.dataset.dtypes[self.band - 1]).itemsize
        return self.dataset.block_shapes[self.band - 1][0] * self.grid.width * itemsize

    def _rows(self) -> int:
        rows = max(1, _PIXELS // self.grid.width)
        return max(rows, self.dataset.block_shapes[self.band - 1][0]) if self._row_of_blocks > _BLOCK_BYTES else rows

    def _read(self, top: int, rows: int, values: tuple[WarpedVRT, ...]) -> Strip:
        window = Window(0, top, self.grid.width, rows)
        dataset = self.dataset
        with reading(self.path):
            raw = dataset.read(self.band, window=window)
            empty = self._empty(raw, window)
        codes = raw.astype(np.int32)
        if raw.dtype == np.int32 and (lowest := codes.min(where=~empty, initial=0)) <= HOLE:
            nodata_is_said = MaskFlags.all_valid not in dataset.mask_flag_enums[self.band - 1]
            said = "give that class another code"
            unsaid = f"if it means no data: rio edit-info --nodata {lowest} {self.path}"
            raise DataError(
                f"`{self.path}` holds the code {lowest}, and the three lowest of 32 bits are no codes here",
                hint=said if nodata_is_said else unsaid,
            )
        codes[empty] = NODATA
        return Strip(codes, _values(values, window) if values else None)

    def _empty(self, raw: NDArray[Any], window: Window) -> NDArray[np.bool_]:
        flags, nodata = self.dataset.mask_flag_enums[self.band - 1], self.dataset.nodatavals[self.band - 1]
        if MaskFlags.nodata in flags and nodata.is_integer():
            return raw == int(nodata)  # as a float it would make floats of all pixels
        if MaskFlags.nodata in flags or MaskFlags.all_valid in flags:
            return np.zeros(raw.shape, bool)
        return self.dataset.read_masks(self.band, window=window) == 0


def _values(rasters: tuple[WarpedVRT, ...], window: Window) -> NDArray[np.float32]:
    stack = []
    for raster in rasters:
        with reading(raster.src_dataset.name):
            stack.append(raster.read(1, window=window, masked=True).filled(np.nan))
    return np.stack(stack)


@contextmanager
def open_classes(path: Path, band: int | None = None) -> Iterator[ClassRaster]:
    """Open any raster of whole numbers as a map.

    Raises:
        DataError: it has other values, or several bands and none is named.
    """
    with open_raster(path) as dataset:
        if band is None and dataset.count > 1:
            raise DataError(
                f"`{path}` has {dataset.count} bands; a map is one band of whole numbers",
                hint="is this the scene rather than its map? if not, name the band: --band 1",
            )
        band = band or 1
        if band > dataset.count:
            raise DataError(f"`{path}` has {dataset.count} band(s), not {band}", hint="choose another --band")
        dtype = dataset.dtypes[band - 1]
        if dtype not in DTYPES:
            raise DataError(
                f"`{path}` holds {dtype} values; a map is one band of whole numbers of up to 32 bits",
                hint=f"if they are class codes: gdal_translate -ot Int32 {path} codes.tif",
            )
        refuse_unplaced(dataset, path)
        source = ClassRaster(path, dataset, band, Grid.of(dataset))
        with rasterio.Env(GDAL_CACHEMAX=source.cache_bytes):
            yield source


@contextmanager
def on_grid(paths: list[Path], map_: ClassRaster) -> Iterator[tuple[WarpedVRT, ...]]:
    """Open other rasters so that they read as if they lay on the map's grid (nearest pixel)."""
    with ExitStack() as stack:
        if paths:
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES[1]))
        warped = []
        for path in paths:
            dataset = stack.enter_context(open_raster(path))
            if dataset.crs is None:
                raise missing_crs(path, Grid.of(dataset), "so it cannot be laid over the map", [(map_.path, map_.grid)])
            # Without nodata of its own, what lies beside a raster would read as 0.
            warped.append(stack.enter_context(on_pixels_of(map_.grid, dataset, dtype="float32", nodata=np.nan)))
        yield tuple(warped)
