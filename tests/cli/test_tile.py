"""The dataset folder: what `cwsam tile` writes, and that not a pixel of it is moved, lost or shared by two splits."""

import json
import re
import resource
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import yaml
from affine import Affine
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject, transform_bounds
from rasterio.windows import Window
from rasterio.windows import transform as window_transform
from shapely.geometry import Polygon, box
from typer.testing import CliRunner, Result

from cwsam_cli.main import app

Cwsam = Callable[..., Result]

WEST, NORTH, PIXEL = 600_000, 4_000_000, 30
SPLITS = ("train", "val", "test")


def read(path: Path) -> Any:
    with rasterio.open(path) as source:
        return source.read()


def striped(height: int, width: int, classes: int = 3) -> Any:
    return (np.arange(width)[None, :] // 8 % classes + 1).repeat(height, axis=0).astype(np.uint8)


def noise(bands: int, height: int, width: int, dtype: str = "uint8", low: int = 1, high: int = 255) -> Any:
    """Pixels that all differ from their neighbours, so that one moved by one is found."""
    return np.random.default_rng(7).integers(low, high, (bands, height, width)).astype(dtype)


def pixels(left: float, top: float, right: float, bottom: float) -> Any:
    """A box given in pixels of the scene."""
    return box(WEST + left * PIXEL, NORTH - bottom * PIXEL, WEST + right * PIXEL, NORTH - top * PIXEL)


def polygons(path: Path, column: list[Any], *shapes: Any, crs: str = "EPSG:32617") -> Path:
    gpd.GeoDataFrame({"kind": column}, geometry=list(shapes), crs="EPSG:32617").to_crs(crs).to_file(path)
    return path


def tiles(dataset: Path) -> Any:
    return gpd.read_file(dataset / "tiles.gpkg")


def files(dataset: Path) -> dict[str, str]:
    """Name of every tile → its split, after checking that images and labels pair up and the index knows all."""
    found = {}
    for split in SPLITS:
        images = {path.name for path in (dataset / "images" / split).glob("*")}
        labels = {path.name for path in (dataset / "labels" / split).glob("*")}
        assert images == labels
        assert all(name.endswith(".tif") for name in images)
        found |= dict.fromkeys(images, split)
    index = tiles(dataset)
    assert found == {f"{tile.tile}.tif": tile.split for tile in index.itertuples()}
    assert len(found) == len(index)
    return found


def mosaic(dataset: Path, height: int, width: int) -> Any:
    """The scene's codes put together again from the tiles: 255 where no tile is."""
    out = np.full((height, width), 255, np.uint8)
    for tile in tiles(dataset).itertuples():
        codes = read(dataset / "labels" / tile.split / f"{tile.tile}.tif")[0]
        part = out[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width]
        codes = codes[: part.shape[0], : part.shape[1]]
        part[codes != 255] = codes[codes != 255]
    return out


# The folder


def test_a_dataset_is_the_folder_of_the_design(run: Any) -> None:
    assert {path.name for path in run.dataset.iterdir()} == {
        "images",
        "labels",
        "tiles.gpkg",
        "append.npz",
        "dataset.yaml",
    }
    assert set(files(run.dataset).values()) == set(SPLITS)


def test_the_index_says_of_every_tile_where_it_lies_and_what_it_shows(run: Any) -> None:
    index = tiles(run.dataset)
    known = {"tile", "split", "block", "scene", "col_off", "row_off", "width", "height", "valid", "labelled", "share_1"}
    assert known <= set(index.columns)
    assert {Path(scene).name for scene in index.scene} == {"scene.tif"}
    assert index.crs.to_epsg() == 32617
    assert (index.valid == 1).all()
    for tile in index.itertuples():
        window = Window(tile.col_off, tile.row_off, tile.width, tile.height)
        with rasterio.open(run.scene) as scene:
            assert box(*scene.window_bounds(window)).equals(tile.geometry)
        codes = read(run.dataset / "labels" / tile.split / f"{tile.tile}.tif")
        assert tile.labelled == pytest.approx((codes != 255).mean())
        shares = [tile.share_1, tile.share_2, tile.share_3]
        assert shares == pytest.approx([(codes == code).sum() / (codes != 255).sum() for code in (1, 2, 3)])


def test_the_index_names_the_block_of_ground_of_every_tile(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene, labels = make_raster("scene.tif", noise(1, 160, 160)), make_raster("labels.tif", striped(160, 160))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 8)
    index = tiles(tmp_path / "dataset")
    outlines = index.dissolve("block").geometry
    assert 20 < len(outlines) < len(index) / 3
    assert (index.groupby("block").split.nunique() == 1).all()
    assert sum(outlines.area) == pytest.approx(outlines.union_all().area), "blocks share no ground"


def test_the_manifest_says_all_that_the_next_stage_needs(run: Any) -> None:
    manifest = yaml.safe_load((run.dataset / "dataset.yaml").read_text("utf-8"))
    assert [entry["code"] for entry in manifest["taxonomy"]["classes"]] == [1, 2, 3]
    assert [band["name"] for band in manifest["bands"]] == ["red", "green", "blue"]
    assert manifest["dtype"] == "uint8"
    assert manifest["gsd_m"] == 30
    assert isinstance(manifest["version"], int)
    splits = files(run.dataset).values()
    assert manifest["tiles"] == {split: list(splits).count(split) for split in SPLITS}


def test_the_manifest_keeps_the_command_as_it_could_be_typed_again(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_raster("my scene.tif", noise(3, 20, 20))
    make_raster("labels.tif", striped(20, 20))
    typed = ["tile", "my scene.tif", "--labels", "labels.tif", "-o", "dataset", "--size", "32"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/cwsam", *typed])
    cwsam(*typed)
    manifest = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))
    assert shlex.split(manifest["command"]) == ["cwsam", *typed]


def test_mean_and_std_are_those_of_the_training_pixels(run: Any) -> None:
    manifest = yaml.safe_load((run.dataset / "dataset.yaml").read_text("utf-8"))
    shown = np.zeros((160, 200), bool)  # ground that two tiles show counts once
    for tile in tiles(run.dataset).query("split == 'train'").itertuples():
        shown[tile.row_off : tile.row_off + 32, tile.col_off : tile.col_off + 32] = True
    values = read(run.scene)[:, shown]
    assert [band["mean"] for band in manifest["bands"]] == pytest.approx(values.mean(axis=1))
    assert [band["std"] for band in manifest["bands"]] == pytest.approx(values.std(axis=1))


def test_nodata_never_enters_the_statistics(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    values = np.full((1, 64, 64), -3.4e38, np.float32)
    values[:, :, :40] = noise(1, 64, 40)
    values[:, 5, 5] = np.nan
    scene = make_raster("scene.tif", values, nodata=-3.4e38)
    labels = make_raster("labels.tif", striped(64, 64))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64, "--split", 100, 0, 0)
    (band,) = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["bands"]
    valid = values[0][np.isfinite(values[0]) & (values[0] > -1e38)]
    assert band["mean"] == pytest.approx(valid.mean(dtype=float))
    assert band["std"] == pytest.approx(valid.std(dtype=float), rel=1e-5)
    codes = mosaic(tmp_path / "dataset", 64, 64)
    assert (codes[:, 40:] == 255).all() and codes[5, 5] == 255, "ground that the scene does not show has no label"
    (tile,) = tiles(tmp_path / "dataset").itertuples()
    assert tile.valid == pytest.approx(valid.size / 64**2)


def test_the_result_as_json_is_one_object(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    result = cwsam("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32, "--json")
    told = json.loads(result.stdout)
    assert told["tiles"] == yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["tiles"]


# Pixels


@pytest.mark.parametrize(
    "transform",
    [
        from_origin(600_000.123456789, 4_000_000.987654321, 28.500000001, 28.499999999),
        Affine(30, 0, 600_000, 0, 30, 3_990_000),
        Affine.translation(600_000, 4_000_000) @ Affine.rotation(17) @ Affine.scale(10, -12),
    ],
    ids=["long digits", "south up", "rotated"],
)
@pytest.mark.parametrize("overlap", [0, 7])
def test_a_tile_is_its_window_of_the_scene_to_the_last_digit(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, transform: Affine, overlap: int
) -> None:
    image, codes = noise(2, 83, 131, "uint16", 1, 60_000), striped(83, 131)
    scene = make_raster("scene.tif", image, transform=transform)
    labels = make_raster("labels.tif", codes, transform=transform)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 24, "--overlap", overlap)
    split_of = files(tmp_path / "dataset")
    index = tiles(tmp_path / "dataset").set_index("tile")
    for name, split in split_of.items():
        tile = index.loc[Path(name).stem]
        rows, cols = slice(tile.row_off, tile.row_off + 24), slice(tile.col_off, tile.col_off + 24)
        for kind, whole in (("images", image), ("labels", codes[None])):
            with rasterio.open(tmp_path / "dataset" / kind / split / name) as source:
                assert source.shape == (24, 24)
                assert source.crs.to_epsg() == 32617
                assert source.transform == window_transform(Window(tile.col_off, tile.row_off, 24, 24), transform)
                assert source.dtypes[0] == whole.dtype
                found = source.read()
            expected = whole[:, rows, cols]
            same = found == expected
            assert (same | (found == 255)).all() if kind == "labels" else same.all()


def test_together_the_tiles_show_all_the_ground_but_the_seams_of_the_splits(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path
) -> None:
    codes = striped(200, 300)
    scene, labels = make_raster("scene.tif", noise(3, 200, 300)), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 24, "--buffer", 0)
    found = mosaic(tmp_path / "dataset", 200, 300)
    assert ((found == codes) | (found == 255)).all()
    assert (found == codes).mean() > 0.9


@pytest.mark.parametrize("overlap", [0, 11])
def test_held_out_ground_is_counted_once(cwsam: Cwsam, make_raster: Any, tmp_path: Path, overlap: int) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 150, 210)), make_raster("labels.tif", striped(150, 210))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 24, "--overlap", overlap)
    counted = np.zeros((150, 210), int)
    for tile in tiles(tmp_path / "dataset").itertuples():
        if tile.split != "train":
            codes = read(tmp_path / "dataset" / "labels" / tile.split / f"{tile.tile}.tif")[0]
            counted[tile.row_off : tile.row_off + 24, tile.col_off : tile.col_off + 24] += codes != 255
    assert counted.max() == 1


