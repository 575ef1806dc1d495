"""Scenes from STAC items, an API and a store: what users see, and what no file or stream may hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
from typer.testing import Result

from cwsam_cli.files import sha256
from cwsam_cli.predict import work
from tests.cli.conftest import invoke, write
from tests.stac_rules import refuse_invalid

Cwsam = Callable[..., Result]
SECRET = "S3CR3T"
GIVEN = ("items.json", "requests")
"""Files that the test and its server write themselves."""


def leaks(folder: Path, *results: Result) -> list[str]:
    """Files and streams that hold the secret."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in GIVEN]
    found = [str(path) for path in paths if SECRET.encode() in path.read_bytes()]
    return found + [text for result in results for text in (result.stdout, result.stderr) if SECRET in text]


def bands_of(scene: Path, folder: Path, address: str) -> str:
    """Write the bands of a scene as files of a store, and an item of signed URLs; returns the item collection."""
    with rasterio.open(scene) as source:
        for number, name in enumerate(("x", "y", "z"), start=1):
            write(
                folder / "bucket" / f"{name}.tif",
                source.read(number),
                transform=source.transform,
                tiled=True,
                blockxsize=16,
                blockysize=16,
            )
    assets = {
        name: {"href": f"http://{address}/bucket/{name}.tif?X-Amz-Signature={SECRET}", "type": "image/tiff"}
        for name in ("x", "y", "z")
    }
    own = {"rel": "self", "href": f"https://example.org/items/S2A_T32?token={SECRET}"}
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "S2A_T32", "geometry": None, "links": [own]}
    items = {"type": "FeatureCollection", "features": [item | {"properties": {}, "assets": assets}]}
    (folder / "items.json").write_text(json.dumps(items))
    return "items.json"


def test_items_are_mapped_as_their_bands_in_one_file(cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path) -> None:
    bands_of(run.scene, tmp_path, object_store)
    model = ("-c", run.checkpoint)
    cwsam("predict", run.scene, *model, "-o", "whole.tif")
    api = (f"http://{object_store}/api", "--stac-query", "bbox=8,47,9,48 datetime=2024-06-01/..")
    told = cwsam("predict", *api, "--assets", "x,y,z", *model, "-o", "maps", "--json")
    with rasterio.open("maps/S2A_T32.tif") as mapped, rasterio.open("whole.tif") as whole:
        assert (mapped.read() == whole.read()).all()
    assert not leaks(tmp_path, told)


def test_signatures_and_tokens_are_in_no_file_and_no_stream(
    cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands_of(run.scene, tmp_path, object_store)
    command = ["predict", "items.json", "--assets", "x,y,z", "-c", str(run.checkpoint), "-o", "maps", "--confidence"]
    signed = f"http://{object_store}/bucket/x.tif?sig={SECRET}"
    told = [
        invoke("-v", *command, "--dry-run", "--json"),
        invoke("predict", signed, "-c", run.checkpoint, "-o", "one.tif"),  # has one band, so it fails
        invoke("predict", signed, "-c", run.checkpoint, "--dry-run"),
        invoke("vectorize", f"http://{object_store}/none.tif?sig={SECRET}", "polygons.gpkg"),
    ]
    monkeypatch.setattr("sys.argv", ["cwsam", *command, f"http://me:{SECRET}@x.org/?token={SECRET}", f"key={SECRET}"])
    tiling = ("--assets", "x,y,z", "--labels", run.labels, "-o", "dataset", "--size", 32)
    told.append(cwsam("tile", "items.json", *tiling))
    told.append(invoke("tile", "items.json", *tiling, "--format", "windows", "--overwrite"))
    assert told[-1].exit_code == 2 and "--format windows" in told[-1].stderr
    told.append(cwsam("tile", "items.json", *tiling[:2], "--labels", run.labels, "-o", "dataset", "--append"))
    assert "1 scene(s) are in" in told[-1].stderr

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(work, "write_files", _die)
        invoke(*command)
    (tmp_path / "refuse").write_text("99")
    told.append(invoke(*command))
    assert told[-1].exit_code == 4 and "refuses to send" in told[-1].stderr and "expired" in told[-1].stderr
    (tmp_path / "refuse").write_text("0")
    journal = tmp_path / "maps" / ".S2A_T32.tif.journal"
    assert any(path.stat().st_size for path in journal.glob("*.pieces"))
    assert not leaks(tmp_path, *told), "the journal is there, too"
    items = (tmp_path / "items.json").read_text()
    (tmp_path / "items.json").write_text(items.replace("Signature=", "Signature=renewed"))
    told.append(cwsam(*command))
    assert "continuing" in told[-1].stderr and not journal.exists()
    assert not leaks(tmp_path, *told)


class Killed(BaseException):
    """What no block expects."""


def _die(*_: Any) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("switch", "value", "told"),
    [
        ("busy", "2", "continuing, 1 piece(s) are finished"),
        ("etag", "other", "begun with another scene: starting over"),
    ],
)
def test_a_busy_store_keeps_a_journal_and_a_replaced_object_does_not(
    cwsam: Cwsam,
    run: Any,
    object_store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    switch: str,
    value: str,
    told: str,
) -> None:
    (tmp_path / "bucket").mkdir()
    shutil.copy(run.scene, tmp_path / "bucket" / "scene.tif")
    command = ("predict", f"http://{object_store}/bucket/scene.tif", "-c", run.checkpoint, "-o", "map.tif")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(work, "write_files", _die)
        invoke(*command)
    (tmp_path / switch).write_text(value)
    assert told in cwsam(*command).stderr


