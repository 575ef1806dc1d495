"""Refuse rasters that read other files or the network: what `--no-external` forbids.

A virtual raster is a text that may name any file of this machine. A raster from a stranger can thus bring foreign
pixels into an output, or tell a server that it was opened. GDAL reads far more formats that name other files than
those that do not, so only a few formats are allowed.
"""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from cwsam_cli.errors import DataError
from cwsam_cli.raster.sources.busy import refuse_busy_geopackage
from cwsam_cli.raster.sources.network import NO_EXTERNAL, is_plain_file

_ALONE = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG", "AAIGrid")
"""GDAL's names of formats that keep all pixels in one file and its sidecars."""
_KINDS = {"", "vrtwarpeddataset"}
"""Subclasses of virtual rasters whose every file is under one of `_NAMES`."""
_NAMES = ("sourcefilename", "sourcedataset")
_UNCLEAR = {"group", "dempath", "ooi"}
"""Elements that name files in other ways, or let a source name some."""
_UNCLEAR_KEYS = {"OVERVIEW_FILE", "X_DATASET", "Y_DATASET"}
"""Items of metadata that name files."""
_SYSTEMS = ("sourcesrs", "targetsrs")
_SYSTEM = re.compile(r"\s*(\w+\[.*|EPSG:\d+|)\s*", re.DOTALL | re.IGNORECASE)
"""A CRS that is written out. GDAL would also take the address of one."""
_SIDECARS = (".ovr", ".ovr.zip", ".msk", ".aux")
_HFA = b"EHFA_HEADER_TAG"
_BEGINNING = 1 << 16  # bytes; GDAL looks for the marks of its formats in fewer
_MARK = b"<VRTDataset"
_MARKS = re.compile(rb"<(VRTDataset|GDALTileIndex|Table_of_Contents)")
"""Formats that GDAL tries before those of `_ALONE`, wherever in the beginning of a file their mark is."""
_LAYERS = (b"SQLite format 3\0", b"\0\0\x27\x0a", b"fgb\x03", b"\x03")
"""First bytes of GeoPackage, Shapefile, FlatGeobuf and dBASE."""
_ACTIVE = re.compile(rb"<OGR|gdal_streamed_alg")
"""Layers that name files or commands, although they begin like GeoJSON."""


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


