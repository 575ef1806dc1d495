"""Read a class raster strip by strip; a thread reads the next strip while the current one is processed."""

from collections.abc import Iterator, Sequence
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
from cwsam_cli.maps.codes import HOLE, NODATA, Strip
from cwsam_cli.raster.globe import views_on
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.place import missing_crs, refuse_enormous
from cwsam_cli.raster.prefetch import prefetch
from cwsam_cli.raster.scene import moving, on_pixels_of, open_raster, reading, refuse_unplaced
from cwsam_cli.raster.sources.network import gdal_settings

DTYPES = ("uint8", "int8", "uint16", "int16", "int32")
_PIXELS = 2**19
_BLOCK_BYTES = 2**25
"""A row of blocks with more bytes is read as one strip, so that GDAL's cache need not hold it."""
_CODES_END = 2**24
"""float32, in which other rasters are read, holds all whole numbers below this one."""
_CACHE_BYTES = 2**23, 2**26
"""Smallest and largest size of GDAL's cache. The blocks of masks, mosaics and other rasters are not known."""


@dataclass(frozen=True, slots=True)
class OtherRaster:
    """An open raster whose values are read on the map's grid."""

    path: Path | str
    views: tuple[WarpedVRT, ...]
    """Views of the raster. All but the first find ground on the other side of the antimeridian."""

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return the values (H, W) of a window, NaN where there is none."""
        with reading(self.path):
            values = self._read(self.views[0], window)
            for view in self.views[1:]:
                unknown = np.isnan(values)
                if unknown.any():
                    values[unknown] = self._read(view, window)[unknown]
        return values

    def read_codes(self, window: Window) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the values (H, W) of a window as codes, and where there is none. Codes are 0 there.

        Raises:
            DataError: a value is not a whole number, or too large to be exact.
        """
        values = self.read(window)
        none = np.isnan(values)
        values[none] = 0
        if (values % 1).any():
            raise DataError(
                f"`{self.path}` holds values that are not whole numbers", hint="give a raster of class or region codes"
            )
        if (np.abs(values) >= _CODES_END).any():
            raise DataError(
                f"`{self.path}` holds codes of {_CODES_END:,} or more, which are not read exactly",
                hint="number its classes or regions from 1",
            )
        return values.astype(np.int32), none

    @staticmethod
    def _read(view: WarpedVRT, window: Window) -> NDArray[np.float32]:
        return np.asarray(view.read(1, window=window, masked=True).filled(np.nan), np.float32)


