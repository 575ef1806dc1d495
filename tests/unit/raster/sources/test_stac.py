"""STAC items become scenes: from files, and from an API."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.transform import from_origin

from cwsam_cli.errors import CwsamError, DataError, MachineError, UsageError
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.raster.sources.fingerprint import fingerprint
from cwsam_cli.raster.sources.network import NO_EXTERNAL
from cwsam_cli.raster.sources.scenes import expand, scene_names
from cwsam_cli.raster.sources.stac import StacChoice, parse_query
from cwsam_cli.raster.sources.views import View, make_views, public_name

MakeRaster = Callable[..., Path]
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(name: str, assets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2024-06-01T10:00:00Z"},
        "links": [],
        "assets": {key: {"type": TIFF} | asset for key, asset in assets.items()},
    } | more


def write(path: Path, *items: dict[str, Any]) -> str:
    raw = items[0] if path.name == "item.json" else {"type": "FeatureCollection", "features": items}
    path.write_text(json.dumps(raw), "utf-8")
    return str(path)


def views(argument: str, *assets: str, **query: str) -> list[View]:
    return [View.from_text(text) for text in expand([argument], StacChoice(assets=assets, query=query))[0]]


def paths(view: View) -> list[str]:
    return [path for _, path in view.members]


def test_an_item_is_one_scene_and_a_collection_with_one_item_can_be_several(tmp_path: Path) -> None:
    only = item("S2A_T32.1", {"data": {"href": "https://example.org/a.tif"}})
    one, many = expand([write(tmp_path / "item.json", only)], StacChoice())
    assert not many and scene_names(one) == ["S2A_T32.1"]
    assert View.from_text(one[0]).date == "2024-06-01T10:00:00Z"
    several, many = expand([write(tmp_path / "items.json", only)], StacChoice())
    assert many and [View.from_text(text).members for text in several] == [(("", "https://example.org/a.tif"),)]


def test_assets_are_named_or_known_by_the_common_name_of_their_band(tmp_path: Path) -> None:
    assets = {
        "B04": {"href": "/d/B04.tif", "eo:bands": [{"name": "B04", "common_name": "red"}]},
        "B08": {"href": "/d/B08.tif", "bands": [{"eo:common_name": "nir"}]},
        "B02": {"href": "/d/B02.tif", "eo:common_name": "blue"},
        "preview": {"href": "/d/p.png", "type": "image/png", "eo:bands": [{"common_name": "nir"}]},
    }
    path = write(tmp_path / "items.json", item("a", assets))
    assert views(path, "nir", "B04")[0].members == (("nir", "/d/B08.tif"), ("B04", "/d/B04.tif"))
    assert views(path, "blue")[0].members == (("blue", "/d/B02.tif"),)
    with pytest.raises(DataError, match="item `a` has no asset `green`") as caught:
        views(path, "green")
    assert "B04, B08, B02" in caught.value.hint
    with pytest.raises(UsageError, match="item `a` has 3 rasters: B04, B08, B02") as refused:
        views(path)
    assert "--assets" in refused.value.hint


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("az://box/a.tif", "/vsiaz/box/a.tif"),
        ("/vsicurl/https://example.org/a.tif", "/vsicurl/https://example.org/a.tif"),
        ("file:///d/a%20b.tif", "/d/a b.tif"),
        ("../x/a.tif", "{folder}/x/a.tif"),
        ("./here.tif", "{folder}/items/here.tif"),
    ],
)
def test_addresses_of_assets_become_paths(tmp_path: Path, href: str, path: str) -> None:
    (tmp_path / "items").mkdir()
    found = views(write(tmp_path / "items" / "items.json", item("a", {"data": {"href": href}})))
    assert paths(found[0]) == [path.format(folder=tmp_path)]


def test_relative_addresses_count_from_the_file_or_else_from_the_items_own_link(tmp_path: Path) -> None:
    own = [{"rel": "self", "href": "https://example.org/stac/a/item.json?token=SECRET"}]
    (tmp_path / "here.tif").touch()
    assets = {"here": {"href": "here.tif"}, "there": {"href": "there.tif?x=1"}}
    (view,) = views(write(tmp_path / "items.json", item("a", assets, links=own)), "here", "there")
    assert paths(view) == [str(tmp_path / "here.tif"), "https://example.org/stac/a/there.tif?x=1"]
    assert view.origin == "https://example.org/stac/a/item.json"


@pytest.mark.parametrize(
    "told",
    [
        {"raster:bands": [{"scale": 0.5, "offset": -1}]},
        {"bands": [{"raster:scale": 0.5, "raster:offset": -1}]},
        {"raster:scale": 0.5, "raster:offset": -1},
    ],
)
def test_scale_and_offset_of_the_item_are_applied_on_request(
    tmp_path: Path, make_raster: MakeRaster, told: dict[str, Any]
) -> None:
    values = np.arange(1, 401, dtype=np.uint16).reshape(20, 20)
    href = str(make_raster("a.tif", values))
    plain, _ = expand([write(tmp_path / "items.json", item("a", {"data": {"href": href} | told}))], StacChoice())
    (scaled,) = make_views(plain, unscale=True)
    with open_scene(plain[0]) as scene:
        assert (scene.read(scene.whole)[0] == values).all()
    with open_scene(scaled) as scene:
        assert np.allclose(scene.read(scene.whole)[0], values * 0.5 - 1)
        before = fingerprint(scaled, scene.dataset)
        other = scaled.replace("0.5", "0.25")
        assert fingerprint(other, scene.dataset) != before


def test_bands_of_other_pixels_are_brought_to_the_finest(tmp_path: Path, make_raster: MakeRaster) -> None:
    fine, coarse = np.full((20, 20), 7, np.uint16), 8 * np.arange(100, dtype=np.uint16).reshape(10, 10)
    assets = {
        "coarse": {"href": str(make_raster("c.tif", coarse, transform=from_origin(600_000, 4_000_000, 60, 60)))},
        "fine": {"href": str(make_raster("f.tif", fine))},
    }
    named, _ = expand([write(tmp_path / "items.json", item("a", assets))], StacChoice(assets=("fine", "coarse")))
    with open_scene(named[0]) as scene:
        image, _ = scene.read(scene.whole)
        assert scene.band_names == ("fine", "coarse") and scene.grid.gsd_m == 30
    assert (image[0] == 7).all() and len(np.unique(image[1])) > 100, "bilinear"


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("{", DataError, "neither a STAC item nor a collection"),
        ('{"type": "Collection", "stac_version": "1.0.0"}', DataError, "neither a STAC item"),
        ('{"type": "FeatureCollection", "features": []}', DataError, "has no item"),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}', DataError, "without id or assets"),
        ('{"type": "FeatureCollection", "features": [7]}', DataError, "without id or assets"),
        ('{"type": "Feature", "id": "a", "assets": {"x": 7}}', DataError, "does not follow STAC"),
        ('{"type": "Feature", "id": "a", "assets": {"x": {"type": "text/html"}}}', DataError, "no asset that is a"),
        ('{"type": "Feature", "id": "a", "assets": {"x": {"type": "image/tiff"}}}', DataError, "asset `` without href"),
    ],
)
def test_what_is_no_item_is_refused(tmp_path: Path, text: str, error: type[CwsamError], named: str) -> None:
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(error, match=named):
        expand([str(tmp_path / "items.json")], StacChoice())


@pytest.mark.parametrize("href", ["https://example.org/a.tif", "../a.tif", "/d/a.tif", "/vsis3/bucket/a.tif"])
def test_items_may_not_name_rasters_outside_their_folder_with_no_external(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, href: str
) -> None:
    monkeypatch.setenv(NO_EXTERNAL, "1")
    with pytest.raises(DataError, match="outside its folder, and --no-external"):
        views(write(tmp_path / "items.json", item("a", {"data": {"href": href}})))
    inside = views(write(tmp_path / "items.json", item("a", {"data": {"href": "x/a.tif"}})))
    assert paths(inside[0]) == [str(tmp_path / "x" / "a.tif")]
    with pytest.raises(DataError, match="not on this disk, and --no-external"):
        views("https://example.org/items.json")


def test_assets_without_items_are_refused() -> None:
    with pytest.raises(UsageError, match="no argument means items"):
        expand(["scene.tif"], StacChoice(assets=("red",)))


def test_a_query_is_read_from_one_text_or_several() -> None:
    assert parse_query(["bbox=1,2,3,4 limit=5", "datetime=.."]) == {"bbox": "1,2,3,4", "limit": "5", "datetime": ".."}
    with pytest.raises(UsageError, match="--stac-query `bbox`"):
        parse_query(["bbox"])


def test_an_api_is_searched_page_by_page(object_store: str, tmp_path: Path) -> None:
    write(tmp_path / "items.json", *(item(name, {"data": {"href": f"../bucket/{name}.tif"}}) for name in "abc"))
    (tmp_path / "busy").write_text("2")
    found = views(f"http://{object_store}/api/", bbox="8,47,9,48", collections="s2")
    assert [paths(view) for view in found] == [[f"http://{object_store}/bucket/{name}.tif"] for name in "abc"]
    asked = (tmp_path / "requests").read_text().splitlines()
    assert asked[0] == "GET /api/search?bbox=8%2C47%2C9%2C48&collections=s2"
    assert len(asked) == 5, "two busy answers, three pages"


def test_an_api_that_refuses_or_is_none_is_named_without_secrets(object_store: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an API") as none:
        views(f"http://{object_store}/none", token="SECRET")
    (tmp_path / "refuse").write_text("9")
    with pytest.raises(MachineError, match=r"refuses to send .*search` \(403\)") as refused:
        views(f"http://{object_store}/api", token="SECRET")
    assert "SECRET" not in str(none.value) + str(refused.value)


def test_what_outputs_keep_of_a_scene_has_no_secrets() -> None:
    signed = "https://me:SECRET@example.org/a.tif?sig=SECRET"
    view = View(name="a.stac", members=(("red", signed), ("nir", "/d/b.tif")), unscale=True)
    assert "SECRET" not in public_name(signed) + public_name(view.to_text())
    assert View.from_text(public_name(view.to_text())).members[0] == ("red", "https://example.org/a.tif")
    assert public_name("/d/what?.tif") == "/d/what?.tif"
