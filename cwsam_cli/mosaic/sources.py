"""Read maps on the mosaic's grid; only some of them are open at a time."""

from collections import OrderedDict
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.errors import DataError
from cwsam_cli.mosaic.plan import PlacedMap, Placement
from cwsam_cli.raster.globe import views_on
from cwsam_cli.raster.grid import ALIGNED
from cwsam_cli.raster.scene import open_raster, reading
from cwsam_cli.taxonomy import IGNORE

MOST_OPEN = 100
"""Maps that are open at a time. Systems allow 256 files or more per process, and a map may need two."""

Codes = NDArray[np.uint8]


class OpenMaps:
    """Maps on one grid. Those that were read last stay open, because GDAL keeps their decoded blocks."""

    def __init__(self, placement: Placement) -> None:
        self._grid = placement.grid
        self._open: OrderedDict[str, tuple[ExitStack, tuple[rasterio.DatasetReader, ...]]] = OrderedDict()

    def __enter__(self) -> "OpenMaps":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._open:
            self._close_oldest()

    def _close_oldest(self) -> None:
        _, (stack, _) = self._open.popitem(last=False)
        stack.close()

    def codes(self, placed: PlacedMap, window: Window) -> Codes:
        """Return the mosaic's codes (h, w) that a map shows in a window of the mosaic, 255 where it shows none.

        Raises:
            DataError: the map has a code without a class.
        """
        own = self._read(placed.source.path, placed, window)
        codes = placed.recoding[own]
        if (unknown := codes < 0).any():
            raise DataError(
                f"`{placed.source.path}` holds the code {own[unknown][0]}, which has no name in its class table",
                hint="add the class to the map's class table, or set those pixels to 255",
            )
        return codes.astype(np.uint8)

    def confidence(self, placed: PlacedMap, window: Window) -> Codes | None:
        """Return a map's confidence (h, w) in per cent, 255 where there is none; None if the rule needs none."""
        layer = placed.source.confidence
        return None if layer is None else self._read(layer, placed, window)

    def _read(self, path: str, placed: PlacedMap, window: Window) -> Codes:
        views = self._views(path, placed)
        with reading(path):
            if placed.is_aligned:
                shift = Window(
                    window.col_off - placed.window.col_off,
                    window.row_off - placed.window.row_off,
                    window.width,
                    window.height,
                )
                return np.asarray(views[0].read(1, window=shift))
            values = np.asarray(views[0].read(1, window=window))
            for view in views[1:]:
                empty = values == IGNORE
                if empty.any():
                    values[empty] = view.read(1, window=window)[empty]
        return values

    def _views(self, path: str, placed: PlacedMap) -> tuple[Any, ...]:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path][1]
        while len(self._open) >= MOST_OPEN:
            self._close_oldest()
        stack = ExitStack()
        dataset = stack.enter_context(open_raster(path))
        views: tuple[Any, ...] = (dataset,)
        if not placed.is_aligned:
            views = views_on(self._grid, dataset, stack, tolerance=ALIGNED, src_nodata=IGNORE, nodata=IGNORE)
        self._open[path] = stack, views
        return views
