"""Whether a layer that was just written is whole on the disk: GDAL does not say when closing a file fails."""

import mmap
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

from cwsam_cli.errors import MachineError

FULL = "is the disk full?"
"""A hint."""
_FGB_NODE = 16  # items of a node of its index, as GDAL writes it
_GEOJSON_END = b"]\n}\n"


def refuse_half(path: Path, driver: str, layer: str, rows: int) -> None:
    """Stop if the end of a layer is not on the disk.

    Args:
        path: the file that was written.
        driver: see `layers.write_stream`.
        layer: see `layers.write_stream`.
        rows: number of rows that were written, without those that were there.

    Raises:
        MachineError: the file is not whole.
    """
    if driver == "GPKG":
        is_whole = has_index(path, layer)
    elif driver == "GeoJSON":
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(_GEOJSON_END)))
            is_whole = file.read() == _GEOJSON_END
    elif driver == "GeoJSONSeq":
        with path.open("rb") as file:
            is_whole = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b"")) == rows
    elif driver == "ESRI Shapefile":
        is_whole = _is_whole_shapefile(path, rows)
    else:
        is_whole = _is_whole_flatgeobuf(path, rows)
    if not is_whole:
        raise MachineError(f"`{path.name}` could not be written whole", hint=FULL)


def has_index(path: Path, layer: str) -> bool:
    """Return whether a GeoPackage lists a layer with its spatial index, which is written last.

    The list can be missing from a package of an empty layer if the disk is full.
    """
    query = (
        "SELECT count(*) FROM gpkg_contents JOIN gpkg_extensions USING (table_name) "
        "WHERE table_name = ? AND extension_name = 'gpkg_rtree_index'"
    )
    try:
        with closing(sqlite3.connect(path)) as package:
            return bool(package.execute(query, (layer,)).fetchone()[0])
    except sqlite3.Error:
        return False


def _is_whole_shapefile(path: Path, rows: int) -> bool:
    """Return whether the files of a shapefile are as long as their headers say."""
    shp, shx, dbf, prj = (path.with_suffix(suffix) for suffix in (".shp", ".shx", ".dbf", ".prj"))
    try:
        with dbf.open("rb") as file:
            count, head, row = struct.unpack("<4xIHH", file.read(12))
        for part in (shp, shx):
            with part.open("rb") as file:
                words = struct.unpack(">24xI", file.read(28))[0]
            if part.stat().st_size != 2 * words:
                return False
        is_long = dbf.stat().st_size >= head + rows * row and shx.stat().st_size == 100 + 8 * rows
        return bool(count == rows and is_long and prj.stat().st_size)
    except (OSError, struct.error):
        return False


def _is_whole_flatgeobuf(path: Path, rows: int) -> bool:
    """Return whether the last feature of a FlatGeobuf ends where the file ends, https://flatgeobuf.org/#specification."""
    nodes = level = rows
    while level > 1 or nodes == rows == 1:  # of the spatial index
        level = -(-level // _FGB_NODE)
        nodes += level
    with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as content:
        try:
            end = 12 + struct.unpack_from("<I", content, 8)[0] + 40 * nodes
            for _ in range(rows):
                end += 4 + struct.unpack_from("<I", content, end)[0]
        except struct.error:
            return False
        return bool(end == len(content))
