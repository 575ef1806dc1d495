"""Items and collections follow STAC 1.1 and its extensions, and say where the ground lies."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from cwsam_cli.files import sha256
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.sources.catalog import (
    COLLECTION,
    KEY,
    ItemSource,
    addresses,
    class_entry,
    date_of,
    describe_file,
    make_collection,
    make_item,
    read_own,
    write_json,
)
from cwsam_cli.raster.sources.views import View
from tests.stac_rules import refuse_invalid

UTM = Grid(CRS.from_epsg(32632), Affine(10, 0, 600_000, 0, -10, 5_300_000), 300, 200)


def item_of(tmp_path: Path, grid: Grid = UTM, **more: Any) -> dict[str, Any]:
    path = tmp_path / "map.tif"
    path.write_bytes(b"map")
    classes = [class_entry(3, "水体", "#0000ff", description="水体", fallback="class_3")]
    asset = describe_file(path, "image/tiff", "class codes", ["data"]) | {"classification:classes": classes}
    values: dict[str, Any] = {
        "name": "Zion & 2",
        "key": "abc",
        "description": "Land cover",
        "grid": grid,
        "date": "2024-06-01",
        "assets": {"map": asset},
        "sources": ["../scene.tif"],
    }
    item = make_item(ItemSource(**values | more))
    refuse_invalid(item)
    return item


def test_an_item_says_what_the_map_shows_where_and_of_what(tmp_path: Path) -> None:
    item = item_of(tmp_path)
    assert item["id"] == "Zion-2"
    assert item["properties"]["proj:code"] == "EPSG:32632" and item["properties"]["proj:shape"] == [200, 300]
    assert item["properties"]["datetime"] == "2024-06-01T00:00:00Z" and item["properties"]["gsd"] == 10
    assert item["assets"]["map"]["file:checksum"] == "1220" + sha256(tmp_path / "map.tif")
    assert item["assets"]["map"]["classification:classes"][0]["name"] == "class_3"
    assert item["links"] == [{"rel": "derived_from", "href": "../scene.tif"}]
    west, south, east, north = item["bbox"]
    assert 10.33 < west < 10.34 < east < 10.40 and 47.82 < south < 47.85 > north > south


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2024-06-01T10:00:00Z", {"datetime": "2024-06-01T10:00:00Z"}),
        ("2018", {"datetime": None, "start_datetime": "2018-01-01T00:00:00Z", "end_datetime": "2018-12-31T23:59:59Z"}),
    ],
)
def test_a_time_or_a_year_is_kept(tmp_path: Path, date: str, expected: dict[str, Any]) -> None:
    properties = item_of(tmp_path, date=date)["properties"]
    assert {name: properties[name] for name in expected} == expected


def test_a_file_without_a_date_is_dated_by_its_change(make_raster: Any) -> None:
    path = make_raster("scene.tif", np.ones((4, 4), np.uint8))
    os.utime(path, (0, 0))
    assert date_of(str(path)) == "1970-01-01T00:00:00Z"


def test_a_map_without_a_crs_has_no_geometry(tmp_path: Path) -> None:
    item = item_of(tmp_path, Grid(None, Affine.identity(), 4, 3))
    assert item["geometry"] is None and "bbox" not in item


def test_a_map_across_the_antimeridian_has_two_parts(tmp_path: Path) -> None:
    item = item_of(tmp_path, Grid(CRS.from_epsg(32601), Affine(1000, 0, 100_000, 0, -1000, 1_000_000), 300, 100))
    assert item["geometry"]["type"] == "MultiPolygon" and len(item["geometry"]["coordinates"]) == 2
    west, _, east, _ = item["bbox"]
    assert 179 < west <= 180 and -180 <= east < -177


def test_a_collection_has_the_extent_of_its_items(tmp_path: Path) -> None:
    near = item_of(tmp_path, collection="maps")
    far = item_of(tmp_path, UTM.part(Window(300, 0, 10, 10)), date="2020")
    collection = make_collection("maps", {"a.json": near, "b.json": far})
    refuse_invalid(collection)
    (box,) = collection["extent"]["spatial"]["bbox"]
    assert box[0] == near["bbox"][0] and box[2] == far["bbox"][2]
    assert collection["extent"]["temporal"]["interval"] == [["2020-01-01T00:00:00Z", "2024-06-01T00:00:00Z"]]
    assert [link["href"] for link in collection["links"] if link["rel"] == "item"] == ["./a.json", "./b.json"]
    assert {link["rel"] for link in near["links"]} == {"derived_from", "root", "parent", "collection"}


def test_own_documents_are_told_from_others(tmp_path: Path) -> None:
    item = item_of(tmp_path)
    write_json(tmp_path / "a.json", item)
    write_json(tmp_path / COLLECTION, make_collection("maps", {"a.json": item}))
    (tmp_path / "other.json").write_text('{"type": "Feature", "properties": null}')
    (tmp_path / "list.json").write_text("[]")
    assert read_own(tmp_path / "a.json")["properties"][KEY] == "abc" and read_own(tmp_path / COLLECTION)
    assert not any(read_own(tmp_path / name) for name in ("other.json", "list.json", "none.json"))


def test_sources_are_relative_paths_or_addresses_without_secrets(tmp_path: Path) -> None:
    assert addresses(str(tmp_path / "scene.tif"), tmp_path / "maps") == ["../scene.tif"]
    assert addresses("https://x.org/a.tif?sig=SECRET", tmp_path) == ["https://x.org/a.tif"]
    members = (("a", str(tmp_path / "a.tif")), ("b", "https://x.org/b.tif?sig=SECRET"))
    view = View(name="s.tif", members=members)
    assert addresses(view.to_text(), tmp_path) == ["a.tif", "https://x.org/b.tif"]
    item = View(name="s.stac", members=members, origin="https://x.org/item")
    assert addresses(item.to_text(), tmp_path) == ["https://x.org/item"]
