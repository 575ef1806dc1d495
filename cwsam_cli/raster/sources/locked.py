"""Stop at a GeoPackage that another process locks, before GDAL waits for it and calls it damaged."""

import sqlite3
from contextlib import closing
from pathlib import Path

from cwsam_cli.errors import MachineError

_PATIENCE_S = 3


def refuse_locked(path: Path, *, is_changed: bool = False) -> None:
    """Wait some seconds for a GeoPackage that another process locks, then stop.

    Args:
        path: any file; others than GeoPackages pass.
        is_changed: whether this process is about to change it, so that nobody else may be changing it.

    Raises:
        MachineError: it is still locked.
    """
    if path.suffix.lower() != ".gpkg" or not path.is_file():
        return
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)) as package:
            if is_changed:
                package.execute("BEGIN IMMEDIATE")
            package.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:  # a damaged file is told by the one who reads it
        if "locked" in str(error):
            raise MachineError(
                f"`{path}` is locked by another process", hint="close it there, QGIS for example, and call again"
            ) from None
