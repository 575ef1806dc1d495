"""Maps that are compared have one legend if their classes agree."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from shapely import box

from cwsam_cli.errors import DataError
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from cwsam_cli.view.pipeline import make_page
from cwsam_cli.view.request import ViewRequest

Make = Callable[..., Path]


@pytest.fixture
def make_map(make_raster: Callable[..., Path]) -> Make:
    """Write a map of the given codes, whose class table has their names."""

    def make(name: str, names: dict[int, str], color: str = "#123456") -> Path:
        codes = np.array([list(names)], np.int32 if max(names) > 255 else np.uint8).repeat(8, axis=0)
        path = make_raster(name, codes)
        if max(names) <= 255:
            classes = tuple(LandCoverClass(code=code, name=text, color=color) for code, text in names.items())
            with rasterio.open(path, "r+") as dataset:
                tag_classes(dataset, Taxonomy(classes=classes))
        return path

    return make


def compared(tmp_path: Path, *paths: Path) -> dict[str, Any]:
    folder = tmp_path / "page"
    folder.mkdir()
    page = make_page(ViewRequest(paths=tuple(map(str, paths)), compare=True), folder)
    return dict(json.loads(page.files["layers.json"].read_text()))


def test_the_legend_has_the_classes_of_both_in_the_colours_of_the_first(tmp_path: Path, make_map: Make) -> None:
    first = make_map("first.tif", {1: "water", 3: "forest"}, "#0000ff")
    second = make_map("second.tif", {2: "road", 3: "forest"}, "#ff0000")
    polygons = tmp_path / "polygons.gpkg"
    place = box(600_000, 3_999_700, 600_300, 4_000_000)
    geopandas.GeoDataFrame({"code": [1], "name": ["water"]}, geometry=[place], crs=32617).to_file(polygons)
    told = compared(tmp_path, polygons, first, second)
    assert [layer["table"] for layer in told["layers"]] == [0, 0, 0]
    (table,) = told["tables"]
    assert [(entry["code"], entry["name"], entry["color"]) for entry in table["classes"]] == [
        (1, "water", "#0000ff"),
        (2, "road", "#ff0000"),
        (3, "forest", "#0000ff"),
    ]


def test_the_first_two_maps_are_compared_in_the_order_in_which_they_are_named(tmp_path: Path, make_map: Make) -> None:
    names = {1: "water", 2: "road"}
    told = compared(tmp_path, *(make_map(f"{name}.tif", names) for name in ("third", "first", "second")))
    assert [told["layers"][number]["name"] for number in told["compare"]] == ["third.tif", "first.tif"]


def test_maps_that_name_a_code_differently_keep_their_legends(
    tmp_path: Path, make_map: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cwsam"), "propagate", True)
    told = compared(tmp_path, make_map("a.tif", {1: "water", 2: "road"}), make_map("b.tif", {1: "town", 2: "road"}))
    assert len(told["tables"]) == 2
    assert "`b.tif` and another map have different classes for the code 1" in caplog.text


def test_large_codes_that_would_share_a_value_keep_their_legends(
    tmp_path: Path, make_map: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cwsam"), "propagate", True)
    told = compared(tmp_path, make_map("a.tif", {1: "", 1001: ""}), make_map("b.tif", {1: "", 2002: ""}))
    assert len(told["tables"]) == 2
    assert "too many codes above 254" in caplog.text


def test_one_map_cannot_be_compared(tmp_path: Path, make_map: Make) -> None:
    with pytest.raises(DataError, match=r"needs two class maps, and `a\.tif` has 1"):
        compared(tmp_path, make_map("a.tif", {1: "water", 2: "road"}))