def labelled(dataset: Path, split: str, height: int, width: int) -> Any:
    """How many tiles of a split label each pixel."""
    times = np.zeros((height, width), int)
    for tile in tiles(dataset).query("split == @split").itertuples():
        codes = read(dataset / "labels" / split / f"{tile.tile}.tif")[0]
        times[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width] += codes != 255
    return times


def test_without_an_overlap_no_label_of_the_training_ground_stands_twice(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path
) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 376, 357)), make_raster("labels.tif", striped(376, 357))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64)
    times = labelled(tmp_path / "dataset", "train", 376, 357)
    assert times.max() == 1
    whole = np.zeros((376, 357), bool)
    for tile in tiles(tmp_path / "dataset").query("split == 'train'").itertuples():
        whole[tile.row_off : tile.row_off + 64, tile.col_off : tile.col_off + 64] = True
    assert ((times == 1) == whole).all(), "and none is lost"


@pytest.mark.parametrize("overlap", [0, 11, 30])
def test_the_manifest_counts_every_labelled_pixel_once(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, overlap: int
) -> None:
    codes = striped(150, 210)
    scene, labels = make_raster("scene.tif", noise(3, 150, 210)), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 48, "--overlap", overlap)
    told = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["pixels"]
    for split in SPLITS:
        different = codes[labelled(tmp_path / "dataset", split, 150, 210) > 0]
        assert told[split] == [(different == code).sum() for code in (1, 2, 3)]


def test_training_tiles_share_the_labels_of_no_more_pixels_than_asked_for(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path
) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 32, 101)), make_raster("labels.tif", striped(32, 101))
    common = ("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 100, 0, 0)
    cwsam(*common, "--overlap", 5)
    times = labelled(tmp_path / "dataset", "train", 32, 101)
    seams = np.flatnonzero(np.diff((times[0] > 1).astype(int), prepend=0, append=0)).reshape(-1, 2)
    assert times.min() == 1 and len(seams) > 0
    assert set(np.diff(seams).ravel().tolist()) == {5}


@pytest.mark.parametrize(("overlap", "seed"), [(0, 0), (0, 1), (11, 0), (19, 5)])
def test_no_ground_is_in_two_splits(cwsam: Cwsam, make_raster: Any, tmp_path: Path, overlap: int, seed: int) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 150, 210)), make_raster("labels.tif", striped(150, 210))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 24, "--overlap", overlap, "--seed", seed)
    index = tiles(tmp_path / "dataset")
    assert set(index.split) == set(SPLITS)
    shown = np.zeros((150, 210), int)
    for split in SPLITS:
        footprints = index[index.split == split].geometry
        shown += rasterize(footprints, out_shape=shown.shape, transform=from_origin(WEST, NORTH, PIXEL, PIXEL))
    assert shown.max() == 1


