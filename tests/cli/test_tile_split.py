"""Which ground goes to which split, which tiles are chosen, and how that is shown."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import yaml
from PIL import Image, ImageColor
from rasterio.transform import from_origin
from shapely.geometry import box

WEST, NORTH, PIXEL = 600_000, 4_000_000, 30
SPLITS = ("train", "val", "test")


def striped(height: int, width: int) -> Any:
    return (np.arange(width)[None, :] // 8 % 3 + 1).repeat(height, axis=0).astype(np.uint8)


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(7).integers(1, 255, (1, height, width)).astype(np.uint8)


def tiles(dataset: Path) -> gpd.GeoDataFrame:
    return gpd.read_file(dataset / "tiles.gpkg")


def gap(index: gpd.GeoDataFrame, column: str = "split") -> float:
    """The smallest distance of tiles that differ in a column, in pixels."""
    groups = [own.geometry.union_all() for _, own in index.groupby(column)]
    return min(one.distance(other) for n, one in enumerate(groups) for other in groups[:n]) / PIXEL


@pytest.fixture
def inputs(make_raster: Any) -> tuple[Any, ...]:
    scene, labels = make_raster("scene.tif", noise(200, 300)), make_raster("labels.tif", striped(200, 300))
    return ("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16)


@pytest.mark.parametrize(
    ("options", "pixels"),
    [((), 16), (("--buffer", "40px"), 40), (("--buffer", "901m"), 31), (("--overlap", 8, "--seed", 3), 16)],
    ids=["default", "pixels", "metres", "overlap"],
)
def test_tiles_of_different_splits_are_a_buffer_apart(
    cwsam: Any, inputs: Any, tmp_path: Path, options: Any, pixels: int
) -> None:
    result = cwsam(*inputs, *options)
    index = tiles(tmp_path / "dataset")
    assert set(index.split) == set(SPLITS)
    assert gap(index) >= pixels
    rule = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["split"]
    assert rule["buffer_px"] == pixels and rule["by"] == "block"
    assert "warning" not in result.stderr


def test_no_buffer_is_a_warning(cwsam: Any, inputs: Any, tmp_path: Path) -> None:
    assert "accuracy" in cwsam(*inputs, "--buffer", 0).stderr
    assert gap(tiles(tmp_path / "dataset")) == 0


def test_a_scene_of_two_blocks_has_no_room_for_a_buffer_and_says_so(
    cwsam: Any, make_raster: Any, tmp_path: Path
) -> None:
    scene, labels = make_raster("scene.tif", noise(64, 64)), make_raster("labels.tif", striped(64, 64))
    result = cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32)
    assert "no buffer" in result.stderr and "--size" in result.stderr
    index = tiles(tmp_path / "dataset")
    assert set(index.split) == {"train", "val"} and gap(index) == 0


def test_a_buffer_that_leaves_nothing_is_refused(refused: Any, inputs: Any) -> None:
    message = refused(4, *inputs, "--buffer", "300px", names="300 pixels")
    assert "--buffer 12px" in message or "--size" in message


@pytest.mark.parametrize("options", [("--buffer", "16"), ("--block-size", "32"), ("--block-size", "8px")])
def test_lengths_need_a_unit_and_blocks_hold_a_tile(refused: Any, inputs: Any, options: Any) -> None:
    refused(2, *inputs, *options, names=options[1].removesuffix("px"))


def test_blocks_have_the_size_that_is_given(cwsam: Any, inputs: Any, tmp_path: Path) -> None:
    cwsam(*inputs, "--block-size", "3tiles", "--buffer", 0)
    index = tiles(tmp_path / "dataset")
    width = index.dissolve("block").bounds.pipe(lambda edges: edges.maxx - edges.minx) / PIXEL
    assert width.median() == 48
    assert all("/48/" in name for name in index.block)


def test_rare_classes_are_named_with_the_block_size_that_helps(cwsam: Any, make_raster: Any) -> None:
    codes = striped(192, 192)
    codes[:16, :64] = 4  # one row of four tiles, all in one block of 64 pixels
    codes[100, 100] = 5
    scene, labels = make_raster("scene.tif", noise(192, 192)), make_raster("labels.tif", codes)
    common = ("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16, "--buffer", 0, "--overwrite")
    stderr = cwsam(*common, "--block-size", "64px").stderr
    lines = {name: line for line in stderr.splitlines() for name in ("class 4", "class 5") if f"`{name}`" in line}
    assert "1,024 pixels" in lines["class 4"] and "--block-size 16px" in lines["class 4"]
    assert "1 pixels" in lines["class 5"] and "--size" in lines["class 5"]
    assert "class 4" not in cwsam(*common, "--block-size", "16px").stderr


def scenes_in_a_row(make_raster: Any, names: list[str], step: int = 64) -> list[Path]:
    return [
        make_raster(name, noise(64, 64), transform=from_origin(WEST + step * n * PIXEL, NORTH, PIXEL, PIXEL))
        for n, name in enumerate(names)
    ]


def test_scenes_go_to_splits_whole(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    scenes = scenes_in_a_row(make_raster, [f"{n}.tif" for n in range(6)])
    labels = make_raster("labels.tif", striped(64, 400))
    cwsam("tile", *scenes, "--labels", labels, "-o", "dataset", "--size", 16, "--split-by", "scene")
    index = tiles(tmp_path / "dataset")
    assert (index.groupby("scene").split.nunique() == 1).all()
    assert set(index.split) == set(SPLITS)
    assert gap(index) >= 16


def test_dates_go_to_splits_whole_and_share_ground(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    names = [f"{place}_{date}.tif" for date in ("20200101", "20210101", "20220101", "20230101") for place in "ab"]
    scenes = [scene for date in range(4) for scene in scenes_in_a_row(make_raster, names[2 * date : 2 * date + 2])]
    labels = make_raster("labels.tif", striped(64, 128))
    cwsam("tile", *scenes, "--labels", labels, "-o", "dataset", "--size", 32, "--split-by", "date")
    index = tiles(tmp_path / "dataset")
    assert len(index) == 32, "no tile is left out"
    index["date"] = index.scene.str.extract(r"_(\d{8})")
    assert (index.groupby("date").split.nunique() == 1).all()
    assert set(index.split) == set(SPLITS)
    assert index.block.nunique() < 32, "the ground of all dates has one block"


def test_a_date_is_needed(refused: Any, inputs: Any) -> None:
    refused(4, *inputs, "--split-by", "date", names="scene.tif")


def zones(path: Path, **splits: tuple[float, float]) -> Path:
    """Columns of the scene from one pixel to another, by split."""
    shapes = [box(WEST + a * PIXEL, NORTH - 200 * PIXEL, WEST + b * PIXEL, NORTH) for a, b in splits.values()]
    frame = gpd.GeoDataFrame({"part": list(splits)}, geometry=shapes, crs="EPSG:32617")
    frame.to_crs(4326).to_file(path)
    return path


def test_polygons_can_say_the_split(cwsam: Any, inputs: Any, tmp_path: Path) -> None:
    layer = zones(tmp_path / "zones.gpkg", train=(-1, 200), val=(220, 260), test=(260, 301))
    cwsam(*inputs, "--split-by", layer, "--split-field", "part", "--block-size", "48px")
    index = tiles(tmp_path / "dataset")
    assert index[index.split == "test"].col_off.min() >= 260
    assert index[index.split == "train"].col_off.max() + 16 <= 200
    assert set(index.split) == set(SPLITS)
    assert gap(index) >= 16


def test_polygons_with_another_value_or_field_are_refused(refused: Any, inputs: Any, tmp_path: Path) -> None:
    layer = zones(tmp_path / "zones.gpkg", train=(0, 200), validation=(200, 300))
    refused(4, *inputs, "--split-by", layer, "--split-field", "part", names="validation")
    refused(2, *inputs, "--split-by", layer, names="split")
    refused(4, *inputs, "--split-by", "blocks", names="blocks")


def test_folds_stand_in_the_index(cwsam: Any, inputs: Any, tmp_path: Path) -> None:
    cwsam(*inputs, "--folds", 4)
    index = tiles(tmp_path / "dataset")
    assert set(index.split) == {"train", "test"}
    trained = index[index.split == "train"]
    assert set(trained.fold) == {0, 1, 2, 3}
    assert index[index.split == "test"].fold.isna().all()
    assert (trained.groupby("block").fold.nunique() == 1).all()
    assert gap(index) >= 16
    for fold in range(4):
        validation = trained[trained.fold == fold]
        is_near = [str(fold) in near.split(",") for near in trained.near_folds]
        used = trained[(trained.fold != fold) & ~np.array(is_near)]
        assert used.geometry.union_all().distance(validation.geometry.union_all()) / PIXEL >= 16
        assert len(used) > len(trained) / 4


@pytest.mark.parametrize("options", [("--overlap", 4), ("--split-by", "zones.gpkg")])
def test_folds_exclude_overlap_and_polygons(refused: Any, inputs: Any, options: Any) -> None:
    refused(2, *inputs, "--folds", 4, *options, names="folds")


def test_tiles_with_little_data_or_few_labels_are_left_out(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    image, codes = noise(64, 64), striped(64, 64)
    image[:, :, :10] = 0  # 10 of the first 16 columns have no data
    codes[:10] = 255
    scene = make_raster("scene.tif", image, nodata=0, transform=from_origin(0, 0, PIXEL, PIXEL))
    labels = make_raster("labels.tif", codes, nodata=255, transform=from_origin(0, 0, PIXEL, PIXEL))
    common = ("tile", scene, "--labels", labels, "--size", 16, "--split", 1, 0, 0)
    result = cwsam(*common, "-o", "chosen", "--min-valid", 0.5, "--min-labelled", 0.5)
    index = tiles(tmp_path / "chosen")
    assert set(zip(index.col_off, index.row_off, strict=True)) == {(c, r) for c in (16, 32, 48) for r in (16, 32, 48)}
    assert "left out: 7 below --min-labelled" in result.stdout, "tiles without data have no labels there"
    cwsam(*common, "-o", "all")
    assert len(tiles(tmp_path / "all")) == 16
    rules = [yaml.safe_load((tmp_path / name / "dataset.yaml").read_text("utf-8")) for name in ("chosen", "all")]
    assert [rule["left_out"].get("below --min-labelled", 0) for rule in rules] == [7, 0]


@pytest.mark.parametrize("layer", ["blok", "splits.csv"])
def test_what_is_no_layer_of_splits_is_refused(refused: Any, inputs: Any, tmp_path: Path, layer: str) -> None:
    (tmp_path / "splits.csv").write_text("split,scene\ntrain,a\n", encoding="utf-8")
    refused(4, *inputs, "--split-by", layer, names=layer)


def test_a_dataset_without_any_tile_is_refused(refused: Any, make_raster: Any, tmp_path: Path) -> None:
    codes = striped(64, 64)
    codes[::2] = 255
    scene, labels = make_raster("scene.tif", noise(64, 64)), make_raster("labels.tif", codes, nodata=255)
    inputs = ("tile", scene, "--labels", labels, "-o", "dataset", "--size", 16)
    refused(4, *inputs, "--min-labelled", 0.9, names="below --min-labelled")
    assert not (tmp_path / "dataset").exists() and not (tmp_path / ".dataset.journal").exists()


def test_a_split_whose_tiles_are_left_out_is_named_with_the_reason(cwsam: Any, inputs: Any, make_raster: Any) -> None:
    codes = striped(200, 300)
    codes[:, 48:] = codes[48:] = 255  # one block has many labels
    codes[::16, ::16] = 1
    make_raster("labels.tif", codes, nodata=255)
    result = cwsam(*inputs, "--min-labelled", 0.9)
    assert "no tiles for" in result.stderr and "below --min-labelled" in result.stderr
    assert "too small" not in result.stderr


def test_a_limit_keeps_all_splits_and_says_what_is_left_out(cwsam: Any, inputs: Any, tmp_path: Path) -> None:
    result = cwsam(*inputs, "--limit", 20)
    index = tiles(tmp_path / "dataset")
    assert len(index) == 20 and set(index.split) == set(SPLITS)
    assert "beyond --limit" in result.stdout and "for the buffer" in result.stdout


def test_a_preview_shows_tiles_of_each_split_and_the_classes(
    cwsam: Any, refused: Any, inputs: Any, tmp_path: Path
) -> None:
    cwsam(*inputs, "--preview", "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 3 * 2 * 128 and picture.height > 6 * 128
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24) or []}
    classes = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["taxonomy"]["classes"]
    assert {ImageColor.getrgb(entry["color"]) for entry in classes} <= colors
    refused(2, *inputs[:-4], "-o", "other", "--size", 16, "--preview", "sheet.png", names="sheet.png")
    refused(2, *inputs[:-4], "-o", "other", "--size", 16, "--preview", "sheet.jpg", names="sheet.jpg")


def test_focus_adds_training_tiles_that_show_a_rare_class(cwsam: Any, make_raster: Any, tmp_path: Path) -> None:
    codes = striped(200, 300)
    codes[::50, ::50] = 4  # 24 pixels
    scene, labels = make_raster("scene.tif", noise(200, 300)), make_raster("labels.tif", codes)
    common = ("tile", scene, "--labels", labels, "--size", 16)
    cwsam(*common, "-o", "plain")
    cwsam(*common, "-o", "focused", "--focus", "class 4=12", "--focus", "2=5")
    plain, focused = tiles(tmp_path / "plain"), tiles(tmp_path / "focused")
    added = focused[~focused.tile.isin(plain.tile)]
    assert set(plain.tile) <= set(focused.tile) and 10 <= len(added) <= 17
    assert set(added.split) == {"train"} and (added.labelled == 1).all()
    assert (added.share_4 > 0).sum() >= 8
    assert gap(focused) >= 16
    described = [yaml.safe_load((tmp_path / name / "dataset.yaml").read_text("utf-8")) for name in ("plain", "focused")]
    assert described[0]["bands"] == described[1]["bands"], "no pixel enters the statistics twice"
    assert described[0]["pixels"] == described[1]["pixels"]


@pytest.mark.parametrize("options", [("--focus", "ice=5"), ("--focus", "ice"), ("--focus", "1=5", "--folds", 3)])
def test_focus_needs_a_class_and_a_number(refused: Any, inputs: Any, options: Any) -> None:
    refused(2, *inputs, *options, names="--focus")


def test_scenes_are_added_with_the_options_of_the_dataset(
    cwsam: Any, refused: Any, make_raster: Any, tmp_path: Path
) -> None:
    (first,) = scenes_in_a_row(make_raster, ["a.tif"])
    second = make_raster("b.tif", noise(64, 64)[:, ::-1], transform=from_origin(WEST + 64 * PIXEL, NORTH, PIXEL, PIXEL))
    labels = make_raster("labels.tif", striped(64, 128))
    common = ("--labels", labels, "-o", "dataset", "--append")
    refused(4, "tile", first, *common, names="is not a dataset")
    cwsam("tile", first, *common[:-1], "--size", 8, "--buffer", "4px", "--seed", 2)
    before = {path: path.read_bytes() for path in (tmp_path / "dataset" / "images").rglob("*.tif")}
    refused(4, "tile", second, *common, "--size", 16, names="--size differs")
    result = cwsam("tile", first, second, *common)
    assert "1 scene(s) are in" in result.stderr and "tiles of 8 × 8 pixels" in result.stdout
    assert all(path.read_bytes() == content for path, content in before.items())
    index = tiles(tmp_path / "dataset")
    assert len(index) > len(before) and gap(index) >= 4
    assert "no leak" in cwsam("audit", "dataset").stdout
