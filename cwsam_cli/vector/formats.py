"""The vector formats that are written. This module loads no other package."""

import re
import string
from pathlib import Path
from typing import Literal, get_args

from cwsam_cli.errors import UsageError

Format = Literal["gpkg", "shp", "fgb", "geojson", "json", "geojsonl", "geojsonseq", "parquet"]
_DRIVERS: dict[str, str] = dict(
    zip(
        get_args(Format),
        ("GPKG", "ESRI Shapefile", "FlatGeobuf", "GeoJSON", "GeoJSON", "GeoJSONSeq", "GeoJSONSeq", "Parquet"),
        strict=True,
    )
)
MEDIA_TYPES = {
    "GPKG": "application/geopackage+sqlite3",
    "ESRI Shapefile": "application/octet-stream",
    "FlatGeobuf": "application/vnd.flatgeobuf",
    "GeoJSON": "application/geo+json",
    "GeoJSONSeq": "application/geo+json-seq",
    "Parquet": "application/vnd.apache.parquet",
}
"""By driver."""
_OWN_SUFFIX = {"ESRI Shapefile": ".shp", "FlatGeobuf": ".fgb"}
"""Formats for which GDAL creates a folder if the file's suffix is another one."""
_NO_LAYER = re.compile(f"[{re.escape(string.punctuation.replace('_', ''))}]|gpkg|sqlite_", re.I)
"""First characters that GDAL refuses in a layer's name."""


def vector_driver(path: Path, name: Format | None = None) -> str:
    """Return the name of GDAL's driver for a file.

    Args:
        path: the file, whose suffix names the format.
        name: the format, if the suffix is another one.

    Raises:
        UsageError: the suffix is not one of these formats, the format needs another suffix, or the layer could not be
            written under this name.
    """
    if "!" in str(path) or ";" in path.name:  # pyogrio takes them for signs of a URL, and writes another file
        raise UsageError(
            f"`{path}`: a layer cannot be written to a path with `!`, or a name with `;`", hint="choose another name"
        )
    suffix = name or path.suffix.lower().lstrip(".")
    driver = _DRIVERS.get(suffix)
    if driver is None:
        known = ", ".join(f".{known}" for known in _DRIVERS)
        raise UsageError(f"`{path}`: `.{suffix}` is not a vector format that cwsam writes", hint=f"use {known}")
    if driver == "ESRI Shapefile" and "\\" in path.name:  # GDAL writes the parts under another name
        raise UsageError(f"`{path}`: the name of a shapefile cannot have `\\`", hint="choose another name")
    own = _OWN_SUFFIX.get(driver)
    if own and path.suffix.lower() != own:
        raise UsageError(f"`{path}`: the name of a {driver} file must end in {own}", hint=f"{path.with_suffix(own)}")
    return driver


def layer_name(path: Path, driver: str, name: str | None) -> str:
    """Return the name of a layer.

    Args:
        path: its file, which gives the default.
        driver: GDAL's driver.
        name: the name that the user wants.

    Raises:
        UsageError: GDAL refuses this name in a GeoPackage.
    """
    if driver != "GPKG" or not _NO_LAYER.match(name or path.stem):
        return name or path.stem
    if name:
        raise UsageError(
            f"--layer `{name}`: the name of a GeoPackage layer cannot begin with punctuation, `gpkg` or `sqlite_`",
            hint=f"for example: --layer _{name}",
        )
    return f"_{path.stem}"
