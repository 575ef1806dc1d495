"""Pieces of a map → GeoTIFFs that explain themselves."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.windows import Window

from cwsam_cli.errors import UsageError
from cwsam_cli.predict.budget import BLOCK
from cwsam_cli.predict.layers import LayerPlan
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import FAILED, verify_written, writing
from cwsam_cli.raster.style import tag_classes, write_sidecar, write_style
from cwsam_cli.taxonomy import IGNORE, from_names

FORMATS = ("GTiff", "COG")

_TILED: dict[str, Any] = {
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "interleave": "band",
}
_ALWAYS: dict[str, Any] = {"compress": "deflate", "bigtiff": "if_safer"}
_FIXED = {"driver", "width", "height", "count", "dtype", "nodata", "crs", "transform"}


@dataclass(frozen=True, slots=True)
class Sheet:
    """How a map's pixels are laid out in pieces and in its file.

    Pieces are counted from the north and from the left.
    """

    grid: Grid
    """Of the file."""
    row_cuts: tuple[int, ...]
    """Where pieces begin and end, in the scene's rows counted from the north."""
    col_cuts: tuple[int, ...]
    south_up: bool
    """Whether the file's first row is the southernmost."""

    def pieces(self) -> Iterator[tuple[int, int, Window]]:
        """Row and column of every piece and its window in the file, in the file's order."""
        numbers = range(len(self.row_cuts) - 1)
        for row in reversed(numbers) if self.south_up else numbers:
            for column in range(len(self.col_cuts) - 1):
                yield row, column, self._window(row, column)

    def shape(self, row: int, column: int) -> tuple[int, int]:
        """Rows and columns of pixels of a piece."""
        return self.row_cuts[row + 1] - self.row_cuts[row], self.col_cuts[column + 1] - self.col_cuts[column]

    def _window(self, row: int, column: int) -> Window:
        height, width = self.shape(row, column)
        top = self.row_cuts[-1] - self.row_cuts[row + 1] if self.south_up else self.row_cuts[row] - self.row_cuts[0]
        return Window(self.col_cuts[column] - self.col_cuts[0], top, width, height)


def cuts(first: int, length: int, step: int, *, from_end: bool = False) -> tuple[int, ...]:
    """Where to cut a stretch into steps that a file's blocks begin with."""
    end = first + length
    if from_end:
        return tuple(sorted({first, *range(end, first, -step)}))
    return (*range(first, end, step), end)


def check_creation(creation: Mapping[str, str], driver: str) -> None:
    """Refuse creation options that a map decides itself or that GDAL refuses, before hours of work.

    Raises:
        UsageError: one of them is given.
    """
    fixed = _FIXED & {key.lower() for key in creation}
    if fixed:
        raise UsageError(f"--co {fixed.pop().upper()}: the map's own, not an option", hint="say: --co COMPRESS=ZSTD")
    own = {key.lower(): value for key, value in creation.items()}
    try:
        with MemoryFile(ext=".tif") as draft, MemoryFile(ext=".tif") as made:
            _create(draft.name, Grid(None, Affine.scale(2), 1, 1), 1, own if driver == "GTiff" else {}).close()
            if driver == "COG":
                rasterio.shutil.copy(draft.name, made.name, driver="COG", **{**_ALWAYS, **own})
    except FAILED as error:
        detail = str(error.__cause__ or error).rpartition(".tif: ")[2].rstrip(".")
        raise UsageError(f"--co: {detail}", hint=f"what there is: gdalinfo --format {driver}") from None


def beside(target: Path, kind: str) -> Path:
    """Where a layer stands beside its map: `map.tif` → `map.confidence.tif`."""
    return target.with_name(f"{target.stem}.{kind}{target.suffix}")


def write_map(
    target: Path,
    sheet: Sheet,
    read: Callable[[int, int], bytes],
    layers: LayerPlan,
    *,
    driver: str = "GTiff",
    creation: Mapping[str, str],
    tags: Mapping[str, str],
    scratch: Path,
) -> NDArray[np.int64]:
    """Write a map, its layers and what belongs beside them.

    Args:
        target: the map's file; layers go beside it, see `beside`.
        sheet: its layout.
        read: a piece's layers (L, rows, width) as bytes, by row and column.
        layers: what they mean.
        driver: of `FORMATS`.
        creation: GDAL's creation options.
        tags: of every file.
        scratch: a folder for what a COG is made from.

    Returns:
        Pixels by code, (256,).

    Raises:
        MachineError: a file could not be written whole.
    """
    counts = np.zeros(256, np.int64)
    files = {"codes": target} | {kind: beside(target, kind) for kind in layers.kinds}
    drafts = files if driver == "GTiff" else {kind: scratch / f"{kind}.tif" for kind in files}
    own = {key.lower(): value for key, value in creation.items()}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        opened: list[tuple[DatasetWriter, int, int]] = []
        at = 0
        for kind, path in drafts.items():
            bands = 1 if kind == "codes" else layers.bands(kind)
            stack.enter_context(writing(files[kind]))
            dataset = stack.enter_context(_create(path, sheet.grid, bands, own if driver == "GTiff" else {}))
            dataset.update_tags(**tags)
            _describe(dataset, kind, layers)
            opened.append((dataset, at, at + bands))
            at += bands
        for row, column, window in sheet.pieces():
            piece = np.frombuffer(read(row, column), np.uint8).reshape(layers.count, *sheet.shape(row, column))
            counts += np.bincount(piece[0].ravel(), minlength=256)
            for dataset, first, last in opened:
                dataset.write(piece[first:last, ::-1] if sheet.south_up else piece[first:last], window=window)
    for kind, path in files.items():
        if driver == "COG":
            with writing(path):
                resampling = "mode" if kind in ("codes", "experts") else "average"
                rasterio.shutil.copy(
                    drafts[kind], path, driver="COG", **{**_ALWAYS, "overview_resampling": resampling, **own}
                )
            drafts[kind].unlink()
        verify_written(path)
    write_sidecar(target, layers.taxonomy)
    write_style(target, layers.taxonomy)
    return counts


def _create(path: Path | str, grid: Grid, bands: int, creation: Mapping[str, str]) -> DatasetWriter:
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=grid.width,
        height=grid.height,
        count=bands,
        dtype="uint8",
        nodata=IGNORE,
        crs=grid.crs,
        transform=grid.transform,
        **{**_TILED, **_ALWAYS, **creation},
    )


def _describe(dataset: DatasetWriter, kind: str, layers: LayerPlan) -> None:
    if kind == "codes":
        tag_classes(dataset, layers.taxonomy)
    elif kind == "probabilities":
        dataset.descriptions = tuple(layers.taxonomy.names)
    else:
        dataset.descriptions = (kind,)
    if kind == "experts":
        tag_classes(dataset, from_names([f"group {group}" for group in range(layers.expert_groups)]))
    elif kind != "codes":
        dataset.units = ("%",) * dataset.count