def test_maps_on_a_server_become_polygons(cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path) -> None:
    shutil.copy(run.labels, tmp_path / "map.tif")
    signed = f"http://{object_store}/map.tif?sig={SECRET}"
    told = [cwsam("vectorize", signed, "one.gpkg", "--confidence", signed, "--stac")]
    told.append(invoke("vectorize", signed, f"http://{object_store}/none.tif?sig={SECRET}", "-o", "more", "--json"))
    assert told[-1].exit_code == 4 and len(json.loads(told[-1].stdout)["layers"]) == 1
    assert linked(json.loads(Path("one.json").read_text()), "derived_from") == [f"http://{object_store}/map.tif"]
    assert not leaks(tmp_path, *told)


# Outputs in an object store


def test_a_map_in_a_store_is_that_of_this_disk_and_nothing_is_left_here(
    cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path
) -> None:
    command = ("predict", run.scene, "-c", run.checkpoint, "--confidence")
    cwsam(*command, "-o", "here/map.tif")
    told = cwsam(*command, "-o", "s3://bucket/maps/map.tif")
    assert told.stdout.startswith("s3://bucket/maps/map.tif: 200 × 160 pixels")
    stored = tmp_path / "bucket" / "maps"
    assert {path.name for path in stored.iterdir()} == {path.name for path in (tmp_path / "here").iterdir()}
    with rasterio.open(stored / "map.tif") as there, rasterio.open("here/map.tif") as here:
        assert (there.read() == here.read()).all()
    assert not (tmp_path / ".cwsam-uploads").exists()
    puts = [line for line in (tmp_path / "requests").read_text().splitlines() if line.startswith("PUT")]
    assert puts[-1] == "PUT /bucket/maps/map.tif", "its presence means complete"
    refused = invoke(*command, "-o", "s3://bucket/maps/map.tif")
    assert refused.exit_code == 2 and "`s3://bucket/maps/map.tif` exists already" in refused.stderr
    cwsam(*command[:-1], "-o", "s3://bucket/maps/map.tif", "--overwrite")
    assert (stored / "map.tif").exists() and not (stored / "map.confidence.tif").exists()


