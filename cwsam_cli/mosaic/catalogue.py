"""Look into each map once: its grid, its class table, its date and its confidence layer."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import rasterio
from rasterio.enums import MaskFlags

from cwsam_cli.console import track
from cwsam_cli.errors import DataError
from cwsam_cli.mosaic.request import Rule
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.mapfile import MODEL_TAG
from cwsam_cli.raster.place import missing_crs
from cwsam_cli.raster.scene import open_raster, refuse_unplaced
from cwsam_cli.raster.sources.network import gdal_settings
from cwsam_cli.raster.style import CLASSES_TAG, band_names, read_taxonomy
from cwsam_cli.taxonomy import IGNORE, Taxonomy

_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_:]?(\d\d)[-_:]?(\d\d)(?=\D|\d{6}(?!\d)|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMap:
    """A map as its header describes it."""

    path: str
    grid: Grid
    taxonomy: Taxonomy
    confidence: str | None = None
    """The path of its confidence layer, if the rule needs it."""
    day: date | None = None
    """Its date, if the rule needs it."""
    models: str = ""
    """SHA-256 of the models that made it; see `raster.mapfile`."""


def inspect_maps(paths: Sequence[str], rule: Rule) -> list[SourceMap]:
    """Read the headers of all maps.

    Args:
        paths: the maps.
        rule: how classes are chosen; it decides what a map must have.

    Raises:
        DataError: a raster is not a map, or lacks what the rule needs.
        MissingCRS: a map has no CRS.
    """
    return [_inspect(path, rule, alone=len(paths) == 1) for path in track(paths, "reading headers", unit="map")]


def _inspect(path: str, rule: Rule, *, alone: bool) -> SourceMap:
    with rasterio.Env(**gdal_settings(path)), open_raster(path) as dataset:
        _check(dataset, path)
        refuse_unplaced(dataset, path)
        grid = Grid.of(dataset)
        if grid.crs is None:
            raise missing_crs(path, grid, "so it has no place in the mosaic")
        if not dataset.tags().get(CLASSES_TAG) and not any(band_names(dataset).values()):
            raise DataError(
                f"`{path}` has no class names, so its codes cannot be compared with those of other maps",
                hint=f"""give it a class table: rio edit-info --tag {CLASSES_TAG}='{{"classes": [{{"code": 1, """
                f""""name": "water", "color": "#0000ff"}}]}}' {path}""",
            )
        taxonomy, models = read_taxonomy(dataset, ()), dataset.tags().get(MODEL_TAG, "")
        day = _read_day(dataset, path) if rule == "date" and not alone else None
    confidence = _find_confidence(path, grid) if rule == "confidence" and not alone else None
    return SourceMap(path=path, grid=grid, taxonomy=taxonomy, confidence=confidence, day=day, models=models)


def _check(dataset: rasterio.DatasetReader, path: str) -> None:
    if dataset.count != 1 or dataset.dtypes[0] != "uint8":
        held = f"{dataset.count} bands" if dataset.count > 1 else f"{dataset.dtypes[0]} values"
        raise DataError(
            f"`{path}` has {held}; a map is one band of class codes (uint8)",
            hint=f"if band 1 holds class codes 0-254: gdal_translate -b 1 -ot Byte {path} codes.tif",
        )
    flags, nodata = dataset.mask_flag_enums[0], dataset.nodata
    if MaskFlags.per_dataset in flags or nodata not in (None, IGNORE):
        marked = f"declares nodata {nodata:g}" if nodata is not None else "marks nodata by a mask"
        raise DataError(
            f"`{path}` {marked}; the nodata value of a map is {IGNORE}",
            hint=f"convert it: gdalwarp -dstnodata {IGNORE} {path} map{IGNORE}.tif",
        )


def _read_day(dataset: rasterio.DatasetReader, path: str) -> date:
    """Return the date in a map's name, or else in its tags.

    Raises:
        DataError: there is none.
    """
    stem = Path(path.partition("?")[0]).stem
    tags = (dataset.tags(ns="IMAGERY").get("ACQUISITIONDATETIME", ""), dataset.tags().get("TIFFTAG_DATETIME", ""))
    for text in (stem, *tags):
        for match in _DAY.finditer(text):
            try:
                return date(*map(int, match.groups()))
            except ValueError:  # no such day
                continue
    raise DataError(
        f"`{path}` has no date in its name and none in its tags ACQUISITIONDATETIME and TIFFTAG_DATETIME",
        hint="name it such as forest_2024-05-31.tif, or use another --by",
    )


def _find_confidence(path: str, grid: Grid) -> str:
    """Return the path of a map's confidence layer.

    Raises:
        DataError: there is none, or it lies on another grid.
    """
    stem, suffix = os.path.splitext(path)
    layer = f"{stem}.confidence{suffix}"
    try:
        with rasterio.Env(**gdal_settings(layer)), open_raster(layer) as dataset:
            if Grid.of(dataset) == grid and dataset.dtypes[0] == "uint8":
                return layer
    except DataError:
        raise DataError(
            f"`{path}` has no confidence layer: there is no raster `{layer}`",
            hint="write it with: cwsam predict --confidence; or use another --by",
        ) from None
    raise DataError(
        f"`{layer}` is not the confidence layer of `{path}`: its grid or its dtype differs",
        hint="write both in one run: cwsam predict --confidence",
    )
