"""Check that a raster has a possible place on the Earth."""

import os
from collections.abc import Iterable
from math import hypot, isfinite, isnan
from pathlib import Path

from rasterio.windows import Window

from cwsam_cli.errors import DataError, MissingCRS, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.ground import covered_m2

_CORNERS = ("upper left", "upper right", "lower right", "lower left")
_EARTH_M2 = 5.1e14
_BESIDE = 2.0
"""Largest area of a map, as a share of the Earth's. A sinusoidal world map has 1.6 with its empty corners."""
_BEYOND_POLE = 1.0
"""Degrees. The first and last pixels of a global grid often have their centres on the poles."""
_MAX_PIXELS = "CWSAM_MAX_PIXELS"
_MOST_PIXELS = 1e13
"""A global map with pixels of 10 m has 7.5e12. Headers of a few bytes can claim more than any machine processes."""


def missing_crs(path: Path | str, grid: Grid, why: str, others: Iterable[tuple[Path | str, Grid]] = ()) -> MissingCRS:
    """Make the error for a raster without a CRS. Its hint also sets the position if there is none.

    Args:
        path: path of the raster.
        grid: its grid.
        why: end of the sentence, which says what cannot be done.
        others: other rasters of the same command. The hint names one of equal size that has a CRS.
    """
    if has_position(grid):
        return MissingCRS(path, why)
    size = (grid.width, grid.height)
    for other, own in others:
        if own.crs is not None and has_position(own) and (own.width, own.height) == size:
            # Not `--all`: it would also copy nodata, which may be a class code here.
            copy = f"rio edit-info --like {other} --crs like --transform like {path}"
            return MissingCRS(path, f"nor a position, {why}", hint=f"if both show the same ground: {copy}")
    both = f"gdal_translate -a_srs EPSG:<code> -a_ullr <ULX> <ULY> <LRX> <LRY> {path} placed.tif"
    return MissingCRS(path, f"nor a position, {why}", hint=f"if you know both: {both}")


def has_position(grid: Grid) -> bool:
    """Check whether a transform is set. Without one, GDAL returns columns and rows as coordinates."""
    t = grid.transform
    return (t.a, t.b, t.c, t.d, abs(t.e), t.f) != (1, 0, 0, 0, 1, 0)


def refuse_enormous(width: int, height: int, path: Path | str, hint: str = "") -> None:
    """Stop before the work on more pixels than CWSAM_MAX_PIXELS in the environment, by default 1e13.

    Args:
        width: columns to process.
        height: rows to process.
        path: the raster.
        hint: how to choose a part of it.

    Raises:
        DataError: there are more pixels.
        UsageError: the variable is not a number.
    """
    text = os.environ.get(_MAX_PIXELS, str(_MOST_PIXELS))
    try:
        most = float(text)
    except ValueError:
        raise UsageError(
            f"{_MAX_PIXELS} `{text}` is not a number", hint=f"for example: export {_MAX_PIXELS}=1e14"
        ) from None
    if not float(width * height) <= most:  # also if it is NaN
        raise DataError(
            f"`{path}` has {width:,} × {height:,} pixels to process, more than {most:g}",
            hint=f"{hint}if you mean it: export {_MAX_PIXELS}={width * height}",
        )


def refuse_impossible(grid: Grid, path: Path | str) -> None:
    """Stop if the CRS and transform of a raster put it outside the Earth.

    Raises:
        DataError: a corner is not finite or beyond a pole, the raster is larger than the Earth, or it
            has a CRS but no transform.
    """
    plane = grid.plane
    if not has_position(grid) and (grid.is_geographic or plane is not None):
        raise DataError(
            f"`{path}` has a coordinate reference system but no position: its upper left corner is at 0, 0",
            hint=f"set its position: gdal_translate -a_ullr <ULX> <ULY> <LRX> <LRY> {path} placed.tif",
        )
    hint = f"set its position: gdal_translate -a_ullr <ULX> <ULY> <LRX> <LRY> {path} placed.tif"
    corners = grid.corners(Window(0, 0, grid.width, grid.height))
    for name, (x, y) in zip(_CORNERS, corners, strict=True):
        if not (isfinite(x) and isfinite(y)):
            raise DataError(f"the {name} corner of `{path}` is at {x:g}, {y:g}, which is not a place", hint=hint)
    if grid.transform.determinant == 0:
        raise DataError(f"the pixels of `{path}` have no size: {tuple(grid.transform)[:6]}", hint=hint)
    if grid.is_geographic:
        t = grid.in_degrees
        most = 90 + min(_BEYOND_POLE, hypot(t.d, t.e))
        places = [t @ corner for corner in ((0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height))]
        for name, (lon, lat) in zip(_CORNERS, places, strict=True):
            if abs(lat) > most:
                raise DataError(f"the {name} corner of `{path}` is at latitude {lat:,.7g}°, beyond a pole", hint=hint)
            if abs(lon) > 720 or abs(lon - places[0][0]) > 360 + 2 * hypot(t.a, t.b):
                raise DataError(
                    f"the {name} corner of `{path}` is at longitude {lon:,.7g}° and the {_CORNERS[0]} one at"
                    f" {places[0][0]:,.7g}°, more than once round the Earth",
                    hint=hint,
                )
    elif plane is not None:
        covered = covered_m2(plane)
        (left, top), (right, bottom) = corners[0], corners[2]
        if isnan(covered) or covered > _BESIDE * _EARTH_M2:
            why = "so no point of it is on the Earth" if isnan(covered) else "which is larger than the Earth"
            raise DataError(
                f"the corners of `{path}` are at {left:g}, {top:g} and {right:g}, {bottom:g} in {plane.name}, {why}",
                hint=hint,
            )
