"""Folds divide the training tiles, and tiles near the validation fold are in neither part."""

import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import pytest
from shapely.geometry import box

from cwsam_cli.dataset.folds import split_by_fold
from cwsam_cli.errors import ConfigError, DataError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    frame = gpd.GeoDataFrame(
        {"tile": list("abcde"), "fold": [0, 0, 1, 2, None], "near_folds": ["1", "", "0", "11", ""]},
        geometry=[box(n, 0, n + 1, 1) for n in range(5)],
        crs="EPSG:32617",
    )
    frame["fold"] = frame["fold"].astype("Int64")
    frame.to_file(tmp_path / "tiles.gpkg", layer="tiles")
    return tmp_path


@pytest.mark.parametrize(("fold", "training", "validation"), [(0, "d", "ab"), (1, "bd", "c"), (2, "abc", "d")])
def test_a_fold_is_validation_and_its_neighbours_are_left_out(
    dataset: Path, fold: int, training: str, validation: str
) -> None:
    assert split_by_fold(dataset, fold) == (set(training), set(validation))


def test_a_fold_that_is_not_there_is_refused(dataset: Path) -> None:
    with pytest.raises(ConfigError, match="the folds 0 to 2"):
        split_by_fold(dataset, 3)


@pytest.mark.parametrize("change", ["tile = NULL", "fold = 'two'", "near_folds = 1"])
def test_a_value_of_another_type_is_named(dataset: Path, change: str) -> None:
    with closing(sqlite3.connect(dataset / "tiles.gpkg")) as package, package:
        package.execute("CREATE TABLE copy AS SELECT tile, fold, CAST(near_folds AS BLOB) AS near_folds FROM tiles")
        package.execute("UPDATE copy SET near_folds = NULL")
        package.execute(f"UPDATE copy SET {change}")
        package.execute("DROP TABLE tiles")
        package.execute("ALTER TABLE copy RENAME TO tiles")
    with pytest.raises(DataError, match=r"tiles\.gpkg`: `fold` or `near_folds`"):
        split_by_fold(dataset, 0)


def test_a_dataset_without_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folds"):
        split_by_fold(tmp_path, 0)
    gpd.GeoDataFrame({"tile": ["a"]}, geometry=[box(0, 0, 1, 1)], crs=32617).to_file(
        tmp_path / "tiles.gpkg", layer="tiles"
    )
    with pytest.raises(DataError, match="no folds"):
        split_by_fold(tmp_path, 0)
