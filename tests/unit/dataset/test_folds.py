"""Folds divide the training tiles, and tiles near the validation fold are in neither part."""

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


def test_a_dataset_without_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folds"):
        split_by_fold(tmp_path, 0)
    gpd.GeoDataFrame({"tile": ["a"]}, geometry=[box(0, 0, 1, 1)], crs=32617).to_file(
        tmp_path / "tiles.gpkg", layer="tiles"
    )
    with pytest.raises(DataError, match="no folds"):
        split_by_fold(tmp_path, 0)
