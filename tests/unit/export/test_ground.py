"""Ground comes from the dataset that the checkpoint names, if it is still the same."""

import dataclasses
from pathlib import Path
from typing import Any

import geopandas
import pytest
from shapely.geometry import box

from cwsam_cli.checkpoints.checkpoint import Checkpoint, Provenance
from cwsam_cli.dataset.manifest import Manifest, write_manifest
from cwsam_cli.export.ground import TrainingGround, find_ground
from cwsam_cli.taxonomy import from_names
from tests.unit.export.test_network import checkpoint

ABOUT = checkpoint()


def dataset(folder: Path, west: float, **changes: Any) -> Path:
    """A dataset of two training tiles and one test tile, without pixels."""
    folder.mkdir()
    fields: dict[str, Any] = {
        "taxonomy": ABOUT.taxonomy,
        "bands": ABOUT.bands,
        "dtype": "uint8",
        "gsd_m": 30.0,
        "tiles": {"train": 2, "val": 0, "test": 1},
        "pixels": {"train": [10, 20, 30, 40], "test": [100, 0, 0, 0]},
    }
    write_manifest(folder, Manifest(**fields | changes))
    tiles = [box(west, 50, west + 1, 51), box(west + 2, 50, west + 3, 52), box(west, 0, west + 1, 1)]
    frame = geopandas.GeoDataFrame({"split": ["train", "train", "test"]}, geometry=tiles, crs="EPSG:4326")
    frame.to_file(folder / "tiles.gpkg", driver="GPKG")
    return folder


def trained(*folders: Path, tiles: dict[str, int]) -> Checkpoint:
    data = ", ".join(str(folder / "images" / "train") for folder in folders)
    origin = Provenance(
        date="2026-11-28T00:00:00+00:00", versions={}, config="", data=data, data_sha256="", tiles=tiles
    )
    return dataclasses.replace(ABOUT, provenance=origin)


def test_bounds_and_shares_are_those_of_the_training_tiles(tmp_path: Path) -> None:
    about = trained(dataset(tmp_path / "a", 7.0), tiles={"train": 2, "val": 0})
    assert find_ground(about) == TrainingGround(
        tiles={"train": 2, "val": 0}, bounds=(7.0, 50.0, 10.0, 52.0), shares=(0.1, 0.2, 0.3, 0.4)
    )


def test_several_datasets_are_one_ground(tmp_path: Path) -> None:
    folders = [dataset(tmp_path / "a", 7.0), dataset(tmp_path / "b", 20.0, pixels={"train": [100, 0, 0, 0]})]
    found = find_ground(trained(*folders, tiles={"train": 4}))
    assert found.bounds == (7.0, 50.0, 23.0, 52.0)
    assert found.shares == pytest.approx((0.55, 0.1, 0.15, 0.2))


@pytest.mark.parametrize(
    "changes",
    [{"tiles": {"train": 3, "val": 0}}, {"taxonomy": from_names(["a", "b", "c", "d"])}],
    ids=["tiles", "classes"],
)
def test_another_dataset_in_its_place_tells_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = find_ground(trained(dataset(tmp_path / "a", 7.0, **changes), tiles={"train": 2}))
    assert found == TrainingGround(tiles={"train": 2})


def test_a_dataset_that_is_gone_tells_nothing(tmp_path: Path) -> None:
    assert find_ground(trained(tmp_path / "gone", tiles={"train": 2})) == TrainingGround(tiles={"train": 2})
    assert find_ground(ABOUT) == TrainingGround(tiles={})


def test_tiles_that_cannot_be_read_leave_the_bounds_unknown(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "a", 7.0)
    (folder / "tiles.gpkg").unlink()
    found = find_ground(trained(folder, tiles={"train": 2}))
    assert found.bounds is None and found.shares == (0.1, 0.2, 0.3, 0.4)
