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
    assert "`b.tif` and the maps before it have different names for the code 1" in caplog.text


@pytest.mark.parametrize(
    ("first", "second", "is_shared"),
    [
        pytest.param([1, 1001], [1, 1001], True, id="same values"),
        pytest.param([1, 1001], [1, 2002], False, id="two codes with one value"),
        pytest.param([1, 1001, 2002], [1, 2002], False, id="one code with two values"),
    ],
)
def test_large_codes_share_a_legend_only_if_their_values_agree(
    tmp_path: Path,
    make_map: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    first: list[int],
    second: list[int],
    is_shared: bool,
) -> None:
    monkeypatch.setattr(logging.getLogger("cwsam"), "propagate", True)
    told = compared(tmp_path, make_map("a.tif", dict.fromkeys(first, "")), make_map("b.tif", dict.fromkeys(second, "")))
    assert len(told["tables"]) == (1 if is_shared else 2)
    assert ("have codes outside 0-254 that do not fit into one legend" in caplog.text) is not is_shared
    assert "different names" not in caplog.text


def test_a_third_map_with_other_names_leaves_the_first_two_one_legend(tmp_path: Path, make_map: Make) -> None:
    names = ({1: "water", 2: "road"}, {1: "water", 3: "forest"}, {1: "town", 2: "road"}, {2: "road", 4: "field"})
    told = compared(tmp_path, *(make_map(f"{number}.tif", each) for number, each in enumerate(names)))
    assert [layer["table"] for layer in told["layers"]] == [0, 0, 1, 0]
    assert [entry["code"] for entry in told["tables"][0]["classes"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(("maps", "found"), [([], "none of the files is one"), (["a"], r"only `a\.tif` is one")])
def test_fewer_than_two_maps_are_refused_before_a_layer_is_prepared(
    tmp_path: Path, make_map: Make, make_raster: Callable[..., Path], maps: list[str], found: str
) -> None:
    paths = [make_map(f"{name}.tif", {1: "water", 2: "road"}) for name in maps]
    paths.append(make_raster("scene.tif", np.ones((3, 8, 8), np.uint8)))
    with pytest.raises(DataError, match=f"needs two class maps, and {found}"):
        compared(tmp_path, *paths)
    assert list((tmp_path / "page").iterdir()) == []
