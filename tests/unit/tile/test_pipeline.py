"""A dataset is written in one pass, by any number of processes, to the same bytes."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.errors import DataError, MachineError
from cwsam_cli.raster.scene import Scene, open_scene
from cwsam_cli.raster.sources.views import make_views
from cwsam_cli.tile import counting, pipeline, scenes, work, workers
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.tiles import Place
from tests.clusters import quick_cluster

MakeRaster = Callable[..., Path]


def bytes_read() -> int:
    """Bytes that this process has read so far, from files or from the system's cache of them."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def noise(bands: int, height: int, width: int, dtype: str = "uint8") -> Any:
    return np.random.default_rng(0).integers(1, 255, (bands, height, width)).astype(dtype)


def codes(height: int, width: int) -> Any:
    return (np.arange(width)[None, :] // 8 % 3 + 1).repeat(height, axis=0).astype(np.uint8)


def content(dataset: Path) -> dict[str, Any]:
    """Tiles as bytes, and the rows of the index."""
    tiles: dict[str, Any] = {
        str(path.relative_to(dataset)): path.read_bytes() for path in sorted(dataset.rglob("*.tif"))
    }
    return tiles | {"index": gpd.read_file(dataset / "tiles.gpkg").to_json()}


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes as Linux does")
@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 256, "blockysize": 256}, {"blockysize": 1}])
@pytest.mark.parametrize("hiding", ["nothing", "mask"])
def test_pixels_are_read_once_and_labels_twice(
    make_raster: MakeRaster, tmp_path: Path, layout: dict[str, Any], hiding: str
) -> None:
    side = 900
    mask = np.full((side, side), 255, np.uint8) if hiding == "mask" else None
    scene = make_raster("scene.tif", noise(3, side, side, "uint16"), mask=mask, interleave="pixel", **layout)
    labels = make_raster("labels.tif", codes(side, side), **layout)
    before = bytes_read()
    tile_scenes(TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "dataset", size=100))
    most = 1.1 * scene.stat().st_size + 2.1 * labels.stat().st_size
    assert bytes_read() - before < most + 2_000_000, "PROJ's database and the written index are read, too"


@pytest.mark.parametrize("table", [False, True])
def test_labels_that_planning_did_not_see_are_no_silent_loss(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: bool
) -> None:
    scene, labelled = noise(1, 64, 96), codes(64, 96)
    scene[0, :, :8] = 0
    scene[0, 10, 4] = 5  # the reduced scene has no data here
    labelled[10, 4] = 9
    monkeypatch.setattr(Scene, "read_reduced_valid", lambda self: np.arange(96)[None] >= 8)
    path = make_raster("scene.tif", scene, nodata=0)
    labels = make_raster("labels.tif", labelled)
    classes = tmp_path / "classes.yaml"
    classes.write_text(
        "classes:\n" + "".join(f"  - {{code: {n}, name: c{n}, color: '#00000{n}'}}\n" for n in (1, 2, 3))
    )
    request = TileRequest(
        scenes=(str(path),),
        labels=labels,
        output=tmp_path / "data",
        size=16,
        shares=(100, 0, 0),
        classes=str(classes) if table else None,
    )
    with pytest.raises(DataError, match=r"labels of .*scene\.tif. hold (9|a value) without a class"):
        tile_scenes(request)
    assert not (tmp_path / "data").exists()


