"""Refuse rasters that read other files or the network: what `--no-external` forbids.

A virtual raster is a text that may name any file of this machine. A raster from a stranger can thus bring foreign
pixels into an output, or tell a server that it was opened. GDAL reads far more formats that name other files than
those that do not, so only a few formats are allowed.
"""

import os
import warnings
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from cwsam_cli.errors import DataError
from cwsam_cli.raster.sources.network import NO_EXTERNAL, is_plain_file

_ALONE = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG", "AAIGrid")
"""GDAL's names of formats that keep all pixels in one file and its sidecars."""
_KINDS = {"", "vrtwarpeddataset"}
"""Subclasses of virtual rasters whose every file is under one of `_NAMES`."""
_NAMES = ("sourcefilename", "sourcedataset")
_BEGINNING = 1024  # bytes in which GDAL looks for the root of a virtual raster


def is_forbidden() -> bool:
    """Return whether `--no-external` is given to this command, or set for all in the environment."""
    return bool(os.environ.get(NO_EXTERNAL))


def refuse_external(raster: str) -> None:
    """Stop at a raster that reads anything outside its own folder.

    Raises:
        DataError: it does, or its format could.
    """
    if not is_plain_file(raster):
        raise DataError(f"`{raster}` is not a file on this disk, and --no-external is given", hint=_HINT)
    path = Path(raster)
    _check(path, path.absolute().parent.resolve(), raster, set())


def refuse_external_layer(path: Path) -> None:
    """Stop at a vector file that may read other files, if `--no-external` is given.

    Formats in XML, such as GDAL's virtual layers, may name files and servers. A raster passes unless it is external.

    Raises:
        DataError: the file is in XML, or lies outside its folder.
    """
    if not is_forbidden() or not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(_BEGINNING)
    if _MARK in head:
        refuse_external(str(path))
    elif head.lstrip().startswith(b"<"):
        raise DataError(f"`{path}` is in XML, which may name other files, and --no-external is given", hint=_CONVERT)
    elif not path.resolve().is_relative_to(path.absolute().parent.resolve()):
        raise DataError(f"`{path}` links to a file outside its folder", hint=_HINT)


_MARK = b"<VRTDataset"
_CONVERT = "convert it, if you trust it: ogr2ogr layer.gpkg FILE"
_HINT = "copy the raster and its sources into one folder, or leave out --no-external if you trust it"


def _check(path: Path, folder: Path, raster: str, seen: set[Path]) -> None:
    """Check a file and the files that it names."""
    real = path.resolve()
    if not real.is_relative_to(folder):
        raise DataError(f"`{raster}` reads `{path}`, which lies outside its folder", hint=_HINT)
    if real in seen:
        return
    seen.add(real)
    dataset = _open_alone(path)
    if dataset is None:
        for name in _sources(path, raster):
            _check(name, folder, raster, seen)
        return
    with dataset:
        is_inside = all(Path(name).resolve().is_relative_to(folder) for name in dataset.files if Path(name).exists())
        if not is_inside or "OVERVIEW_FILE" in dataset.tags(ns="OVERVIEWS"):
            raise DataError(f"`{raster}` reads files outside its folder", hint=_HINT)


def _open_alone(path: Path) -> rasterio.DatasetReader | None:
    """Open a raster of one of the formats that are allowed, or return None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for driver in _ALONE:
            with suppress(RasterioError):
                return rasterio.open(path, driver=driver)
    return None


def _sources(path: Path, raster: str) -> list[Path]:
    """Return the files that a virtual raster names.

    GDAL takes elements and attributes of the same name, in any case, so both are looked at.

    Raises:
        DataError: the file is not a virtual raster, or may read other files in another way.
    """
    with path.open("rb") as file:
        is_virtual = _MARK in file.read(_BEGINNING)
    if not is_virtual:
        raise DataError(
            f"`{path}` is damaged, or of a format that --no-external does not allow", hint=f"allowed: {_FORMATS}"
        )
    text = path.read_bytes()
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError):
        root = None
    unclear = DataError(f"`{path}` may read other files than --no-external can tell", hint=_HINT)
    if root is None or b"<!" in text:  # GDAL reads comments, CDATA and entities in its own way
        raise unclear
    named = []
    for element in root.iter():
        values = {_plain(name): value for name, value in element.attrib.items()}
        values[_plain(element.tag)] = element.text or ""
        if _plain(element.tag) == "group" or values.get("key", "").upper() == "OVERVIEW_FILE":
            raise unclear
        named += [values[name] for name in _NAMES if name in values]
    if {name.lower() for name in (root.get("subClass", ""), root.get("subclass", ""))} - _KINDS:
        raise unclear
    return [_place(name.strip(), path, raster) for name in named]


_FORMATS = ", ".join((*_ALONE, "VRT"))


def _plain(name: str) -> str:
    """Return the name of an element or attribute in lower case, without its namespace."""
    return name.rpartition("}")[2].lower()


def _place(name: str, virtual: Path, raster: str) -> Path:
    """Return the file that a virtual raster names. GDAL may look in its folder or in the working folder.

    Raises:
        DataError: the name is not that of a file, or means two files.
    """
    found = {place.resolve() for place in (virtual.parent / name, Path(name)) if place.is_file()}
    if len(found) != 1 or ":" in os.path.splitdrive(name)[1]:
        raise DataError(f"`{raster}` reads `{name[:200]}`, which is not one file in its folder", hint=_HINT)
    return found.pop()
