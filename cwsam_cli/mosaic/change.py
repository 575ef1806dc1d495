"""Count which classes became which, from an older map to a newer one."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.console import padded, text_width, track
from cwsam_cli.errors import DataError
from cwsam_cli.files import csv_text, staged
from cwsam_cli.mosaic.plan import Placement, place_maps
from cwsam_cli.mosaic.request import ChangeRequest
from cwsam_cli.mosaic.sources import OpenMaps
from cwsam_cli.raster.mapfile import BLOCK
from cwsam_cli.raster.sources.network import gdal_settings
from cwsam_cli.taxonomy import IGNORE

NOTE = "counts of the maps' pixels: errors of both maps count as change, so these are not estimates of true change"
_SHOWN = 10
"""Changes that are printed; the CSV file and the JSON have all."""


@dataclass(frozen=True, slots=True)
class Change:
    """Ground that one class became another, or stayed."""

    from_code: int
    from_name: str
    to_code: int
    to_name: str
    pixels: int
    area_ha: float


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What changed where both maps show a class."""

    old: str
    new: str
    grid: str
    pixels: int
    area_ha: float
    unchanged: float
    """Share of the area, 0 to 1."""
    note: str
    changes: tuple[Change, ...]
    """Pairs of classes that occur, the largest area first; unchanged ones too."""


def count_changes(request: ChangeRequest) -> ChangeResult:
    """Count the pixels that both maps show, and write them to a CSV file if the request has one.

    Raises:
        DataError: an input is not a map, or the maps share no pixel with a class.
        UsageError: the CRS is not known, or the pixel size does not fit it.
    """
    placed = place_maps(request, "first")
    pixels, areas = np.zeros(2**16, np.int64), np.zeros(2**16)
    with rasterio.Env(**gdal_settings()):
        for window, pairs in _pairs(placed):
            counted = np.bincount(pairs.ravel(), minlength=2**16)
            pixels += counted
            if placed.grid.pixel_area_m2 is not None:
                areas += counted * placed.grid.pixel_area_m2
            else:
                own = placed.grid.pixel_areas(int(window.row_off), int(window.height))
                own = own if own.shape[1] == 1 else own[:, window.toslices()[1]]
                areas += np.bincount(pairs.ravel(), np.broadcast_to(own, pairs.shape).ravel(), 2**16)
    names = {entry.code: entry.name for entry in placed.taxonomy.classes}
    found = [pair for pair in np.flatnonzero(pixels).tolist() if pair >> 8 in names and pair & 255 in names]
    if not found:
        raise DataError(
            f"`{request.maps[0]}` and `{request.maps[1]}` share no pixel where both show a class",
            hint="check that both show the same ground",
        )
    changes = [
        Change(old, names[old], new, names[new], int(pixels[pair]), float(areas[pair]) / 1e4)
        for pair, old, new in ((pair, pair >> 8, pair & 255) for pair in found)
    ]
    changes.sort(key=lambda change: -change.area_ha)
    total = sum(change.area_ha for change in changes)
    result = ChangeResult(
        old=request.maps[0],
        new=request.maps[1],
        grid=str(placed.grid),
        pixels=sum(change.pixels for change in changes),
        area_ha=total,
        unchanged=sum(change.area_ha for change in changes if change.from_code == change.to_code) / total,
        note=NOTE,
        changes=tuple(changes),
    )
    if request.output is not None:
        _write_csv(request.output, result, overwrite=request.overwrite)
    return result


def _pairs(placed: Placement) -> Iterator[tuple[Window, NDArray[np.uint16]]]:
    """Yield strips of the ground that both maps show: 256 times the older code plus the newer one."""
    if len(placed.maps) < 2:
        return
    edges = [
        (w.col_off, w.row_off, w.col_off + w.width, w.row_off + w.height) for w in (one.window for one in placed.maps)
    ]
    left, top = (max(0, *(edge[side] for edge in edges)) for side in (0, 1))
    right = min(placed.grid.width, *(edge[2] for edge in edges))
    bottom = min(placed.grid.height, *(edge[3] for edge in edges))
    if left >= right:
        return
    with OpenMaps(placed) as maps:
        for row in track(range(top, bottom, BLOCK), "comparing", unit="strip"):
            window = Window(left, row, right - left, min(BLOCK, bottom - row))
            old, new = (maps.codes(one, window) for one in placed.maps)
            if placed.area is not None:
                old[~placed.area.mask(window)] = IGNORE
            yield window, np.asarray(old.astype(np.uint16) << 8 | new, np.uint16)


def _write_csv(path: Path, result: ChangeResult, *, overwrite: bool) -> None:
    head = [field.name for field in fields(Change)]
    with staged(path, overwrite=overwrite) as draft:
        draft.write_text(csv_text([head, *map(astuple, result.changes)]), encoding="utf-8")


def format_changes(result: ChangeResult) -> str:
    """Return a table of the classes' areas in both maps, the largest changes, and what these figures are."""
    codes = {change.from_code: change.from_name for change in result.changes}
    codes |= {change.to_code: change.to_name for change in result.changes}
    longest = max(len("class"), *map(text_width, codes.values()))
    lines = [f"{'code':>6}  {'class':<{longest}}  {'old ha':>14}  {'new ha':>14}  {'unchanged ha':>14}"]
    for code, name in sorted(codes.items()):
        lost = [change for change in result.changes if change.from_code == code]
        gained = [change for change in result.changes if change.to_code == code]
        kept = [change for change in lost if change.to_code == code]
        figures = "".join(f"  {sum(one.area_ha for one in group):>14,.2f}" for group in (lost, gained, kept))
        lines.append(f"{code:>6}  {padded(name, longest)}{figures}")
    for change in [change for change in result.changes if change.from_code != change.to_code][:_SHOWN]:
        lines.append(f"{change.from_name} → {change.to_name}: {change.area_ha:,.2f} ha")
    lines.append(
        f"{result.old} → {result.new}: {result.area_ha:,.2f} ha in both, {100 * result.unchanged:.1f} % unchanged;"
        f" {result.note}"
    )
    return "\n".join(lines)