def test_several_processes_or_a_cluster_write_the_same_dataset_as_one(make_raster: MakeRaster, tmp_path: Path) -> None:
    paths = [
        make_raster("a.tif", noise(2, 100, 110, "float32"), nodata=7),
        make_raster("b.tif", noise(2, 60, 90, "float32"), transform=from_origin(700_000, 4_000_000, 30, 30)),
    ]
    make_raster("labels/a.tif", codes(100, 110))
    make_raster("labels/b.tif", codes(60, 90), transform=from_origin(700_000, 4_000_000, 30, 30))
    with quick_cluster() as cluster:
        ways: dict[str, dict[str, Any]] = {
            "one": {},
            "three": {"workers": 3},
            "cluster": {"scheduler": cluster.scheduler_address},
        }
        for name, way in ways.items():
            request = TileRequest(
                scenes=tuple(map(str, paths)),
                labels=tmp_path / "labels",
                output=tmp_path / name,
                size=16,
                overlap=4,
                **way,
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(work, "_LEAST", 4)
                patch.setattr(counting, "_LEAST", 4)
                tile_scenes(request)
    for name in ("three", "cluster"):
        assert content(tmp_path / name) == content(tmp_path / "one")
        assert (tmp_path / name / "dataset.yaml").read_bytes() == (tmp_path / "one" / "dataset.yaml").read_bytes()


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupted_run_continues_and_equals_an_uninterrupted_one(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    scene, labels = make_raster("scene.tif", noise(2, 100, 110)), make_raster("labels.tif", codes(100, 110))
    monkeypatch.setattr(work, "_LEAST", 4)
    whole, broken = (
        TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / name, size=16, overlap=3, workers=count)
        for name in ("whole", "broken")
    )
    tile_scenes(whole)
    write, tiles = work.write_image, tmp_path / ".broken.journal" / "files" / "images"

    def fail_late(place: Place, *arguments: Any) -> None:
        if place.window.row_off >= 60:  # parts come row by row, so earlier ones are finished, whichever process is fast
            raise MachineError("the disk is full")
        write(place, *arguments)

    monkeypatch.setattr(work, "write_image", fail_late)
    with pytest.raises(MachineError, match="the disk is full"):
        tile_scenes(broken)
    assert not (tmp_path / "broken").exists()
    before = {path: path.stat().st_mtime_ns for path in tiles.rglob("*.tif")}
    monkeypatch.setattr(work, "write_image", write)
    tile_scenes(broken)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    kept = [
        path
        for path, when in before.items()
        if (tmp_path / "broken" / "images" / path.relative_to(tiles)).stat().st_mtime_ns == when
    ]
    assert len(kept) >= 4, "finished tiles are not written again"
    assert not list(tmp_path.glob(".broken*"))


def test_a_run_with_another_scene_does_not_continue(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, labels = make_raster("scene.tif", noise(1, 64, 64)), make_raster("labels.tif", codes(64, 64))
    request = TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "dataset", size=16)
    monkeypatch.setattr(work, "_LEAST", 4)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tile_scenes(request)
    assert (tmp_path / ".dataset.journal").is_dir()
    make_raster("scene.tif", 255 - noise(1, 64, 64))
    tile_scenes(request)
    (path,) = (tmp_path / "dataset" / "images").rglob("scene_r00000_c00000.tif")
    with rasterio.open(path) as source:
        assert (source.read() == (255 - noise(1, 64, 64))[:, :16, :16]).all()


def test_a_dataset_without_a_split_is_warned_of_with_a_size_that_gives_some(
    make_raster: MakeRaster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene, labels = make_raster("scene.tif", noise(1, 100, 100)), make_raster("labels.tif", codes(100, 100))
    request = TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "few", size=128)
    with caplog.at_level("WARNING", logger="cwsam"):
        tile_scenes(request)
    assert "no tiles for val and test" in caplog.text
    (size,) = re.findall(r"--size (\d+) would", caplog.text)
    manifest = tile_scenes(replace(request, output=tmp_path / "some", size=int(size)))
    assert all(manifest.tiles.values())


@pytest.mark.parametrize("how", ["nothing", "value", "mask", "alpha", "nan", "padded", "stack", "turned"])
def test_windows_into_the_scenes_hold_the_samples_of_copies(make_raster: MakeRaster, tmp_path: Path, how: str) -> None:
    image, valid = noise(3, 70, 90), np.ones((70, 90), bool)
    valid[5:20, 9:40] = False
    labels = make_raster("labels.tif", codes(70, 90))
    if how == "value":
        scene = make_raster("scene.tif", np.where(valid, image, 0).astype(np.uint8), nodata=0)
    elif how == "mask":
        scene = make_raster("scene.tif", image, mask=(valid * 255).astype(np.uint8))
    elif how == "alpha":
        bands = np.concatenate([image, (valid * 255).astype(np.uint8)[None]])
        scene = make_raster("scene.tif", bands, photometric="RGB", alpha="YES")
    elif how == "nan":
        scene = make_raster("scene.tif", np.where(valid, image, np.nan).astype(np.float32))
    else:
        scene = make_raster("scene.tif", image)
    path = str(scene)
    if how == "stack":
        for number in (1, 2, 3):
            make_raster(
                f"s_{number}.tif", image[number - 1].astype("uint16" if number == 3 else "uint8"), nodata=number
            )
        (path,) = make_views([str(tmp_path / f"s_{number}.tif") for number in (1, 2, 3)], stack="{scene}_{band}.tif")
    elif how == "turned":
        (path,) = make_views([path], crs="EPSG:32618")
    request = TileRequest(
        scenes=(path,),
        labels=labels,
        output=tmp_path / "gtiff",
        size=80 if how == "padded" else 32,
        shares=(1, 0, 0),
        bands=("3", "1"),
    )
    copies = tile_scenes(request)
    views = tile_scenes(replace(request, output=tmp_path / "windows", format="windows"))
    assert views.tiling is not None and views.tiling.format == "windows"
    assert replace(views, command="", tiling=None) == replace(copies, command="", tiling=None)
    samples = []
    for name, manifest in (("gtiff", copies), ("windows", views)):
        args = FolderArgs(
            root_path_1=str(tmp_path / name / "images" / "train"), root_path_2=str(tmp_path / name / "labels" / "train")
        )
        dataset = TileDataset(args, manifest.taxonomy, manifest.bands, request.size, train=True)
        samples.append([dataset[number] for number in range(len(dataset))])
    for (image_1, label_1), (image_2, label_2) in zip(*samples, strict=True):
        assert image_1.equal(image_2) and label_1.equal(label_2)
    with rasterio.open(next((tmp_path / "windows").rglob("*.vrt"))) as view:
        assert view.crs.to_epsg() == 32617 and view.descriptions[:2] == ("blue", "red") if how == "alpha" else True


def test_a_worker_that_dies_is_told(make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, labels = make_raster("scene.tif", noise(1, 64, 64)), make_raster("labels.tif", codes(64, 64))
    monkeypatch.setattr(work, "_LEAST", 1)
    monkeypatch.setattr(work, "write_image", lambda *_: os._exit(9))
    request = TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "dataset", size=16, workers=2)
    with pytest.raises(MachineError, match="worker process died"):
        tile_scenes(request)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.tif", "scene.tif"]


def test_a_scene_too_wide_for_the_cache_is_read_in_columns(
    make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    scene, labels = make_raster("scene.tif", noise(2, 100, 300), **layout), make_raster("labels.tif", codes(100, 300))
    request = TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "whole", size=20)
    tile_scenes(request)
    monkeypatch.setattr(scenes, "_COLUMN_BYTES", 100 * 48 * 2)
    assert scenes.inspect_inputs(request).scenes[0].column_width(20) == 96
    tile_scenes(TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "columns", size=20))
    whole, columns = content(tmp_path / "whole"), content(tmp_path / "columns")
    assert whole.keys() == columns.keys()
    assert all(whole[name] == columns[name] for name in whole if name != "index")