def test_two_scenes_of_the_same_ground_agree_on_its_split(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    labels = make_raster("labels.tif", striped(150, 210))
    scenes = [
        make_raster("a.tif", noise(3, 150, 150)),
        make_raster("b.tif", noise(3, 150, 150), transform=from_origin(WEST + 60 * PIXEL, NORTH, PIXEL, PIXEL)),
    ]
    cwsam("tile", *scenes, "--labels", labels, "-o", "dataset", "--size", 24)
    files(tmp_path / "dataset")
    index = tiles(tmp_path / "dataset")
    assert {Path(scene).name for scene in index.scene} == {"a.tif", "b.tif"}
    shown = np.zeros((150, 210), int)
    for split in SPLITS:
        footprints = index[index.split == split].geometry
        shown += rasterize(footprints, out_shape=shown.shape, transform=from_origin(WEST, NORTH, PIXEL, PIXEL))
    assert shown.max() == 1


def test_the_shares_of_the_split_are_about_those_asked_for(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene, labels = make_raster("scene.tif", noise(1, 256, 256)), make_raster("labels.tif", striped(256, 256))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16, "--split", 60, 20, 20)
    split = Counter(files(tmp_path / "dataset").values())
    shares = [split[name] / split.total() for name in SPLITS]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.1)


def test_without_validation_ground_there_is_none(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    cwsam("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32, "--split", 80, 0, 20)
    assert set(files(tmp_path / "dataset").values()) == {"train", "test"}


@pytest.mark.parametrize("nodata", [0, None])
def test_a_scene_smaller_than_a_tile_gives_one_padded_tile(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, nodata: int | None
) -> None:
    image, codes = noise(3, 10, 17), striped(10, 17, classes=2)
    scene, labels = make_raster("scene.tif", image, nodata=nodata), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32)
    ((name, split),) = files(tmp_path / "dataset").items()
    assert split == "train"
    padded = read(tmp_path / "dataset" / "labels" / split / name)[0]
    assert padded.shape == (32, 32)
    assert (padded[:10, :17] == codes).all()
    assert (padded[10:] == 255).all() and (padded[:, 17:] == 255).all()
    with rasterio.open(tmp_path / "dataset" / "images" / split / name) as tile, rasterio.open(scene) as whole:
        assert tile.transform == whole.transform
        assert (tile.read()[:, :10, :17] == image).all()
        valid = tile.dataset_mask() > 0
        assert valid[:10, :17].all() and valid.sum() == 170, "what is padded is nodata"


def test_a_scene_narrower_than_a_tile_is_padded_on_one_side_only(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path
) -> None:
    codes = striped(70, 20)
    scene, labels = make_raster("scene.tif", noise(3, 70, 20)), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 100, 0, 0)
    assert (mosaic(tmp_path / "dataset", 70, 20) == codes).all()


def test_tiles_without_a_valid_labelled_pixel_are_skipped(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    codes, image = striped(96, 96), noise(3, 96, 96)
    codes[:, :48] = 255
    image[:, 48:] = 0
    image[:, 50, 90] = 1  # one valid pixel is enough
    scene, labels = make_raster("scene.tif", image, nodata=0), make_raster("labels.tif", codes, nodata=255)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 8)
    files(tmp_path / "dataset")
    index = tiles(tmp_path / "dataset")
    assert len(index) >= 1
    for tile in index.itertuples():
        codes = read(tmp_path / "dataset" / "labels" / tile.split / f"{tile.tile}.tif")
        assert (codes != 255).any()
        assert tile.row_off <= 50 and tile.col_off + 8 > 48


def test_the_same_seed_gives_the_same_dataset(cwsam: Cwsam, run: Any, tmp_path: Path, snapshot: Any) -> None:
    for name in ("once", "again"):
        cwsam("tile", run.scene, "--labels", run.labels, "-o", name, "--size", 32, "--seed", 3)
    once, again = snapshot(tmp_path / "once"), snapshot(tmp_path / "again")
    for dated in ("tiles.gpkg", "dataset.yaml"):
        del once[dated], again[dated]
    assert once == again
    assert tiles(tmp_path / "once").equals(tiles(tmp_path / "again"))
    manifests = [yaml.safe_load((tmp_path / name / "dataset.yaml").read_text("utf-8")) for name in ("once", "again")]
    assert manifests[0].pop("command").replace("once", "again") == manifests[1].pop("command")
    assert manifests[0] == manifests[1]


