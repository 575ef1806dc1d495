"""Scenes and blocks come from `tiles.gpkg`; datasets without blocks, or without that file, work too."""

from pathlib import Path
from typing import Any

import geopandas
import pytest
from shapely import Point

from cwsam_cli.assess.places import find_places, read_places
from cwsam_cli.errors import DataError
from cwsam_cli.vector.layers import write_frame


def index(folder: Path, **columns: Any) -> None:
    folder.mkdir(exist_ok=True)
    rows = {"tile": ["a", "b", "c"], "scene": ["/x/one.tif", "/x/one.tif", "/x/two.tif"], "col_off": [0, 8, 0]}
    rows |= {"row_off": [0, 0, 16], "width": [8] * 3, "height": [8] * 3}
    frame = geopandas.GeoDataFrame(rows | columns, geometry=[Point(0, 0)] * 3, crs="EPSG:32617")
    write_frame(frame, folder / "tiles.gpkg", layer="tiles")


def test_blocks_are_those_that_the_dataset_names(tmp_path: Path) -> None:
    index(tmp_path, block=["north", "north", "south"])
    places = read_places(tmp_path, ["c", "a", "b"])
    assert places.has_blocks
    assert places.blocks == ("south", "north", "north")
    assert places.windows[0] is not None and places.windows[0].row_off == 16
    cells, names = places.cells()
    assert cells.tolist() == [0, 1, 1]
    assert names == [("/x/two.tif", "south"), ("/x/one.tif", "north")]


def test_without_the_column_each_tile_is_a_block(tmp_path: Path) -> None:
    index(tmp_path)
    places = read_places(tmp_path, ["a", "b", "c"])
    assert not places.has_blocks
    assert places.blocks == ("a", "b", "c")
    assert places.scenes == ("/x/one.tif", "/x/one.tif", "/x/two.tif")


def test_without_the_file_each_tile_is_a_block_of_an_unknown_scene(tmp_path: Path) -> None:
    places = read_places(tmp_path, ["a", "b"])
    assert (places.blocks, places.scenes, places.has_blocks) == (("a", "b"), ("", ""), False)


def test_a_tile_that_the_index_lacks_is_named(tmp_path: Path) -> None:
    index(tmp_path)
    with pytest.raises(DataError, match=r"tiles\.gpkg.*other"):
        read_places(tmp_path, ["a", "other"])


def test_a_damaged_index_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tiles.gpkg").write_bytes(b"no geopackage")
    with pytest.raises(DataError, match=r"^`[^`]*tiles\.gpkg` does not describe") as caught:
        read_places(tmp_path, ["a"])
    assert "\n" not in str(caught.value)


def test_several_datasets_share_blocks_of_ground_and_name_their_folders(tmp_path: Path) -> None:
    for name, blocks in (("first", {"block": ["north", "north", "south"]}), ("second", {"block": ["south"] * 3})):
        index(tmp_path / name, **blocks)
        for kind in ("images", "labels"):
            for tile in ("a", "c"):
                path = tmp_path / name / kind / "test" / f"{tile}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    tiles, places = find_places((tmp_path / "first", tmp_path / "second"), "test")
    assert tiles == [f"{tmp_path / name}/{tile}" for name in ("first", "second") for tile in ("a", "c")]
    assert places.blocks == ("north", "south", "south", "south")
    assert places.has_blocks
    (tmp_path / "second" / "tiles.gpkg").unlink()
    _, places = find_places((tmp_path / "first", tmp_path / "second"), "test")
    assert places.blocks == ("north", "south", f"{tmp_path / 'second'}/a", f"{tmp_path / 'second'}/c")
    assert not places.has_blocks
