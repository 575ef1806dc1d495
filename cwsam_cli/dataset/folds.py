"""Read the folds of a dataset from its `tiles.gpkg`, without GDAL: a GeoPackage is an SQLite file."""

import sqlite3
from contextlib import closing
from pathlib import Path

from cwsam_cli.errors import ConfigError, DataError

INDEX = "tiles.gpkg"


def find_folds(root: Path) -> list[int]:
    """Return the numbers of a dataset's folds; empty if it has none."""
    return sorted({int(own) for _, own, _ in _read(root)})


def _read(root: Path) -> list[tuple[str, int, str | None]]:
    """Return name, fold and near folds of the tiles that have a fold.

    Raises:
        DataError: a value has another type.
    """
    path = root / INDEX
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as package:
            rows = package.execute("SELECT tile, fold, near_folds FROM tiles WHERE fold IS NOT NULL").fetchall()
    except sqlite3.Error:
        return []
    for tile, fold, near in rows:
        is_whole = isinstance(fold, int | float) and float(fold).is_integer()  # other programs write 0.0
        if not (isinstance(tile, str) and is_whole and isinstance(near, str | None)):
            raise DataError(
                f"`{path}`: `fold` or `near_folds` of the tile {str(tile)[:80]!a} is wrong",
                hint="tile the scenes again",
            )
    return rows


def split_by_fold(root: Path, fold: int) -> tuple[set[str], set[str]]:
    """Return the names of the training tiles of a fold, and those of its validation tiles.

    Tiles of other folds that are closer to the fold than the dataset's buffer are in neither.

    Args:
        root: folder that `cwsam tile --folds` wrote.
        fold: number of the fold, from 0.

    Raises:
        DataError: the dataset has no folds.
        ConfigError: there is no fold of this number.
    """
    rows = _read(root)
    if not rows:
        raise DataError(f"`{root}` has no folds", hint="make them: cwsam tile SCENE --labels ... --folds 5")
    folds = sorted({int(own) for _, own, _ in rows})
    if fold not in folds:
        raise ConfigError(
            f"`train_dataset.fold` is {fold}, but `{root}` has the folds {folds[0]} to {folds[-1]}",
            hint=f"--set train_dataset.fold={folds[0]}",
        )
    validation = {tile for tile, own, _ in rows if own == fold}
    training = {tile for tile, own, near in rows if own != fold and str(fold) not in (near or "").split(",")}
    return training, validation