def test_another_seed_gives_another_split(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    for seed in range(3):
        cwsam("tile", run.scene, "--labels", run.labels, "-o", f"seed{seed}", "--size", 32, "--seed", seed)
    assert len({json.dumps(files(tmp_path / f"seed{seed}"), sort_keys=True) for seed in range(3)}) > 1


def test_overwriting_replaces_the_dataset_whole(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    cwsam("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 16)
    many = files(tmp_path / "dataset")
    cwsam("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 64, "--overwrite")
    few = files(tmp_path / "dataset")
    assert len(few) < len(many) and not set(few) - set(files(tmp_path / "dataset"))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize("mine", ["train: images/train\nnames: {0: cat}", "[" * 5000, "9" * 5000, "dataset"])
def test_only_a_dataset_of_this_program_is_overwritten(
    make_raster: Any, tmp_path: Path, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scene, labels = make_raster("scene.tif", noise(3, 20, 20)), make_raster("labels.tif", striped(20, 20))
    command = ["tile", str(scene), "--labels", str(labels), "-o", "dataset", "--size", "32", "--overwrite"]
    if mine == "dataset":
        assert CliRunner().invoke(app, command).exit_code == 0
        (tmp_path / "dataset" / "thesis.odt").write_text("years of work")
    else:
        (tmp_path / "dataset" / "images").mkdir(parents=True)
        (tmp_path / "dataset" / "dataset.yaml").write_text(mine)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and ("thesis.odt" if mine == "dataset" else "cwsam tile") in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("how", ["value", "mask", "alpha", "nan"])
def test_a_tile_knows_the_scenes_nodata(cwsam: Cwsam, make_raster: Any, tmp_path: Path, how: str) -> None:
    image, valid = noise(3, 64, 64), np.ones((64, 64), bool)
    valid[5:20, 9:40] = valid[:, 60:] = False
    if how == "value":
        scene = make_raster("scene.tif", np.where(valid, image, 0).astype(np.uint8), nodata=0)
    elif how == "mask":
        scene = make_raster("scene.tif", image, mask=(valid * 255).astype(np.uint8))
    elif how == "alpha":
        alpha = (valid * 255).astype(np.uint8)[None]
        scene = make_raster("scene.tif", np.concatenate([image, alpha]), photometric="RGB", alpha="YES")
    else:
        scene = make_raster("scene.tif", np.where(valid, image, np.nan).astype(np.float32))
    labels = make_raster("labels.tif", striped(64, 64))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 100, 0, 0)
    for tile in tiles(tmp_path / "dataset").itertuples():
        window = slice(tile.row_off, tile.row_off + 32), slice(tile.col_off, tile.col_off + 32)
        assert tile.valid == pytest.approx(valid[window].mean())
        codes = read(tmp_path / "dataset" / "labels" / "train" / f"{tile.tile}.tif")[0]
        assert ((codes == 255) == ~valid[window]).all()
        with rasterio.open(tmp_path / "dataset" / "images" / "train" / f"{tile.tile}.tif") as source:
            assert source.count == 3
            known = (source.dataset_mask() > 0) & np.isfinite(source.read()).all(axis=0)
            assert (known == valid[window]).all()
            assert (source.read()[:, valid[window]] == image[:, *window][:, valid[window]]).all()


# Labels


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:32618"])
def test_labels_on_another_grid_are_brought_onto_the_scenes_nearest_neighbour(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, crs: str
) -> None:
    scene = make_raster("scene.tif", noise(3, 96, 96))
    with rasterio.open(scene) as source:
        west, _south, east, north = transform_bounds(source.crs, crs, *source.bounds)
    step = (east - west) / 130
    # Labels end inside the scene on its right-hand side.
    fine = np.random.default_rng(3).integers(1, 6, (160, 90)).repeat(1, 0).astype(np.uint8)
    grid = from_origin(west - 3.3 * step, north + 3.3 * step, step, step)
    labels = make_raster("labels.tif", fine, crs=crs, transform=grid, nodata=255)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 96, "--split", 100, 0, 0)
    found = mosaic(tmp_path / "dataset", 96, 96)
    expected = np.full((96, 96), 255, np.uint8)
    reproject(
        fine,
        expected,
        src_transform=grid,
        src_crs=crs,
        dst_transform=from_origin(WEST, NORTH, PIXEL, PIXEL),
        dst_crs="EPSG:32617",
        src_nodata=255,
        dst_nodata=255,
        resampling=Resampling.nearest,
        tolerance=0,
    )
    assert (found[:, -5:] == 255).all()
    assert (found == expected).mean() > 0.98  # a warp may approximate its arithmetic by an eighth of a pixel


def test_a_datum_of_another_name_on_the_same_grid_moves_nothing(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    codes = striped(64, 64)
    grid = from_origin(629_980, 228_527.25, 28.5, 28.5)
    scene = make_raster("scene.tif", noise(3, 64, 64), crs="EPSG:32119", transform=grid)
    labels = make_raster("labels.tif", codes, crs="EPSG:3358", transform=grid)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64, "--split", 100, 0, 0)
    assert (mosaic(tmp_path / "dataset", 64, 64) == codes).all()


def test_coarse_labels_cover_all_the_pixels_below_them(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    coarse = np.random.default_rng(1).integers(1, 4, (8, 8)).astype(np.uint8)
    scene = make_raster("scene.tif", noise(3, 64, 64))
    labels = make_raster("labels.tif", coarse, transform=from_origin(WEST, NORTH, PIXEL * 8, PIXEL * 8))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64, "--split", 100, 0, 0)
    assert (mosaic(tmp_path / "dataset", 64, 64) == coarse.repeat(8, 0).repeat(8, 1)).all()


def test_whole_numbers_in_a_float_raster_are_codes(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    codes = striped(64, 64).astype(np.float32)
    codes[:8] = -99_999
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("labels.tif", codes, nodata=-99_999)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64, "--split", 100, 0, 0)
    found = mosaic(tmp_path / "dataset", 64, 64)
    assert (found[:8] == 255).all() and (found[8:] == codes[8:]).all()


def test_labels_without_a_crs_are_taken_where_their_pixels_coincide(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path
) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("labels.tif", striped(64, 64), crs=None)
    result = cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64)
    assert "warning:" in result.stderr and "labels.tif" in result.stderr


def test_codes_without_a_class_may_be_named_in_the_table(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text('classes: [{code: 2, name: a, color: "#ff0000"}]\nunlabelled: [1, 3]')
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32)
    cwsam(*common, "--classes", "some.yaml", "--split", 100, 0, 0)
    with rasterio.open(run.labels) as source:
        codes = source.read(1)
    assert (mosaic(tmp_path / "dataset", 160, 200) == np.where(codes == 2, 2, 255)).all()


def test_the_class_table_may_come_from_the_labels_palette(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("labels.tif", striped(64, 64))
    with rasterio.open(labels, "r+") as target:
        target.write_colormap(1, {1: (255, 0, 0, 255), 2: (0, 255, 0, 255), 3: (1, 2, 3, 255)})
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64)
    classes = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["taxonomy"]["classes"]
    assert [(entry["code"], entry["color"]) for entry in classes] == [(1, "#ff0000"), (2, "#00ff00"), (3, "#010203")]


def test_the_class_table_may_come_from_the_labels_own_names(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("labels.tif", striped(64, 64))
    names = "".join(f"<Category>{name}</Category>" for name in ("", "水体", "林地", "草地"))
    labels.with_name("labels.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand></PAMDataset>',
        "utf-8",
    )
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64)
    classes = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["taxonomy"]["classes"]
    assert {entry["code"]: entry["name"] for entry in classes} == {1: "水体", 2: "林地", 3: "草地"}


def test_a_shipped_class_table_is_found_by_its_name(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32)
    cwsam(*common, "--classes", "nc_landclass96")
    classes = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["taxonomy"]["classes"]
    assert [entry["name"] for entry in classes][:3] == ["developed", "agriculture", "herbaceous"] and len(classes) == 7
    assert {"share_1", "share_7"} <= set(tiles(tmp_path / "dataset").columns)


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326"])
def test_polygons_are_burned_by_the_pixel_centre_rule(cwsam: Cwsam, make_raster: Any, tmp_path: Path, crs: str) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    slanted = [(5.3, 4.1), (40.7, 9.9), (33.2, 50.6), (8.8, 44.4)]
    shapes = [
        Polygon([(WEST + x * PIXEL, NORTH - y * PIXEL) for x, y in slanted]),
        pixels(45.4, 10.6, 60.6, 30.4),
        pixels(63, 63, 63.4, 63.4),  # covers no pixel's centre
    ]
    labels = polygons(tmp_path / "fields.gpkg", [3, 7, 7], *shapes, crs=crs)
    cwsam("tile", scene, "--labels", labels, "--class-field", "kind", "-o", "dataset", "--size", 64)
    expected = rasterize(
        zip(shapes, (3, 7, 7), strict=True),
        out_shape=(64, 64),
        transform=from_origin(WEST, NORTH, PIXEL, PIXEL),
        fill=255,
        dtype="uint8",
    )
    found = mosaic(tmp_path / "dataset", 64, 64)
    assert set(np.unique(found)) == {3, 7, 255}
    # A polygon's straight edge is a hair's breadth curved in another CRS.
    assert (found == expected).all() if crs == "EPSG:32617" else (found == expected).mean() > 0.998


def test_polygons_may_name_their_classes_in_any_script(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    shapes = [pixels(0, 0, 20, 64), pixels(20, 0, 40, 64), pixels(40, 0, 50, 64)]
    labels = polygons(tmp_path / "地块.gpkg", ["水体", "林地", "水体"], *shapes)
    (tmp_path / "classes.yaml").write_text(
        'classes: [{code: 24, name: 水体, color: "#0000ff"}, {code: 5, name: 林地, color: "#00ff00"}]', "utf-8"
    )
    common = ("tile", scene, "--labels", labels, "--class-field", "kind", "--size", 64, "--split", 100, 0, 0)
    cwsam(*common, "-o", "named", "--classes", "classes.yaml")
    expected = np.full((64, 64), 255)
    expected[:, :20], expected[:, 20:40], expected[:, 40:50] = 24, 5, 24
    assert (mosaic(tmp_path / "named", 64, 64) == expected).all()
    cwsam(*common, "-o", "plain")
    text = (tmp_path / "plain" / "dataset.yaml").read_text("utf-8")
    assert "水体" in text, "readable, not escaped"
    classes = {entry["name"]: entry["code"] for entry in yaml.safe_load(text)["taxonomy"]["classes"]}
    found = mosaic(tmp_path / "plain", 64, 64)
    assert (found[:, :20] == classes["水体"]).all() and (found[:, 20:40] == classes["林地"]).all()


def test_polygons_of_the_same_class_may_overlap(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    labels = polygons(
        tmp_path / "f.gpkg", [1, 1, 2], pixels(0, 0, 30, 64), pixels(20, 0, 40, 64), pixels(40, 0, 64, 64)
    )
    cwsam("tile", scene, "--labels", labels, "--class-field", "kind", "-o", "dataset", "--size", 64)
    found = mosaic(tmp_path / "dataset", 64, 64)
    assert (found[:, :40] == 1).all() and (found[:, 40:] == 2).all()


def test_overlaps_that_hold_no_pixel_centre_are_none(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    labels = polygons(tmp_path / "f.gpkg", [1, 2], pixels(0, 0, 30.4, 64), pixels(30, 0, 64, 64))
    cwsam("tile", scene, "--labels", labels, "--class-field", "kind", "-o", "dataset", "--size", 64)
    found = mosaic(tmp_path / "dataset", 64, 64)
    assert (found[:, :30] == 1).all() and (found[:, 30:] == 2).all()


# Several scenes


def test_several_scenes_share_one_label_raster(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    codes = striped(64, 160)
    labels = make_raster("labels.tif", codes)
    left = make_raster("left.tif", noise(3, 64, 64))
    right = make_raster("right.tif", noise(3, 64, 64), transform=from_origin(WEST + 96 * PIXEL, NORTH, PIXEL, PIXEL))
    cwsam("tile", left, right, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 100, 0, 0)
    files(tmp_path / "dataset")
    index = tiles(tmp_path / "dataset")
    assert Counter(Path(scene).name for scene in index.scene) == {"left.tif": 4, "right.tif": 4}
    for tile in index.itertuples():
        start = tile.col_off + (96 if Path(tile.scene).name == "right.tif" else 0)
        found = read(tmp_path / "dataset" / "labels" / tile.split / f"{tile.tile}.tif")[0]
        assert (found == codes[tile.row_off : tile.row_off + 32, start : start + 32]).all()


def test_a_folder_of_labels_pairs_with_the_scenes_by_name(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    for name, code in (("a", 1), ("b", 2)):
        make_raster(f"images/{name}.tif", noise(3, 64, 64))
        make_raster(f"labels/{name}.tif", np.full((64, 64), code, np.uint8))
    scenes = sorted((tmp_path / "images").glob("*.tif"))
    cwsam("tile", *scenes, "--labels", "labels", "-o", "dataset", "--size", 32, "--split", 100, 0, 0)
    files(tmp_path / "dataset")
    for tile in tiles(tmp_path / "dataset").itertuples():
        found = read(tmp_path / "dataset" / "labels" / tile.split / f"{tile.tile}.tif")
        assert (found == {"a.tif": 1, "b.tif": 2}[Path(tile.scene).name]).all()


def test_scenes_of_one_name_in_two_folders_stay_apart(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    labels = make_raster("labels.tif", striped(64, 128))
    scenes = [
        make_raster("2001/scene.tif", noise(3, 64, 64)),
        make_raster("2002/scene.tif", noise(3, 64, 64), transform=from_origin(WEST + 64 * PIXEL, NORTH, PIXEL, PIXEL)),
    ]
    cwsam("tile", *scenes, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 100, 0, 0)
    assert len(files(tmp_path / "dataset")) == 8


@pytest.mark.parametrize("how", ["folder", "pattern", "list", "vrt", "jpeg2000"])
def test_scenes_come_from_every_source_that_predict_reads(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, how: str
) -> None:
    image, codes = noise(3, 64, 64), striped(64, 128)
    make_raster("scenes/a.tif", image)
    make_raster("scenes/b.tif", image, transform=from_origin(WEST + 64 * PIXEL, NORTH, PIXEL, PIXEL))
    (tmp_path / "list.txt").write_text("scenes/a.tif\nscenes/b.tif\n", "utf-8")
    if how in ("vrt", "jpeg2000"):
        (tmp_path / "other").mkdir()
        suffix, driver = ("vrt", "VRT") if how == "vrt" else ("jp2", "JP2OpenJPEG")
        for name in "ab":
            target, source = (tmp_path / "other" / f"{name}.{suffix}", tmp_path / "scenes" / f"{name}.tif")
            rasterio.shutil.copy(
                source, target, driver=driver, **({"QUALITY": 100, "REVERSIBLE": "YES"} if suffix == "jp2" else {})
            )
    source = {"folder": "scenes", "pattern": "scenes/*.tif", "list": "list.txt"}.get(how, "other")
    labels = make_raster("labels.tif", codes)
    cwsam("tile", source, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 100, 0, 0)
    index = tiles(tmp_path / "dataset")
    assert Counter(Path(scene).stem for scene in index.scene) == {"a": 4, "b": 4}
    for tile in index.itertuples():
        found = read(tmp_path / "dataset" / "images" / "train" / f"{tile.tile}.tif")
        assert (found == image[:, tile.row_off : tile.row_off + 32, tile.col_off : tile.col_off + 32]).all()


@pytest.mark.parametrize("bands", ["3,1", "blue, red"])
def test_bands_are_chosen_by_number_or_name_in_the_order_of_use(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, bands: str
) -> None:
    image = noise(3, 32, 32)
    scene, labels = make_raster("scene.tif", image, photometric="RGB"), make_raster("labels.tif", striped(32, 32))
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32, "--bands", bands)
    (name,) = files(tmp_path / "dataset")
    assert (read(tmp_path / "dataset" / "images" / "train" / name) == image[[2, 0]]).all()
    manifest = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))
    assert [band["name"] for band in manifest["bands"]] == ["blue", "red"]


def test_an_unknown_band_is_refused(refused: Any, make_raster: Any) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 32, 32)), make_raster("labels.tif", striped(32, 32))
    refused(4, "tile", scene, "--labels", labels, "-o", "dataset", "--bands", "1,nir", names="no band `nir`")


def test_a_configuration_sets_the_default_size(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    scene, labels = make_raster("scene.tif", noise(1, 130, 130)), make_raster("labels.tif", striped(130, 130))
    assert "of 128 × 128 pixels" in cwsam("tile", scene, "--labels", labels, "-o", "tiny", "--config", "tiny").stdout
    common = ("tile", scene, "--labels", labels, "-o", "small", "--config", "tiny", "--size", 64)
    assert "of 64 × 64 pixels" in cwsam(*common).stdout


def test_progress_and_warnings_keep_off_stdout(cwsam: Cwsam, make_raster: Any) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 20, 20)), make_raster("labels.tif", striped(20, 20))
    result = cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32)
    assert re.match(r"dataset: 1 train, 0 val, 0 test tiles .*\n", result.stdout)
    assert "warning" not in result.stdout
    assert "warning:" in result.stderr and "val and test" in result.stderr


@pytest.mark.parametrize("labels", ["folder", "polygons.gpkg"])
def test_files_are_open_only_while_they_are_read(cwsam: Cwsam, make_raster: Any, tmp_path: Path, labels: str) -> None:
    for number in range(40):
        place = from_origin(WEST + 16 * PIXEL * number, NORTH, PIXEL, PIXEL)
        make_raster(f"images/{number:02}.tif", noise(1, 16, 16), transform=place)
        make_raster(f"folder/{number:02}.tif", striped(16, 16), transform=place)
    polygons(tmp_path / "polygons.gpkg", [1, 2], pixels(0, 0, 640, 8), pixels(0, 8, 640, 16))
    scenes = sorted((tmp_path / "images").glob("*.tif"))
    field = ("--class-field", "kind") if labels == "polygons.gpkg" else ()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 25, most[1]))
    try:
        cwsam("tile", *scenes, "--labels", labels, *field, "-o", "dataset", "--size", 16, "--buffer", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    assert len(files(tmp_path / "dataset")) == 40


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99, 1.0])
def test_a_disk_that_is_full_within_a_tile_is_told(
    cwsam: Cwsam, refused: Any, make_raster: Any, tmp_path: Path, share: float
) -> None:
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("labels.tif", striped(64, 64))
    command = ("tile", scene, "--labels", labels, "--size", 64, "--split", 100, 0, 0)
    cwsam(*command, "-o", "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*.tif"))
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * (largest - 1)), limits[1]))
    try:
        refused(6, *command, "-o", "dataset", names=".tif` could not be written whole")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "dataset").exists() and not list(tmp_path.glob(".*"))