def test_blocks_without_data_belong_to_no_split(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = noise(1, 128, 1280)
    image[:, :, 256:] = 0
    scene, labels = make_raster("scene.tif", image, nodata=0), make_raster("labels.tif", codes(128, 1280))
    manifest = tile_scenes(TileRequest(scenes=(str(scene),), labels=labels, output=tmp_path / "dataset", size=32))
    assert all(manifest.tiles.values()), "only the ground with data is shared out"
    index = gpd.read_file(tmp_path / "dataset" / "tiles.gpkg")
    assert (index.valid > 0).all() and (index.col_off < 256).all()


def test_the_manifest_has_every_statistic(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = noise(2, 96, 96, "uint16")
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes(96, 96))
    request = TileRequest(
        scenes=(str(scene),), labels=labels, output=tmp_path / "dataset", size=40, overlap=10, shares=(1, 0, 0)
    )
    tile_scenes(request)
    raw = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))
    for band, pixels in zip(raw["bands"], image, strict=True):
        figures = (pixels.mean(), pixels.std(), pixels.min(), pixels.max(), *np.percentile(pixels, (2, 98)))
        assert [band[key] for key in ("mean", "std", "minimum", "maximum", "p2", "p98")] == pytest.approx(figures)
    weighed = np.array(raw["weights"]) * raw["pixels"]["train"]
    assert weighed.sum() == pytest.approx(sum(raw["pixels"]["train"]))


def test_parts_end_where_the_place_changes() -> None:
    assert workers.cut([0, 0, 0, 1, 2, 2], 2) == [slice(0, 3), slice(3, 6)]
    assert workers.cut([0, 0, 0], 1) == [slice(0, 3)]
    assert workers.cut([], 1) == [slice(0, 0)]


def test_the_nodata_value_of_a_band_hides_no_pixels_of_another_one(make_raster: MakeRaster, tmp_path: Path) -> None:
    optical, height = np.full((40, 40), 5, np.float32), np.full((40, 40), 7, np.float32)
    optical[:5], height[:, 30:] = 0, 0  # sea level is a height
    for name, band, nodata in (("A", optical, 0), ("B", height, None)):
        make_raster(f"s_{name}.tif", band, nodata=nodata)
    labels = make_raster("labels.tif", codes(40, 40))
    (view,) = make_views([str(tmp_path / f"s_{name}.tif") for name in "AB"], stack="{scene}_{band}.tif")
    for bands in (("A", "B"), ("B", "A")):
        output = tmp_path / "".join(bands)
        tile_scenes(TileRequest(scenes=(view,), labels=labels, output=output, size=40, shares=(1, 0, 0), bands=bands))
        with open_scene(next(output.glob("images/*/*.tif"))) as scene:
            image, valid = scene.read(scene.whole)
        assert (valid == (optical > 0)).all()
        assert (image[bands.index("B")][valid] == height[valid]).all()


def test_labelled_ground_counts_the_pixels_of_each_scene_by_their_size(make_raster: MakeRaster, tmp_path: Path) -> None:
    paths = []
    for name, pixel, west in (("a", 30, 600_000), ("b", 10, 640_000)):
        place = {"transform": from_origin(west, 4_000_000, pixel, pixel)}
        paths.append(str(make_raster(f"{name}.tif", noise(1, 50, 50), **place)))
        make_raster(f"labels/{name}.tif", codes(50, 50), **place)
    labels = tmp_path / "labels"
    request = TileRequest(scenes=tuple(paths), labels=labels, output=tmp_path / "out", size=32, shares=(1, 0, 0))
    assert tile_scenes(request).ground_m2 == {"train": 2500 * (900 + 100), "val": 0, "test": 0}
