"""Distances from training ground come from the outlines in `tiles.gpkg`, in metres."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
from shapely import box

from cwsam_cli.assess.distance import distances_from_training
from cwsam_cli.vector.layers import write_frame

SIDE = 300.0


def dataset(folder: Path, *tiles: tuple[str, str, float], crs: str | None = "EPSG:32617") -> Path:
    """Tiles with a name, a split and metres east of the first corner."""
    for name, split, _ in tiles:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            (folder / kind / split / f"{name}.tif").touch()
    shapes = [box(500_000 + x, 4_000_000, 500_000 + x + SIDE, 4_000_000 + SIDE) for *_, x in tiles]
    names, splits, _ = zip(*tiles, strict=True)
    frame = geopandas.GeoDataFrame({"tile": names, "split": splits}, geometry=shapes, crs="EPSG:32617")
    frame = frame.set_crs(None, allow_override=True) if crs is None else frame.to_crs(crs)
    write_frame(frame, folder / "tiles.gpkg", layer="tiles")
    return folder


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326"])
def test_each_tile_has_its_distance_from_the_nearest_training_tile(tmp_path: Path, crs: str) -> None:
    tiles = (("b", "test", 1300.0), ("a", "test", 6300.0), ("c", "train", 0.0), ("d", "train", 9000.0))
    found = distances_from_training([dataset(tmp_path, *tiles, crs=crs)], "test")
    assert found is not None
    np.testing.assert_allclose(found, [2400, 1000], rtol=2e-3)  # in the order of the names, as samples are


def test_training_tiles_of_all_datasets_count(tmp_path: Path) -> None:
    one = dataset(tmp_path / "one", ("a", "test", 1300.0), ("b", "train", 9000.0))
    two = dataset(tmp_path / "two", ("a", "train", 0.0), ("b", "test", 600.0), crs="EPSG:4326")
    found = distances_from_training([one, two], "test")
    assert found is not None
    np.testing.assert_allclose(found, [1000, 300], rtol=2e-3)


def test_unknown_positions_give_no_distances(tmp_path: Path) -> None:
    tiles = (("a", "test", 1300.0), ("c", "train", 0.0))
    folder = dataset(tmp_path / "bare", *tiles, crs=None)
    assert distances_from_training([folder], "test") is None
    (folder / "tiles.gpkg").unlink()
    assert distances_from_training([folder], "test") is None
    assert distances_from_training([dataset(tmp_path / "placed", *tiles)], "train") is None
    only = dataset(tmp_path / "only", ("a", "test", 0.0))
    assert distances_from_training([only], "test") is None


@pytest.mark.parametrize("odd", ["a local CRS", "scenes with and without CRS"])
def test_ground_that_is_nowhere_on_the_earth_gives_no_distances(tmp_path: Path, odd: str) -> None:
    folder = dataset(tmp_path, ("a", "test", 1300.0), ("c", "train", 0.0))
    frame = geopandas.read_file(folder / "tiles.gpkg")
    if odd == "a local CRS":
        frame = frame.set_crs('LOCAL_CS["site",UNIT["metre",1]]', allow_override=True)
    else:
        frame = frame.to_crs("EPSG:4326")
        frame.loc[0, "geometry"] = box(0, 0, 128, 128)  # in pixels
    write_frame(frame, folder / "tiles.gpkg", layer="tiles")
    assert distances_from_training([folder], "test") is None