# Options of vector labels


def codes_of_features(tmp_path: Path, cwsam: Cwsam, make_raster: Any, labels: Any, *options: Any) -> Any:
    """Tile a scene of 64 × 64 pixels with vector labels; returns the codes."""
    scene = make_raster("scene.tif", noise(3, 64, 64))
    common = ("--class-field", "kind", "-o", "dataset", "--size", 64, "--split", 100, 0, 0)
    cwsam("tile", scene, "--labels", labels, *common, *options)
    return mosaic(tmp_path / "dataset", 64, 64)


def test_where_and_priority_choose_features_and_their_order(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    shapes = [pixels(0, 0, 40, 64), pixels(20, 0, 64, 30), pixels(0, 0, 64, 64)]
    labels = polygons(tmp_path / "f.gpkg", ["forest", "road", "cloud"], *shapes)
    options = ("--where", "kind <> 'cloud'", "--priority", "road, forest")
    found = codes_of_features(tmp_path, cwsam, make_raster, labels, *options)
    assert (found[:30, 20:] == 2).all() and (found[30:, :40] == 1).all() and (found[30:, 40:] == 255).all()


def test_a_layer_of_several_is_named_or_the_one_with_the_field(
    cwsam: Cwsam, refused: Any, make_raster: Any, tmp_path: Path
) -> None:
    path = tmp_path / "many.gpkg"
    for code, name in ((1, "old"), (2, "new")):
        frame = gpd.GeoDataFrame({"kind": [code]}, geometry=[pixels(0, 0, 64, 64)], crs="EPSG:32617")
        frame.to_file(path, layer=name)
    frame.rename(columns={"kind": "other"}).to_file(path, layer="third")
    found = codes_of_features(tmp_path, cwsam, make_raster, f"{path}:new", "--overwrite")
    assert (found == 2).all()
    common = ("tile", tmp_path / "scene.tif", "-o", "more", "--labels")
    assert f"--labels {path}:old or" in refused(2, *common, path, "--class-field", "kind", names="several layers")
    assert "old, new, third" in refused(4, *common, f"{path}:x", "--class-field", "kind", names="no layer `x`")
    assert "kind (layer old)" in refused(4, *common, path, "--class-field", "none", names="no field `none`")
    cwsam(*common, path, "--class-field", "other", "--size", 64)


def test_lines_and_points_label_the_ground_within_the_buffer(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    line = pixels(0, 20.5, 64, 40.5).boundary
    found = codes_of_features(
        tmp_path, cwsam, make_raster, polygons(tmp_path / "f.gpkg", [3], line), "--label-buffer", "0.075km"
    )
    assert (found[18:23, 5:60] == 3).all() and (found[26:36, 5:58] == 255).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--label-buffer", "5"), "--label-buffer `5` is not a size"),
        (("--label-buffer", "2px"), "--label-buffer `2px` is not a size"),
        (("--priority", "road,lava"), "--priority `lava` is no class"),
        (("--priority", "road,2"), "names a class twice"),
        (("--where", "colour = 3"), "--where `colour = 3`"),
    ],
)
def test_options_of_features_that_cannot_be_meant_are_refused(
    refused: Any, make_raster: Any, tmp_path: Path, options: Any, told: str
) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    labels = polygons(tmp_path / "f.gpkg", ["forest", "road"], pixels(0, 0, 20, 64), pixels(20, 0, 40, 64))
    refused(2, "tile", scene, "--labels", labels, "--class-field", "kind", "-o", "dataset", *options, names=told)