def refuse_unusable_layer(path: Path) -> None:
    """Stop at a vector file that another process locks, or that may read other files if `--no-external` is given.

    GDAL's virtual layers, pipelines and many formats in text or XML may name files and servers, so only a few formats
    are allowed. A raster passes unless it is external.

    Raises:
        DataError: there is no such file, its format is not allowed, or a part of it lies outside its folder.
        MachineError: another process locks it.
    """
    refuse_busy_geopackage(path)
    if not is_forbidden() or path.is_dir():
        return
    if not path.is_file():
        raise DataError(f"there is no file `{path}`", hint="check the path")
    head = _head(path)
    is_json = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\x1e \t\r\n")[:1] in (b"{", b"[")
    if not head.startswith(_LAYERS) and (not is_json or _ACTIVE.search(head)):
        refuse_external(str(path))
        return
    folder = path.absolute().parent.resolve()
    for part in (path, *(path.with_suffix(suffix) for suffix in (".shp", ".dbf", ".shx"))):
        if not part.resolve().is_relative_to(folder):
            raise DataError(f"`{part}` links to a file outside its folder", hint=_HINT)


_HINT = "copy the raster and its sources into one folder, or leave out --no-external if you trust it"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BEGINNING)


def _check(path: Path, folder: Path, raster: str, seen: set[Path]) -> None:
    """Check a file, its sidecars and the files that it names, without letting GDAL open any of them before."""
    if not path.resolve().is_relative_to(folder):
        raise DataError(f"`{raster}` reads `{path}`, which lies outside its folder", hint=_HINT)
    place = path.parent.resolve() / path.name
    if place in seen:
        return
    seen.add(place)
    for sidecar in _sidecars(path):
        _check(sidecar, folder, raster, seen)
    dataset = _open_alone(path)
    if dataset is None:
        for name in _sources(path, raster):
            _check(name, folder, raster, seen)
        return
    with dataset:
        named = dataset.tags(ns="OVERVIEWS") | dataset.tags(ns="GEOLOCATION")
        if _UNCLEAR_KEYS & named.keys() or not all(
            Path(name).resolve().is_relative_to(folder) for name in dataset.files
        ):
            raise DataError(f"`{raster}` reads files outside its folder", hint=_HINT)


def _sidecars(path: Path) -> Iterator[Path]:
    """Yield the rasters that GDAL opens with another one, in any format: overviews and masks."""
    names = {path.name.lower() + suffix for suffix in _SIDECARS} | {path.stem.lower() + ".aux"}
    for entry in path.parent.iterdir():
        name = entry.name.lower()
        if name in names and (not name.endswith(".aux") or (entry.is_file() and _head(entry).startswith(_HFA))):
            yield entry


def _open_alone(path: Path) -> rasterio.DatasetReader | None:
    """Open a raster of one of the formats that are allowed, or return None."""
    head = _head(path)
    if _MARKS.search(head):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for driver in _ALONE:
            if driver == "AAIGrid" and b"<" in head:  # a text can be of several formats
                continue
            with suppress(RasterioError):
                return rasterio.open(path, driver=driver)
    return None


def _sources(path: Path, raster: str) -> list[Path]:
    """Return the files that a virtual raster names.

    GDAL takes elements and attributes of the same name, in any case, so both are looked at.

    Raises:
        DataError: the file is not a virtual raster, or may read other files in another way.
    """
    if _MARK not in _head(path):
        raise DataError(
            f"`{path}` is damaged, or of a format that --no-external does not allow", hint=f"allowed: {_FORMATS}"
        )
    text = path.read_bytes()
    try:
        root = ElementTree.fromstring(text.decode("utf-8"))  # GDAL takes no other encoding
    except (ElementTree.ParseError, ValueError, LookupError):
        root = None
    unclear = DataError(f"`{path}` may read other files than --no-external can tell", hint=_HINT)
    if root is None or b"<!" in text or b"<?" in text.lstrip()[2:]:  # GDAL reads these in its own way
        raise unclear
    named = []
    for element in root.iter():
        values = {_plain(name): value for name, value in element.attrib.items()}
        values[_plain(element.tag)] = (
            "".join(element.itertext()) if _plain(element.tag) in _NAMES else element.text or ""
        )
        systems = [values[name] for name in _SYSTEMS if name in values]
        if (
            _UNCLEAR & values.keys()
            or values.get("key", "").upper() in _UNCLEAR_KEYS
            or not all(map(_SYSTEM.fullmatch, systems))
        ):
            raise unclear
        named += [values[name] for name in _NAMES if name in values]
    if {name.lower() for name in (root.get("subClass", ""), root.get("subclass", ""))} - _KINDS:
        raise unclear
    return [place for name in named for place in _places(name.strip(), path, raster)]


_FORMATS = ", ".join((*_ALONE, "VRT; layers: GeoPackage, Shapefile, FlatGeobuf, GeoJSON"))


def _plain(name: str) -> str:
    """Return the name of an element or attribute in lower case, without its namespace."""
    return name.rpartition("}")[2].lower()


def _places(name: str, virtual: Path, raster: str) -> list[Path]:
    """Return the file that a virtual raster names. GDAL may look in its folder or in the working folder.

    Raises:
        DataError: the name is not that of a file, or means two files.
    """
    found = [place for place in (virtual.parent / name, Path(name)) if place.is_file()]
    if len({place.resolve() for place in found}) != 1 or ":" in os.path.splitdrive(name)[1]:
        raise DataError(f"`{raster}` reads `{name[:200]}`, which is not one file in its folder", hint=_HINT)
    return found
