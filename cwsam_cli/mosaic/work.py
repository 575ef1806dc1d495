"""Carry out a `MosaicPlan`: merge the maps strip by strip into a draft, join small regions, write the files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli import __version__
from cwsam_cli.config.sizes import Size
from cwsam_cli.console import track
from cwsam_cli.files import reserved, staged
from cwsam_cli.maps.codes import NODATA, Strip
from cwsam_cli.mosaic.merge import Merge, OverlapAgreement
from cwsam_cli.mosaic.plan import MosaicPlan
from cwsam_cli.mosaic.request import INDEX, Rule
from cwsam_cli.mosaic.sources import OpenMaps
from cwsam_cli.raster.class_vrt import Source, write_class_vrt
from cwsam_cli.raster.cog import DRAFT_CREATION, write_class_cog
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.mapfile import BLOCK, MODEL_TAG, Tally
from cwsam_cli.raster.scene import writing
from cwsam_cli.raster.sources.fingerprint import Stamps
from cwsam_cli.raster.sources.network import gdal_settings
from cwsam_cli.raster.style import write_sidecar, write_style
from cwsam_cli.taxonomy import IGNORE

_STRIP_PIXELS = 2**22
_MOST_BLOCKS = 8
"""A strip has at most so many rows of blocks."""
_LEAST_CACHE = 16 << 20

Codes = NDArray[np.uint8]


def write_mosaic(plan: MosaicPlan) -> tuple[Tally, OverlapAgreement, int]:
    """Write a mosaic.

    Returns:
        What its classes cover, how often maps agree, and the number of files.

    Raises:
        DataError: a map is damaged, holds a code without a class, or was changed while it was read.
        MachineError: the mosaic could not be written whole, or another process is writing it.
    """
    request = plan.request
    stamps = Stamps.of(placed.source.path for placed in plan.maps)
    cache = max(_LEAST_CACHE, 4 * BLOCK * plan.grid.width)  # decoded blocks of a strip and of the draft
    with (
        rasterio.Env(**gdal_settings(cache=cache)),
        reserved(request.output),
        staged(request.output, overwrite=request.overwrite, marker=request.marker) as target,
        tempfile.TemporaryDirectory(prefix=".draft-", dir=target.parent) as scratch,
    ):
        draft, agreement = Path(scratch) / "merged.tif", OverlapAgreement()
        tally = _write_draft(draft, plan.grid, _merge(plan, agreement))
        if request.smallest_area is not None:
            sieved = Path(scratch) / "sieved.tif"
            tally = _write_draft(sieved, plan.grid, _join_small(draft, plan.grid, request.smallest_area))
            draft.unlink()
            draft = sieved
        files = _write_tiles(draft, target, plan) if request.tile else _write_map(draft, target, plan)
        stamps.refuse_changed()
        return tally, agreement, files


def _strips(grid: Grid) -> Iterator[Window]:
    rows = BLOCK * min(_MOST_BLOCKS, max(1, _STRIP_PIXELS // (BLOCK * grid.width)))
    for top in range(0, grid.height, rows):
        yield Window(0, top, grid.width, min(rows, grid.height - top))


def _write_draft(path: Path, grid: Grid, strips: Iterator[Codes]) -> Tally:
    """Write strips into a file, and count what their classes cover."""
    tally = Tally(grid)
    place = {"width": grid.width, "height": grid.height, "crs": grid.crs, "transform": grid.transform}
    with writing(path), rasterio.open(path, "w", **place, **DRAFT_CREATION) as draft:
        for window, codes in zip(_strips(grid), strips, strict=True):
            draft.write(codes, 1, window=window)
            tally.add(codes, window)
    return tally


def _merge(plan: MosaicPlan, agreement: OverlapAgreement) -> Iterator[Codes]:
    """Yield the strips of the mosaic, before small regions are joined."""
    grid = plan.grid
    rule: Rule = plan.request.by if len(plan.maps) > 1 else "first"  # one map needs no confidence
    edges = np.array(
        [
            [w.col_off, w.row_off, w.col_off + w.width, w.row_off + w.height]
            for w in (placed.window for placed in plan.maps)
        ]
    )
    edges = edges.clip(0, [grid.width, grid.height, grid.width, grid.height])
    with OpenMaps(plan) as maps:
        for strip in track(list(_strips(grid)), "merging", unit="strip"):
            top, bottom = int(strip.row_off), int(strip.row_off + strip.height)
            merge = Merge(rule, bottom - top, grid.width)
            shown = (edges[:, 1] < bottom) & (edges[:, 3] > top) & (edges[:, 0] < edges[:, 2])
            for number in np.flatnonzero(shown).tolist():
                left, first, right, end = edges[number].tolist()
                first, end = max(first, top), min(end, bottom)
                window, placed = Window(left, first, right - left, end - first), plan.maps[number]
                codes, confidence = maps.codes(placed, window), maps.confidence(placed, window)
                merge.add((slice(first - top, end - top), slice(left, right)), codes, confidence)
            codes = merge.result()
            if plan.area is not None:
                outside = ~plan.area.mask(strip)
                codes[outside] = IGNORE
                merge.is_overlap[outside] = False
            agreement.add(codes, merge.is_overlap, merge.is_disputed)
            yield codes


def _join_small(draft: Path, grid: Grid, size: Size) -> Iterator[Codes]:
    """Yield the strips of a draft after regions below a size have joined their neighbours."""
    from cwsam_cli.regions.sieve import choose_codes, recode  # numba is slow to import
    from cwsam_cli.regions.units import sieve_weights

    weights, minimum = sieve_weights(grid, size)
    with rasterio.open(draft) as dataset:

        def read(what: str) -> Iterator[Strip]:
            for window in track(list(_strips(grid)), what, unit="strip"):
                codes = dataset.read(1, window=window).astype(np.int32)
                codes[codes == IGNORE] = NODATA
                yield Strip(codes)

        joined = choose_codes(read("small regions"), grid.width, weights, minimum, np.uint8)
        for strip in recode(read("joining"), grid.width, joined):
            yield np.where(strip.codes == NODATA, IGNORE, strip.codes).astype(np.uint8)


def _write_map(draft: Path, target: Path, plan: MosaicPlan) -> int:
    _write_file(draft, Window(0, 0, plan.grid.width, plan.grid.height), target, plan)
    return 1


def _write_tiles(draft: Path, target: Path, plan: MosaicPlan) -> int:
    """Write the tiles that show any class, and a VRT of them; return their number."""
    target.mkdir()
    sources = []
    for tile in track(plan.tiles, "tiles", unit="tile"):
        window = tile.window
        if _has_classes(draft, window):
            _write_file(draft, window, target / tile.name, plan)
            size = int(window.width), int(window.height)
            sources.append(Source(tile.name, size, Window(0, 0, *size), window))
    write_class_vrt(target / INDEX, plan.grid, sources, plan.taxonomy, _tags(plan))
    write_style(target / INDEX, plan.taxonomy)
    return len(sources)


def _write_file(draft: Path, window: Window, target: Path, plan: MosaicPlan) -> None:
    write_class_cog(draft, window, target, plan.taxonomy, _tags(plan))
    write_sidecar(target, plan.taxonomy)
    write_style(target, plan.taxonomy)


def _tags(plan: MosaicPlan) -> dict[str, str]:
    models = ", ".join(dict.fromkeys(placed.source.models for placed in plan.maps if placed.source.models))
    own = {"CWSAM_VERSION": __version__, "CWSAM_COMMAND": plan.request.command}
    return own | ({MODEL_TAG: models} if models else {})


def _has_classes(draft: Path, window: Window) -> bool:
    with rasterio.open(draft) as dataset:
        top, bottom = int(window.row_off), int(window.row_off + window.height)
        for row in range(top, bottom, BLOCK):
            rows = Window(window.col_off, row, window.width, min(BLOCK, bottom - row))
            if (dataset.read(1, window=rows) != IGNORE).any():
                return True
    return False