@pytest.mark.parametrize(
    "option",
    [("--where", "a = 1"), ("--priority", "a"), ("--all-touched",), ("--label-buffer", "5m"), ("--class-field", "a")],
)
def test_options_of_features_are_refused_for_rasters(refused: Any, run: Any, option: Any) -> None:
    refused(2, "tile", run.scene, "--labels", run.labels, "-o", "dataset", *option, names=option[0])


def test_touched_pixels_are_labelled_if_wanted(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    labels = polygons(tmp_path / "f.gpkg", [3], pixels(10.6, 10.6, 20.4, 20.4))
    found = codes_of_features(tmp_path, cwsam, make_raster, labels, "--all-touched")
    assert (found[10:21, 10:21] == 3).all() and (found == 3).sum() == 121


# Values that are no codes


NLCD = """
classes:
  - {code: 1, name: Water, color: "#476ba0", from: [11, 12]}
  - {code: 2, name: Forest, color: "#68aa63", from: [41, 42, 43]}
"""


def test_values_of_the_table_become_their_classes(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    values = np.array([11, 12, 41, 42, 43, -9999])[striped(64, 64, classes=6) - 1].astype(np.int16)
    (tmp_path / "nlcd.yaml").write_text(NLCD + "unlabelled: [-9999]")
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("labels.tif", values)
    cwsam("tile", scene, "--labels", labels, "--classes", "nlcd.yaml", "-o", "dataset", "--size", 64)
    expected = np.array([1, 1, 2, 2, 2, 255])[striped(64, 64, classes=6) - 1]
    assert (mosaic(tmp_path / "dataset", 64, 64) == expected).all()
    written = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))
    assert [entry["code"] for entry in written["taxonomy"]["classes"]] == [1, 2]