def test_an_upload_that_fails_keeps_the_map_and_the_same_command_repeats_only_the_upload(
    cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict", run.scene, "-c", run.checkpoint, "-o", "s3://box/map.tif")
    with monkeypatch.context() as patched:
        patched.setenv("AWS_S3_ENDPOINT", "127.0.0.1:1")
        patched.setenv("GDAL_HTTP_MAX_RETRY", "0")
        failed = invoke(*command)
    assert failed.exit_code == 6
    kept = Path(".cwsam-uploads", "s3", "box", "map.tif")
    assert kept.exists() and f"`{kept.parent}/map." in failed.stderr and "only the upload" in failed.stderr
    with monkeypatch.context() as patched:
        patched.setattr(work, "write_files", _die)
        cwsam(*command)
    assert (tmp_path / "box" / "map.tif").exists() and not kept.exists()


def test_of_several_scenes_only_maps_that_the_store_lacks_are_made(
    cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path, make_raster: Any
) -> None:
    with rasterio.open(run.scene) as source:
        image = source.read()[:, :40, :40]
    command = ("predict", "scenes", "-c", run.checkpoint, "-o", "s3://many/maps/", "--json")
    made = []
    for name in ("a", "b"):
        make_raster(f"scenes/{name}.tif", image)
        made.append(json.loads(cwsam(*command).stdout))
    assert [each["path"] for each in made[0]["maps"]] == ["s3://many/maps/a.tif"]
    assert made[1]["present"] == ["s3://many/maps/a.tif"]
    assert [each["path"] for each in made[1]["maps"]] == ["s3://many/maps/b.tif"]


def test_an_item_of_others_in_a_store_is_not_replaced(
    cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "map.json").write_text("{}")
    refused = invoke("predict", run.scene, "-c", run.checkpoint, "--stac", "-o", "s3://bucket/map.tif")
    assert refused.exit_code == 2 and "`s3://bucket/map.json` exists already" in refused.stderr
    assert (tmp_path / "bucket" / "map.json").read_text() == "{}"


# STAC items of what is written


def linked(item: dict[str, Any], relation: str) -> list[str]:
    return [link["href"] for link in item["links"] if link["rel"] == relation]


def test_a_map_and_its_polygons_have_items_with_their_hashes(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    command = ("predict", run.scene, "-c", run.checkpoint, "-o", "out/map.tif", "--confidence")
    cwsam(*command)
    before = (tmp_path / "out" / "map.tif").stat().st_mtime_ns
    (tmp_path / "out" / ".map.tif.journal").mkdir()  # as of a run that was killed at its end
    cwsam(*command, "--stac")
    assert (tmp_path / "out" / "map.tif").stat().st_mtime_ns == before, "only the item was missing"
    item = json.loads((tmp_path / "out" / "map.json").read_text())
    refuse_invalid(item)
    assert set(item["assets"]) == {"map", "confidence"}
    assert item["assets"]["map"]["file:checksum"] == "1220" + sha256(tmp_path / "out" / "map.tif")
    (source,) = linked(item, "derived_from")
    assert (tmp_path / "out" / source).resolve() == run.scene
    refused = invoke("predict", run.labels, "-c", run.checkpoint, "-o", "out/map.tif", "--stac")
    assert refused.exit_code == 2

    cwsam("vectorize", "out/map.tif", "out/polygons.gpkg", "--stac")
    polygons = json.loads((tmp_path / "out" / "polygons.json").read_text())
    refuse_invalid(polygons)
    assert polygons["assets"]["polygons"]["file:checksum"] == "1220" + sha256(tmp_path / "out" / "polygons.gpkg")
    assert polygons["properties"]["datetime"] == item["properties"]["datetime"]
    assert linked(polygons, "derived_from") == ["map.tif"]
    assert invoke("vectorize", "out/map.tif", "out/polygons.fgb", "--stac").exit_code == 2, "polygons.json exists"
    cwsam(*command, "--overwrite")
    assert not (tmp_path / "out" / "map.json").exists(), "it described the former map"


def test_maps_of_a_folder_or_a_store_have_a_collection(
    cwsam: Cwsam, run: Any, object_store: str, tmp_path: Path, make_raster: Any
) -> None:
    with rasterio.open(run.scene) as source:
        image = source.read()[:, :40, :40]
    command = ("predict", "scenes", "-c", run.checkpoint, "--stac", "-o")
    for name in ("a_20240601", "b_20240602"):
        make_raster(f"scenes/{name}.tif", image)
        cwsam(*command, "maps")
    cwsam(*command[:-2], "-o", "s3://shelf/maps")
    cwsam(*command, "s3://shelf/maps")  # the maps are there, and their items are not
    for folder in (tmp_path / "maps", tmp_path / "shelf" / "maps"):
        collection = json.loads((folder / "collection.json").read_text())
        refuse_invalid(collection)
        assert collection["id"] == "maps"
        assert linked(collection, "item") == ["./a_20240601.json", "./b_20240602.json"]
        for name in linked(collection, "item"):
            item = json.loads((folder / name).read_text())
            refuse_invalid(item)
            (source,) = linked(item, "derived_from")
            assert source.removeprefix("../") == f"scenes/{item['id']}.tif"
            assert item["collection"] == "maps" and (folder / item["assets"]["map"]["href"]).exists()
    assert collection["extent"]["temporal"]["interval"] == [["2024-06-01T00:00:00Z", "2024-06-02T00:00:00Z"]]
