"""`cwsam audit` passes honest datasets and ends with 4 at a leak, whoever made the dataset."""

import json
import shutil
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import yaml
from PIL import Image
from rasterio.transform import from_origin
from typer.testing import CliRunner, Result

from cwsam_cli.main import app

PIXEL = 30


def audit(*arguments: Any) -> Result:
    result = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def dataset(cwsam: Any, make_raster: Any, tmp_path: Path) -> Path:
    """A dataset of `cwsam tile` with a buffer of a tile."""
    image = np.random.default_rng(0).integers(1, 255, (3, 192, 192)).astype(np.uint8)
    codes = np.random.default_rng(1).integers(1, 4, (24, 24)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16)
    return tmp_path / "dataset"


def test_what_tile_wrote_has_no_leak(dataset: Path) -> None:
    result = audit(dataset, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    manifest = yaml.safe_load((dataset / "dataset.yaml").read_text("utf-8"))
    assert found["tiles"] == manifest["tiles"] and found["leaks"] == []
    for pair in found["pairs"]:
        assert pair["shared_m2"] == 0 and pair["nearest_m"] >= 16 * PIXEL
        assert pair["duplicates"] == pair["near_duplicates"] == 0
    for entry, *pixels in zip(found["classes"], *manifest["pixels"].values(), strict=True):
        assert list(entry["pixels"].values()) == pixels
        assert 2 * PIXEL <= entry["range_m"] <= 14 * PIXEL, "squares of 8 pixels"
        assert entry["correlation_left"] < 0.1
    assert found["flattery"] < 0.1
    assert all(0.8 < share <= 1 for share in found["labelled"].values()), "pixels in two tiles have one label"
    text = audit(dataset).stdout
    assert "no leak found" in text and "train and test" in text and "class 2" in text


def test_a_tile_in_two_splits_is_a_leak(dataset: Path) -> None:
    moved = sorted((dataset / "images" / "train").iterdir())[0]
    for kind in ("images", "labels"):
        shutil.copy(dataset / kind / "train" / moved.name, dataset / kind / "test" / f"copy_{moved.name}")
    result = audit(dataset, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 4 and "hint:" in result.stderr
    assert "share ground" in result.stderr and moved.name in result.stderr
    (pair,) = [pair for pair in found["pairs"] if pair["splits"] == ["train", "test"]]
    assert pair["shared_m2"] == pytest.approx((16 * PIXEL) ** 2)
    assert pair["duplicates"] == 1 and len(found["leaks"]) == 3, "ground, pixels, and the buffer"


def test_a_broken_buffer_is_a_leak(dataset: Path) -> None:
    text = (dataset / "dataset.yaml").read_text("utf-8")
    (dataset / "dataset.yaml").write_text(text.replace("buffer_px: 16", "buffer_px: 160"), "utf-8")
    result = audit(dataset)
    assert result.exit_code == 4 and "has a buffer of 4,800 m" in result.stderr


def test_the_buffer_of_a_dataset_in_degrees_is_whole(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    place = {"crs": "EPSG:4326", "transform": from_origin(10, 60, 1e-4, 1e-4)}
    image = np.random.default_rng(0).integers(1, 255, (3, 192, 192)).astype(np.uint8)
    codes = np.random.default_rng(1).integers(1, 4, (24, 24)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    scene, labels = make_raster("scene.tif", image, **place), make_raster("labels.tif", codes, **place)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16)
    assert json.loads(audit(tmp_path / "dataset", "--json").stdout)["leaks"] == []


def test_the_buffer_of_scenes_with_other_pixels_is_whole(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    for name, pixel, west in (("a", 30, 600_000), ("b", 10, 640_000)):
        image = np.random.default_rng(pixel).integers(1, 255, (3, 192, 192)).astype(np.uint8)
        place = {"transform": from_origin(west, 4_000_000, pixel, pixel)}
        make_raster(f"scenes/{name}.tif", image, **place)
        make_raster(f"labels/{name}.tif", (image[0] // 100 + 1).astype(np.uint8), **place)
    cwsam("tile", "scenes", "--labels", "labels", "-o", "dataset", "--size", 16)
    assert json.loads(audit(tmp_path / "dataset", "--json").stdout)["leaks"] == []


def pictures(root: Path, folders: dict[str, tuple[str, str]], suffix: str = ".jpg") -> None:
    """Three pairs of PNG labels and pictures in each split, without any position."""
    for number, (images, labels) in enumerate(folders.values()):
        for tile in range(3):
            rng = np.random.default_rng(10 * number + tile)
            image = rng.integers(0, 255, (8, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            for folder in (images, labels):
                (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / images / f"tile{number}{tile}{suffix}")
            Image.fromarray(rng.integers(0, 3, (64, 64)).astype(np.uint8)).save(
                root / labels / f"tile{number}{tile}.png"
            )


LAYOUTS = {
    "kind first": {"train": ("images/train", "labels/train"), "val": ("images/val", "labels/val")},
    "split first": {"train": ("training/img", "training/masks"), "test": ("test/img", "test/masks")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_without_a_position_are_audited_as_far_as_possible(tmp_path: Path, layout: str) -> None:
    pictures(tmp_path, LAYOUTS[layout])
    result = audit(tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "6 of 6 tiles have no position" in result.stdout and "code 2" in result.stdout
    (images, labels), (others, other_labels) = LAYOUTS[layout].values()
    with Image.open(tmp_path / images / "tile00.jpg") as picture:
        picture.point(lambda value: value * 0.8).save(tmp_path / others / "again.jpg", quality=60)
    shutil.copy(tmp_path / labels / "tile00.png", tmp_path / other_labels / "again.png")
    result = audit(tmp_path)
    assert result.exit_code == 4 and "nearly the same picture" in result.stderr and "again.jpg" in result.stderr


def test_a_configuration_names_other_folders(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": ("a/pictures", "a/codes"), "test": ("b/pictures", "b/codes")}, ".png")
    (tmp_path / "classes.yaml").write_text(
        'classes: [{code: 0, name: bare, color: "#aa0000"}, {code: 1, name: grass, color: "#00aa00"}]\nunlabelled: [2]'
    )
    args = {}
    for split in "ab":
        folders = {"root_path_1": f"{tmp_path}/{split}/pictures", "root_path_2": f"{tmp_path}/{split}/codes"}
        args[split] = {"dataset": {"args": folders}}
    config = {"train_dataset": args["a"], "test_dataset": args["b"], "model": {"name": "sam_tiny"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    result = audit(tmp_path / "run.yaml", "--classes", tmp_path / "classes.yaml", "--stats")
    assert result.exit_code == 0, result.stderr
    assert "grass" in result.stdout and "█" in result.stdout and "code 2" not in result.stdout


def test_under_a_split_by_date_shared_ground_is_no_leak(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    scenes = [
        make_raster(f"2020010{day}.tif", np.random.default_rng(day).integers(1, 255, (3, 48, 48)).astype(np.uint8))
        for day in range(1, 5)
    ]
    labels = make_raster("labels.tif", (np.arange(48)[None] // 8 % 3 + 1).repeat(48, 0).astype(np.uint8))
    cwsam("tile", *scenes, "--labels", labels, "-o", "dataset", "--size", 16, "--split-by", "date")
    result = audit(tmp_path / "dataset", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert all(pair["shared_m2"] > 0 for pair in found["pairs"]) and "by date" in found["notes"][0]


def test_a_configuration_of_a_dataset_is_audited_as_the_dataset(dataset: Path, tmp_path: Path) -> None:
    config = {"model": {"name": "sam_tiny"}}
    for split in ("train", "val", "test"):
        folders = {"root_path_1": str(dataset / "images" / split), "root_path_2": str(dataset / "labels" / split)}
        config[f"{split}_dataset"] = {"dataset": {"args": folders}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    by_config = audit(tmp_path / "run.yaml", "--suspects", tmp_path / "a.csv", "--json")
    by_folder = audit(dataset, "--suspects", tmp_path / "b.csv", "--json")
    assert json.loads(by_config.stdout) == json.loads(by_folder.stdout)
    assert json.loads(by_folder.stdout)["suspects"], "labels and image are noise"


def test_a_folder_without_pairs_is_refused(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(4, "audit", "empty", names="empty")
    refused(4, "audit", "nowhere", names="nowhere")


def test_scenes_that_overlap_in_a_foreign_dataset_are_a_leak(make_raster: Any, tmp_path: Path) -> None:
    for split, west in (("train", 0), ("test", 40)):
        place = {"transform": from_origin(600_000 + west * PIXEL, 4_000_000, PIXEL, PIXEL)}
        rng = np.random.default_rng(west)
        make_raster(f"d/images/{split}/a.tif", rng.integers(1, 255, (3, 64, 64)).astype(np.uint8), **place)
        make_raster(f"d/labels/{split}/a.tif", rng.integers(1, 4, (64, 64)).astype(np.uint8), **place)
    result = audit(tmp_path / "d")
    assert result.exit_code == 4 and "train and test share ground" in result.stderr
    assert "138.2 ha" in result.stdout, "24 × 64 pixels of 30 m"


def test_a_shift_of_the_labels_is_told(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 4, (52, 52)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    image = (codes * 60 + rng.normal(0, 9, codes.shape)).clip(1, 254).astype(np.uint8)
    scene = make_raster("scene.tif", image[None, 4:516, 4:516])
    for name, right in (("right", 0), ("moved", 3)):
        labels = make_raster(f"{name}.tif", codes[4:516, 4 - right : 516 - right])
        cwsam("tile", scene, "--labels", labels, "-o", name, "--size", 64)
        found = json.loads(audit(tmp_path / name, "--check-alignment", "--json").stdout)["alignment"]
        assert [own["verdict"] for own in found] == ["shifted" if right else "aligned"]
        assert found[0]["scene"] == "scene" and abs(found[0]["right_px"] - right) < 0.2
    assert (
        "scene: labels lie 3.0 ± 0.1 pixels east of the image" in audit(tmp_path / "moved", "--check-alignment").stdout
    )
    assert "alignment" not in audit(tmp_path / "moved").stdout and "pixels east" not in audit(tmp_path / "moved").stdout


def test_tiles_with_wrong_labels_are_listed(cwsam: Any, make_raster: Any, refused: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 4, (24, 24)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    image = (codes * 60 + rng.normal(0, 9, codes.shape)).clip(1, 254).astype(np.uint8)
    codes[64:96, 96:128] = codes[64:96, 96:128] % 3 + 1
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16, "--split", 1, 0, 0)
    result = audit(tmp_path / "dataset", "--suspects", tmp_path / "suspects.gpkg")
    assert result.exit_code == 0, result.stderr
    found = geopandas.read_file(tmp_path / "suspects.gpkg")
    corners = found["tile"].str.extract(r"scene_r(\d+)_c(\d+)").astype(int)
    assert len(found) >= 3 and f"{len(found)} of " in result.stdout and found["tile"][0] in result.stdout
    assert corners[0].between(57, 87).all() and corners[1].between(89, 119).all(), "tiles that are mostly wrong"
    assert found["disagreement"].is_monotonic_decreasing and found["disagreement"].min() > 0.5
    assert (found["label"] != found["looks_like"]).all()
    refused(2, "audit", "dataset", "--suspects", "suspects.gpkg", names="suspects.gpkg")
    refused(2, "audit", "dataset", "--suspects", "suspects.txt", names="suspects.txt")
    refused(2, "audit", "dataset", "--suspects", "dataset/tiles.gpkg", "--overwrite", names="inside the dataset")
    again = audit(tmp_path / "dataset", "--suspects", tmp_path / "suspects.gpkg", "--overwrite", "--json")
    assert [Path(own["image"]).stem for own in json.loads(again.stdout)["suspects"]] == found["tile"].tolist()


def test_folds_are_checked_with_the_buffer(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 255, (1, 128, 128)).astype(np.uint8)
    codes = np.random.default_rng(1).integers(1, 4, (128, 128)).astype(np.uint8)
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16, "--folds", 3, "--buffer", "8px")
    found = json.loads(audit("dataset", "--json").stdout)
    assert [own["fold"] for own in found["folds"]] == [0, 1, 2] and found["leaks"] == []
    for own in found["folds"]:
        assert own["train"] and own["val"] and own["shared_m2"] == 0 and own["nearest_m"] >= 8 * PIXEL
    assert "fold" in audit("dataset").stdout
    index = tmp_path / "dataset" / "tiles.gpkg"
    geopandas.read_file(index).assign(near_folds="").to_file(index, layer="tiles")
    result = audit("dataset")
    assert result.exit_code == 4 and "training and validation of fold 0 are 0 m apart" in result.stderr