def test_unexpected_values_are_listed_with_the_lines_that_admit_them(
    cwsam: Cwsam, refused: Any, make_raster: Any, tmp_path: Path
) -> None:
    values = striped(64, 64).astype(np.int32) * 10  # 10, 20, 30
    values[0, :5], values[1, :2] = -1, 70_000
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("labels.tif", values)
    common = ("tile", scene, "--labels", labels, "-o", "dataset", "--size", 64, "--classes", "table.yaml")
    table = tmp_path / "table.yaml"
    table.write_text('classes:\n  - {code: 10, name: a, color: "#ff0000"}\n  - {code: 20, name: b, color: "#00ff00"}\n')
    error = refused(4, *common, names="labels.tif")
    assert "30 (1,024 pixels), -1 (5 pixels), 70000 (2 pixels)" in error
    (unlabelled,) = re.findall(r"^unlabelled: .*$", error, re.MULTILINE)
    entries = re.findall(r"^  - {.*}$", error, re.MULTILINE)
    before = table.read_text()
    table.write_text(before + entries[0] + "\n" + unlabelled.replace("30", "0") + "\n")
    cwsam(*common)
    expected = np.select([values == 10, values == 20, values == 30], [10, 20, 30], 255)
    assert (mosaic(tmp_path / "dataset", 64, 64) == expected).all()
    table.write_text(before + "\n".join(entries) + "\n")
    cwsam(*common, "--overwrite")
    expected = np.select([expected != 255, values == -1], [expected, 1], 2)
    assert (mosaic(tmp_path / "dataset", 64, 64) == expected).all()


def test_values_without_a_table_are_listed_with_a_table_that_admits_them(
    refused: Any, make_raster: Any, tmp_path: Path
) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    labels = make_raster("labels.tif", striped(64, 64).astype(np.int16) * 111)
    error = refused(4, "tile", scene, "--labels", labels, "-o", "dataset", names="333 (1,024 pixels)")
    assert "--classes" in error and "from: [" in error and "unlabelled: [" in error


