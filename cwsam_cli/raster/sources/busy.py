"""Stop at a GeoPackage that another process is using, before GDAL waits for it and calls it damaged."""

import sqlite3
from contextlib import closing
from pathlib import Path

from cwsam_cli.errors import MachineError

_PATIENCE_S = 3


def refuse_busy_geopackage(path: Path, *, is_replaced: bool = False) -> None:
    """Wait some seconds for a GeoPackage that another process locks, then stop.

    No lock is kept. A process that replaces the file must itself detect later changes, see `Stamps`.

    Args:
        path: any file. Files of other formats pass.
        is_replaced: whether this process will replace the file. It then also stops at a change that another process
            has begun, because that change would be lost. Otherwise the file is opened read-only, so that a
            write-ahead log beside it is not merged.

    Raises:
        MachineError: the file is still locked.
    """
    if path.suffix.lower() != ".gpkg" or not path.is_file():
        return
    name = f"{path.resolve().as_uri()}?mode={'rw' if is_replaced else 'ro'}"
    try:
        with closing(sqlite3.connect(name, timeout=_PATIENCE_S, isolation_level=None, uri=True)) as package:
            if is_replaced:
                package.execute("BEGIN IMMEDIATE")
            package.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:  # the reader of a damaged file reports it
        if "locked" in str(error):
            raise MachineError(
                f"`{path}` is locked by another process", hint="close it there, QGIS for example, and call again"
            ) from None
