"""The page has every layer in its order, and an exported folder holds all that the page needs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from shapely import box

from cwsam_cli.errors import DataError, OutputExists, UsageError
from cwsam_cli.view.pipeline import Page, export, make_page
from cwsam_cli.view.request import ViewRequest

MakeRaster = Callable[..., Path]

CODES = np.repeat(np.array([[1, 2]], np.uint8), 20, axis=0).repeat(10, axis=1)
IMAGE = np.arange(3 * 400).reshape(3, 20, 20).astype(np.uint16)


def polygons(path: Path, **columns: object) -> Path:
    geopandas.GeoDataFrame(columns, geometry=[box(600_000, 3_999_700, 600_300, 4_000_000)], crs=32617).to_file(path)
    return path


def page_of(tmp_path: Path, *paths: Path) -> tuple[Page, dict[str, Any]]:
    folder = tmp_path / "page"
    folder.mkdir()
    page = make_page(ViewRequest(paths=tuple(map(str, paths))), folder)
    return page, json.loads(page.files["layers.json"].read_text())


def test_layers_have_their_order_whatever_the_order_of_the_files(tmp_path: Path, make_raster: MakeRaster) -> None:
    scene, map_ = make_raster("scene.tif", IMAGE), make_raster("map.tif", CODES)
    page, told = page_of(tmp_path, polygons(tmp_path / "polygons.gpkg", code=[2], name=["class 2"]), map_, scene)
    assert [layer["kind"] for layer in told["layers"]] == ["image", "classes", "polygons"]
    assert [layer["table"] for layer in told["layers"]] == [None, 0, 0]
    assert told["title"] == "map.tif" and told["finest"] == 30
    assert all(page.files[layer["url"]].is_file() for layer in told["layers"])


def test_the_confidence_beside_a_map_comes_with_it_once(tmp_path: Path, make_raster: MakeRaster) -> None:
    map_, confidence = make_raster("map.tif", CODES), make_raster("map.confidence.tif", CODES * 40)
    _, told = page_of(tmp_path, map_, confidence)
    assert [(layer["name"], layer["visible"]) for layer in told["layers"]] == [
        ("map.confidence.tif", False),
        ("map.tif", True),
    ]


def test_the_page_has_the_crs_of_the_map(tmp_path: Path, make_raster: MakeRaster) -> None:
    degrees = {"crs": "EPSG:4326", "transform": (3e-4, 0, -79.9, 0, -3e-4, 36.1)}
    _, told = page_of(tmp_path, make_raster("scene.tif", IMAGE, **degrees), make_raster("map.tif", CODES))
    assert told["crs"]["name"] == "WGS 84 / UTM zone 17N" and told["crs"]["shift"] == [0, 0]


def test_a_map_without_a_pixel_has_an_empty_legend(tmp_path: Path, make_raster: MakeRaster) -> None:
    _, told = page_of(tmp_path, make_raster("map.tif", np.full_like(CODES, 255), nodata=255))
    assert told["tables"] == [{"classes": []}] and told["layers"][0]["table"] == 0


def test_maps_with_equal_classes_share_a_legend(tmp_path: Path, make_raster: MakeRaster) -> None:
    others = np.full_like(CODES, 9)
    _, told = page_of(
        tmp_path, make_raster("map.tif", CODES), make_raster("again.tif", CODES), make_raster("other.tif", others)
    )
    assert [layer["table"] for layer in told["layers"]] == [0, 0, 1]


def test_an_exported_folder_holds_the_page_and_its_data(tmp_path: Path, make_raster: MakeRaster) -> None:
    request = ViewRequest(paths=(str(make_raster("map.tif", CODES)),), export=tmp_path / "out")
    export(request, tmp_path / "out")
    (layer,) = json.loads((tmp_path / "out" / "layers.json").read_text())["layers"]
    assert (tmp_path / "out" / layer["url"]).stat().st_size > 100
    for name in ("index.html", "viewer.js", "viewer.css", "licenses.txt"):
        assert (tmp_path / "out" / name).is_file()
    with pytest.raises(OutputExists):
        ViewRequest(paths=request.paths, export=request.export)
    export(ViewRequest(paths=request.paths, export=request.export, overwrite=True), tmp_path / "out")


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder with other files"):
        ViewRequest(paths=("map.tif",), export=Path(__file__).parent, overwrite=True)


def test_a_file_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="given twice"):
        ViewRequest(paths=("map.tif", "map.tif"))


def test_a_missing_file_and_a_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="there is no file"):
        page_of(tmp_path, tmp_path / "nothing.tif")
    with pytest.raises(DataError, match="neither a raster nor a vector"):
        make_page(ViewRequest(paths=(str(tmp_path / "notes.txt"),)), tmp_path / "page")