def test_an_attribute_table_of_wide_values_numbers_the_classes(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    values = np.array([111, 312, 523])[striped(64, 64) - 1].astype(np.uint16)
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("corine.tif", values)
    heads = "".join(
        f"<FieldDefn><Name>{n}</Name><Type>{t}</Type><Usage>{u}</Usage></FieldDefn>"
        for n, t, u in (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    )
    rows = [(111, "urban", 230, 0, 77), (312, "coniferous", 0, 166, 0), (523, "sea", 230, 242, 255)]
    cells = "".join(
        f'<Row index="{i}">' + "".join(f"<F>{cell}</F>" for cell in row) + "</Row>" for i, row in enumerate(rows)
    )
    table = f"<GDALRasterAttributeTable>{heads}{cells}</GDALRasterAttributeTable>"
    sidecar = labels.with_name("corine.tif.aux.xml")
    sidecar.write_text(f'<PAMDataset><PAMRasterBand band="1">{table}</PAMRasterBand></PAMDataset>')
    common = ("tile", scene, "--labels", labels, "--size", 64)
    assert "numbered from 1" in cwsam(*common, "-o", "dataset").stderr
    assert (mosaic(tmp_path / "dataset", 64, 64) == striped(64, 64)).all()
    for number, classes in enumerate((labels, sidecar)):
        cwsam(*common, "-o", f"again{number}", "--classes", classes)
        assert (mosaic(tmp_path / f"again{number}", 64, 64) == striped(64, 64)).all()
    for folder in ("dataset", "again0", "again1"):
        classes = yaml.safe_load((tmp_path / folder / "dataset.yaml").read_text("utf-8"))["taxonomy"]["classes"]
        assert [(entry["code"], entry["name"], entry["color"]) for entry in classes] == [
            (1, "urban", "#e6004d"),
            (2, "coniferous", "#00a600"),
            (3, "sea", "#e6f2ff"),
        ]


def test_colors_are_labels_through_the_table(cwsam: Cwsam, refused: Any, make_raster: Any, tmp_path: Path) -> None:
    (tmp_path / "nlcd.yaml").write_text(NLCD)
    colors = np.array([[0x47, 0x6B, 0xA0], [0x68, 0xAA, 0x63], [0, 0, 1]], np.uint8)
    rgb = np.moveaxis(colors[striped(64, 64, classes=2) - 1], -1, 0)
    scene, labels = make_raster("scene.tif", noise(3, 64, 64)), make_raster("rgb.tif", rgb)
    common = ("tile", scene, "--labels", labels, "--classes", "nlcd.yaml", "-o", "dataset", "--size", 64)
    cwsam(*common)
    assert (mosaic(tmp_path / "dataset", 64, 64) == striped(64, 64, classes=2)).all()
    rgb[:, 3, 3:5] = colors[2][:, None]
    make_raster("rgb.tif", rgb)
    error = refused(4, *common, "--overwrite", names="#000001 (2 pixels)")
    (line,) = re.findall(r"^unlabelled: .*$", error, re.MULTILINE)
    (tmp_path / "nlcd.yaml").write_text(NLCD + line)
    cwsam(*common, "--overwrite")
    assert (mosaic(tmp_path / "dataset", 64, 64) == 255).sum() == 2


# Which labels belong to which scene


@pytest.fixture
def row_of_scenes(make_raster: Any, tmp_path: Path) -> Any:
    """Two scenes side by side, and their codes."""
    codes = striped(32, 64)
    for number, name in enumerate(("a", "b")):
        place = from_origin(WEST + 32 * PIXEL * number, NORTH, PIXEL, PIXEL)
        make_raster(f"scenes/{name}.tif", noise(3, 32, 32), transform=place)
    return sorted((tmp_path / "scenes").glob("*.tif")), codes


def check_row(dataset: Path, codes: Any) -> None:
    found = tiles(dataset)
    assert len(found) == 2
    for tile in found.itertuples():
        start = 32 if Path(tile.scene).stem == "b" else 0
        assert (read(dataset / "labels" / tile.split / f"{tile.tile}.tif")[0] == codes[:, start : start + 32]).all()


def test_scenes_get_the_labels_in_a_folder_that_show_their_ground(
    cwsam: Cwsam, make_raster: Any, row_of_scenes: Any, tmp_path: Path
) -> None:
    scenes, codes = row_of_scenes
    for name, start, stop in (("west", 0, 20), ("middle", 20, 44), ("east", 44, 64)):
        place = from_origin(WEST + start * PIXEL, NORTH, PIXEL, PIXEL)
        make_raster(f"lc/{name}.tif", codes[:, start:stop], transform=place)
    cwsam("tile", *scenes, "--labels", "lc", "-o", "dataset", "--size", 32)
    check_row(tmp_path / "dataset", codes)


def test_labels_are_found_by_a_pattern_and_named_for_a_scene(
    cwsam: Cwsam, refused: Any, make_raster: Any, row_of_scenes: Any, tmp_path: Path
) -> None:
    scenes, codes = row_of_scenes
    make_raster("lc/a_lc.tif", codes[:, :32])
    frame = gpd.GeoDataFrame(
        {"kind": [1, 2, 3] * 3},
        geometry=[pixels(col, 0, col + 8, 32) for col in range(0, 72, 8)],
        crs="EPSG:32617",
    )
    frame.to_file(tmp_path / "fields.gpkg")
    common = ("tile", *scenes, "-o", "dataset", "--size", 32)
    assert "lc/b_lc.tif" in refused(4, *common, "--labels", "lc/{stem}_lc.tif", names="no labels at")
    field = ("--class-field", "kind", "--labels-for", "b=fields.gpkg")
    cwsam(*common, "--labels", "lc/{stem}_lc.tif", *field)
    check_row(tmp_path / "dataset", codes)
    cwsam(*common, "--overwrite", "--labels-for", "a.tif=lc/a_lc.tif", *field)
    check_row(tmp_path / "dataset", codes)
    refused(2, *common, "--overwrite", "--labels-for", "a.tif", names="--labels-for `a.tif`")


def test_labels_without_a_place_are_those_of_a_scene_of_their_size(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path
) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    with rasterio.open(
        tmp_path / "labels.png", "w", driver="PNG", width=64, height=64, count=1, dtype="uint8"
    ) as target:
        target.write(striped(64, 64), 1)
    result = cwsam("tile", scene, "--labels", "labels.png", "-o", "dataset", "--size", 64)
    assert "labels.png` has no CRS; it has as many pixels as the scene" in result.stderr
    assert (mosaic(tmp_path / "dataset", 64, 64) == striped(64, 64)).all()


def test_labels_beside_the_scene_are_told_with_the_offset(refused: Any, make_raster: Any) -> None:
    scene = make_raster("scene.tif", noise(3, 64, 64))
    labels = make_raster("labels.tif", striped(64, 64), crs="EPSG:32618")
    error = refused(4, "tile", scene, "--labels", labels, "-o", "dataset", names="km to the east of the scene's")
    assert "EPSG:32617" in error