@dataclass(frozen=True, slots=True)
class ClassRaster:
    """An open map that can be read more than once."""

    path: Path | str
    dataset: DatasetReader
    band: int
    """Counted from 1."""
    grid: Grid
    readers: ExitStack
    """Closes streams of strips before the dataset is closed, because GDAL crashes if a thread still reads."""

    def strips(self, what: str, values: tuple[OtherRaster, ...] = ()) -> Iterator[Strip]:
        """Yield the map from its first row to its last, with the values of other rasters.

        Args:
            what: text of the progress bar.
            values: other rasters, from `on_grid`.
        """
        rows = self._rows()
        tops = track(range(0, self.grid.height, rows), what, total=-(-self.grid.height // rows), unit="strip")
        stream = prefetch(self._read(top, min(rows, self.grid.height - top), values) for top in tops)
        self.readers.callback(stream.close)
        return stream

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of the codes in the file."""
        return np.dtype(self.dataset.dtypes[self.band - 1])

    @property
    def block_shape(self) -> tuple[int, int]:
        """Return rows and columns of the file's blocks."""
        rows, columns = self.dataset.block_shapes[self.band - 1]
        return int(rows), int(columns)

    @property
    def nodata(self) -> float | None:
        """Return the nodata value, None if there is none."""
        return self.dataset.nodatavals[self.band - 1]

    @property
    def has_mask(self) -> bool:
        """Return whether a mask, and not a value, says where there is no data."""
        flags = self.dataset.mask_flag_enums[self.band - 1]
        return MaskFlags.nodata not in flags and MaskFlags.all_valid not in flags

    @property
    def cache_bytes(self) -> int:
        """Return the cache size with which GDAL decodes each block once; a strip may lie in two rows of blocks."""
        least, most = _CACHE_BYTES
        bands = self.dataset.count  # GDAL caches all bands of pixel-interleaved files
        return most if self.dataset.driver == "VRT" else min(most, max(least, 2 * bands * self._row_of_blocks))

    @property
    def _row_of_blocks(self) -> int:
        return self.dataset.block_shapes[self.band - 1][0] * self.grid.width * self.dtype.itemsize

    def _rows(self) -> int:
        rows = max(1, _PIXELS // self.grid.width)
        return max(rows, self.dataset.block_shapes[self.band - 1][0]) if self._row_of_blocks > _BLOCK_BYTES else rows

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the codes (H, W) of a window in the file's dtype, and where there is no data."""
        with reading(self.path):
            raw = self.dataset.read(self.band, window=window)
            return raw, self._empty(raw, window)

    def _read(self, top: int, rows: int, values: tuple[OtherRaster, ...]) -> Strip:
        window = Window(0, top, self.grid.width, rows)
        dataset = self.dataset
        raw, empty = self.read(window)
        codes = raw.astype(np.int32)
        if raw.dtype == np.int32 and (lowest := codes.min(where=~empty, initial=0)) <= HOLE:
            has_nodata = MaskFlags.all_valid not in dataset.mask_flag_enums[self.band - 1]
            declare = f"if it means nodata: rio edit-info --nodata {lowest} {self.path}"
            raise DataError(
                f"`{self.path}` holds the code {lowest}, but the three lowest codes of 32 bits are reserved",
                hint="give that class another code" if has_nodata else declare,
            )
        codes[empty] = NODATA
        return Strip(codes, np.stack([other.read(window) for other in values]) if values else None)

    def _empty(self, raw: NDArray[Any], window: Window) -> NDArray[np.bool_]:
        flags, nodata = self.dataset.mask_flag_enums[self.band - 1], self.dataset.nodatavals[self.band - 1]
        if MaskFlags.nodata in flags and nodata.is_integer():
            return raw == int(nodata)  # comparing with a float would convert all pixels
        if MaskFlags.nodata in flags or MaskFlags.all_valid in flags:
            return np.zeros(raw.shape, bool)
        return self.dataset.read_masks(self.band, window=window) == 0


@contextmanager
def open_classes(path: Path | str, band: int | None = None) -> Iterator[ClassRaster]:
    """Open any raster of whole numbers as a map.

    Args:
        path: the raster; text if it is no plain file.
        band: the band that holds the codes, counted from 1; None if there is only one.

    Raises:
        DataError: the raster holds other values, or has several bands and `band` is None.
    """
    with rasterio.Env(**gdal_settings(str(path))), open_raster(path) as dataset:
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
        refuse_enormous(dataset.width, dataset.height, path)
        with ExitStack() as readers:
            source = ClassRaster(path, dataset, band, Grid.of(dataset), readers)
            with rasterio.Env(GDAL_CACHEMAX=source.cache_bytes):
                yield source


@contextmanager
def on_grid(paths: Sequence[Path | str], map_: ClassRaster) -> Iterator[tuple[OtherRaster, ...]]:
    """Open other rasters so that reading them returns values on the map's grid (nearest neighbour).

    A raster that ends at the antimeridian also covers the same ground under longitudes beyond 180°.

    Args:
        paths: the other rasters.
        map_: the map.

    Raises:
        MissingCRS: a raster has no CRS.
        DataError: a raster cannot be placed on the map.
    """
    with ExitStack() as stack:
        if paths:
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES[1]))
        others = []
        for path in paths:
            dataset = stack.enter_context(open_raster(path))
            refuse_unplaced(dataset, path)
            own = Grid.of(dataset)
            if own.crs is None:
                raise missing_crs(path, own, "so it cannot be placed on the map", [(map_.path, map_.grid)])
            # Without a nodata value, GDAL would return 0 outside the raster.
            # By default, it also takes a band's nodata value for data where another band has data.
            options: dict[str, Any] = {"dtype": "float32", "nodata": np.nan, "UNIFIED_SRC_NODATA": "NO"}
            if own == map_.grid:  # the usual case for a confidence layer: no ground lies elsewhere
                views = (stack.enter_context(on_pixels_of(map_.grid, dataset, **options)),)
            else:
                with moving(path, own, map_.grid):
                    views = views_on(map_.grid, dataset, stack, **options)
            others.append(OtherRaster(path, views))
        stack.callback(map_.readers.close)  # before the views are closed
        yield tuple(others)
