"""The whole way on real imagery: Landsat with old labels, labels on a grid of their own, chips without a place."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from rasterio.features import rasterize
from typer.testing import CliRunner, Result

from cwsam_cli.audit.alignment import contrast_below_edges, judge
from cwsam_cli.audit.suspects import draw_sample, judge_samples
from cwsam_cli.audit.tiles import Pair
from cwsam_cli.config.load import load_label_table
from cwsam_cli.main import app
from cwsam_cli.raster.grid import Grid

Cwsam = Callable[..., Result]

SHAPE = (
    "model.args.encoder_mode={embed_dim: 64, depth: 2, num_heads: 2, global_attn_indexes: [1], "
    "prompt_embed_dim: 32, decoder_mlp_dim: 64, window_size: 4, moe_num_expert_groups: 0}"
)
NAMES = {
    1: "developed",
    2: "agriculture",
    3: "herbaceous",
    4: "shrubland",
    5: "forest",
    6: "water",
    7: "sediment",
}


def cwsam(*arguments: Any) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def read(path: Path) -> Any:
    with rasterio.open(path) as source:
        return source.read()


def tiles(dataset: Path) -> Iterator[tuple[Any, Path, Path]]:
    """Every tile with its image and its label."""
    for tile in gpd.read_file(dataset / "tiles.gpkg").itertuples():
        file = Path(tile.split, f"{tile.tile}.tif")
        yield tile, dataset / "images" / file, dataset / "labels" / file


# Raleigh, North Carolina: all five stages


class Raleigh(NamedTuple):
    source: Path
    dataset: Path
    run: Path
    report: Path
    map: Path
    polygons: Path


@pytest.fixture(scope="module")
def raleigh(landcover: Path, tmp_path_factory: pytest.TempPathFactory) -> Raleigh:
    source, out = landcover / "nc_landsat7_2002", tmp_path_factory.mktemp("raleigh")
    way = Raleigh(source, out / "dataset", out / "run", out / "report", out / "map.tif", out / "polygons.gpkg")
    labels = ("--labels", source / "label.tif", "--classes", "nc_landclass96")
    cwsam("tile", source / "image.tif", *labels, "-o", way.dataset, "--size", 64)
    settings = ["model.args.inp_size=64", SHAPE, "epoch_max=6", "epoch_val=3", "optimizer.args.lr=2e-3"]
    settings += ["training_settings.warmup_steps=5"]
    pairs = [word for setting in settings for word in ("--set", setting)]
    cwsam("train", "--config", "tiny", *pairs, "--data", way.dataset, "-o", way.run)
    best = ("-c", way.run / "model_epoch_best.pth")
    cwsam("eval", *best, "--data", way.dataset, "-o", way.report)
    cwsam("predict", source / "image.tif", *best, "-o", way.map)
    cwsam("vectorize", way.map, way.polygons)
    return way


def test_tiles_of_raleigh_hold_its_own_pixels(raleigh: Raleigh) -> None:
    image, codes = read(raleigh.source / "image.tif"), read(raleigh.source / "label.tif")
    shown = {split: np.zeros(image.shape[1:], bool) for split in ("train", "val", "test")}
    for tile, image_file, label_file in tiles(raleigh.dataset):
        window = slice(tile.row_off, tile.row_off + 64), slice(tile.col_off, tile.col_off + 64)
        assert (read(image_file) == image[:, *window]).all()
        labels = read(label_file)
        assert ((labels == codes[:, *window]) | (labels == 255)).all()
        shown[tile.split][window] = True
    assert sum(ground.astype(int) for ground in shown.values()).max() == 1
    assert all(ground.any() for ground in shown.values())


def test_the_report_of_raleigh_is_whole_and_better_than_guessing(raleigh: Raleigh) -> None:
    told = json.loads((raleigh.report / "metrics.json").read_text("utf-8"))
    assert {entry["code"]: entry["name"] for entry in told["classes"]} == NAMES
    labelled = sum((read(label) != 255).sum() for tile, _, label in tiles(raleigh.dataset) if tile.split == "test")
    assert told["pixels"] == labelled
    assert told["accuracy"] > 0.3
    assert 0 < told["mean_iou"] < told["accuracy"]


def test_the_map_of_raleigh_lies_on_its_scene_and_says_its_classes(raleigh: Raleigh) -> None:
    with rasterio.open(raleigh.source / "image.tif") as scene, rasterio.open(raleigh.map) as drawn:
        assert (drawn.crs, drawn.transform, drawn.shape) == (scene.crs, scene.transform, scene.shape)
        assert (drawn.dtypes[0], drawn.nodata) == ("uint8", 255)
        codes = drawn.read(1)
        assert drawn.colormap(1)[5] == (0, 110, 40, 255)
    assert set(np.unique(codes)) <= set(NAMES)
    assert len(np.unique(codes)) > 1


def test_the_map_of_raleigh_agrees_with_its_reference_as_well_as_the_report_says(raleigh: Raleigh) -> None:
    codes, reference = read(raleigh.map)[0], read(raleigh.source / "label.tif")[0]
    assert (codes == reference)[reference != 255].mean() > 0.3


def test_the_polygons_of_raleigh_are_its_map(raleigh: Raleigh) -> None:
    with rasterio.open(raleigh.map) as source:
        codes, transform, crs = source.read(1), source.transform, source.crs
    polygons = gpd.read_file(raleigh.polygons)
    assert polygons.crs == crs
    pairs = zip(polygons.geometry, polygons["code"], strict=True)
    assert (rasterize(pairs, out_shape=codes.shape, transform=transform, fill=255, dtype="uint8") == codes).all()
    for code, group in polygons.groupby("code"):
        assert group["area_m2"].sum() == pytest.approx((codes == code).sum() * 28.5**2)
        assert set(group["name"]) == {NAMES[code]}


# Zion, Utah: the label on its publisher's grid


def test_labels_on_their_own_grid_are_those_already_brought_onto_the_image(landcover: Path, tmp_path: Path) -> None:
    zion = landcover / "zion_landsat8_nlcd"
    for name in ("label", "label_native_grid"):
        labels = ("--labels", zion / f"{name}.tif", "--classes", "zion_nlcd")
        cwsam("tile", zion / "image.tif", *labels, "-o", tmp_path / name, "--size", 256)
    same, native = (list(tiles(tmp_path / name)) for name in ("label", "label_native_grid"))
    assert [tile.tile for tile, *_ in same] == [tile.tile for tile, *_ in native]
    for (_, image, label), (_, image_too, label_too) in zip(same, native, strict=True):
        assert (read(image) == read(image_too)).all()
        assert (read(label) == read(label_too)).all()
        with rasterio.open(label_too) as source:
            assert source.crs.to_epsg() == 32612
    manifest = yaml.safe_load((tmp_path / "label" / "dataset.yaml").read_text("utf-8"))
    assert manifest["dtype"] == "uint16"
    assert all(5_000 < band["mean"] < 32_000 for band in manifest["bands"])


def test_the_table_of_a_palette_label_knows_the_published_classes(landcover: Path, tmp_path: Path) -> None:
    zion = landcover / "zion_landsat8_nlcd"
    cwsam("tile", zion / "image.tif", "--labels", zion / "label.tif", "-o", tmp_path / "dataset", "--size", 512)
    classes = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))["taxonomy"]["classes"]
    assert [entry["code"] for entry in classes] == [1, 2, 3, 4, 5, 6, 7, 8]
    with rasterio.open(zion / "label.tif") as source:
        palette = source.colormap(1)
    for entry in classes:
        assert entry["color"] == "#{:02x}{:02x}{:02x}".format(*palette[entry["code"]][:3])


# West Virginia: chips without georeferencing


@pytest.fixture(scope="module")
def chips(landcover: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    naip, out = landcover / "naip_wv_1m_nogeo", tmp_path_factory.mktemp("naip") / "dataset"
    scenes = sorted((naip / "images").glob("*.tif"))
    cwsam(
        "tile", *scenes, "--labels", naip / "labels", "--classes", "chesapeake", "-o", out, "--size", 128, "--buffer", 0
    )
    return out


def test_chips_without_a_place_keep_all_their_ground(landcover: Path, chips: Path) -> None:
    naip = landcover / "naip_wv_1m_nogeo"
    count: Counter[str] = Counter()
    for tile, image_file, label_file in tiles(chips):
        scene = Path(tile.scene).name
        window = slice(tile.row_off, tile.row_off + 128), slice(tile.col_off, tile.col_off + 128)
        assert (read(image_file) == read(naip / "images" / scene)[:, *window]).all()
        assert (read(label_file) == read(naip / "labels" / scene)[:, *window]).all()
        with rasterio.open(image_file) as source:
            assert source.crs is None
        count[scene] += 1
    assert list(count.values()) == [4] * 8
    assert {path.name for path in (chips / "images").iterdir()} == {"train", "val", "test"}


def test_near_infrared_tagged_alpha_is_a_band(chips: Path) -> None:
    manifest = yaml.safe_load((chips / "dataset.yaml").read_text("utf-8"))
    assert len(manifest["bands"]) == 4
    assert [entry["name"] for entry in manifest["taxonomy"]["classes"]][:2] == ["Water", "Tree canopy"]


def test_a_chip_without_a_place_is_mapped_but_has_no_areas(landcover: Path, chips: Path, tmp_path: Path) -> None:
    settings = ("--set", "model.args.inp_size=64", "--set", SHAPE, "--set", "epoch_max=2")
    cwsam("train", "--config", "tiny", *settings, "--data", chips, "-o", tmp_path / "run")
    best = tmp_path / "run" / "model_epoch_best.pth"
    told = json.loads(cwsam("eval", "-c", best, "--data", chips, "--json").stdout)
    assert {entry["name"] for entry in told["classes"] if entry["absent"]} >= {"Water", "Barren", "Impervious (roads)"}
    assert told["accuracy"] > 0.3
    scene = next((landcover / "naip_wv_1m_nogeo" / "images").glob("*.tif"))
    cwsam("predict", scene, "-c", best, "-o", tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.crs is None
        assert (source.read(1) != 255).all()
    result = CliRunner().invoke(app, ["vectorize", str(tmp_path / "map.tif"), str(tmp_path / "polygons.gpkg")])
    assert result.exit_code == 4 and "coordinate reference system" in result.stderr
    assert not (tmp_path / "polygons.gpkg").exists()


# The same labels in another form


def mosaic(dataset: Path, shape: tuple[int, int]) -> Any:
    """The codes of all tiles, each in its place."""
    out = np.full(shape, 255, np.uint8)
    for tile, _, label in tiles(dataset):
        codes = read(label)[0]
        part = out[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width]
        codes = codes[: part.shape[0], : part.shape[1]]
        part[codes != 255] = codes[codes != 255]
    return out


WHOLE = ("--size", 128, "--split", 100, 0, 0)


@pytest.mark.parametrize("options", [(), ("--dst-crs", "EPSG:4326")], ids=["own CRS", "degrees"])
def test_labels_turned_into_polygons_and_back_are_the_same(
    landcover: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    zion = landcover / "zion_landsat8_nlcd"
    cwsam("vectorize", zion / "label.tif", tmp_path / "polygons.fgb", *options)
    common = ("--classes", "zion_nlcd", *WHOLE)
    cwsam("tile", zion / "image.tif", "--labels", zion / "label.tif", *common, "-o", tmp_path / "raster")
    vector = ("--labels", tmp_path / "polygons.fgb", "--class-field", "code")
    cwsam("tile", zion / "image.tif", *vector, *common, "-o", tmp_path / "vector")
    shape = read(zion / "label.tif").shape[1:]
    found, expected = mosaic(tmp_path / "vector", shape), mosaic(tmp_path / "raster", shape)
    assert (expected != 255).mean() > 0.5
    assert (found == expected).all()


def test_classes_of_raleigh_are_grouped_by_a_table(landcover: Path, tmp_path: Path) -> None:
    raleigh = landcover / "nc_landsat7_2002"
    groups = {1: [1], 2: [2, 3, 4], 3: [5], 4: [6, 7]}
    lines = [f'  - {{code: {code}, name: c{code}, color: "#00000{code}", from: {own}}}' for code, own in groups.items()]
    (tmp_path / "four.yaml").write_text("classes:\n" + "\n".join(lines))
    labels = ("--labels", raleigh / "label.tif", "--classes", tmp_path / "four.yaml")
    cwsam("tile", raleigh / "image.tif", *labels, *WHOLE, "-o", tmp_path / "dataset")
    codes = read(raleigh / "label.tif")[0]
    grouped = np.full_like(codes, 255)
    for code, own in groups.items():
        grouped[np.isin(codes, own)] = code
    found = mosaic(tmp_path / "dataset", codes.shape)
    assert (found[found != 255] == grouped[found != 255]).all()
    manifest = yaml.safe_load((tmp_path / "dataset" / "dataset.yaml").read_text("utf-8"))
    with rasterio.open(raleigh / "image.tif") as scene:
        valid = scene.dataset_mask() > 0
    assert manifest["pixels"]["train"] == [int(((grouped == code) & valid).sum()) for code in groups]


@pytest.mark.parametrize("dataset", ["nc_landsat7_2002", "zion_landsat8_nlcd", "naip_wv_1m_nogeo"])
def test_the_publishers_class_tables_are_read(landcover: Path, dataset: str) -> None:
    table = load_label_table(str(landcover / dataset / "classes.csv"))
    shipped = {"nc": "nc_landclass96", "zion": "zion_nlcd", "naip": "chesapeake"}[dataset.partition("_")[0]]
    assert table.taxonomy.classes == load_label_table(shipped).taxonomy.classes


def test_colored_labels_without_a_place_are_those_of_the_chips(landcover: Path, chips: Path, tmp_path: Path) -> None:
    naip = landcover / "naip_wv_1m_nogeo"
    colors = np.zeros((256, 3), np.uint8)
    for entry in load_label_table("chesapeake").taxonomy.classes:
        colors[entry.code] = entry.rgb
    for path in (naip / "labels").glob("*.tif"):
        bands = np.moveaxis(colors[read(path)[0]], -1, 0)
        target = tmp_path / f"{path.stem}_label.png"
        with rasterio.open(target, "w", driver="PNG", width=256, height=256, count=3, dtype="uint8") as out:
            out.write(bands)
    scenes = sorted((naip / "images").glob("*.tif"))
    labels = ("--labels", tmp_path / "{stem}_label.png", "--classes", "chesapeake")
    cwsam("tile", *scenes, *labels, "-o", tmp_path / "dataset", "--size", 128, "--buffer", 0)
    same = {tile.tile: read(label) for tile, _, label in tiles(chips)}
    found = {tile.tile: read(label) for tile, _, label in tiles(tmp_path / "dataset")}
    assert same.keys() == found.keys() and len(same) == 32
    assert all((found[name] == codes).all() for name, codes in same.items())


def test_labels_as_objects_in_pixels_are_those_of_the_chips(landcover: Path, chips: Path, tmp_path: Path) -> None:
    naip = landcover / "naip_wv_1m_nogeo"
    images: list[Any] = []
    annotations: list[Any] = []
    for number, path in enumerate(sorted((naip / "labels").glob("*.tif"))):
        codes = read(path)[0]
        images.append({"id": number, "file_name": path.name, "width": codes.shape[1], "height": codes.shape[0]})
        for code in np.unique(codes).tolist():
            inside = (codes == code).T.ravel()
            ends = np.flatnonzero(np.diff(inside, prepend=False, append=not inside[-1]))
            runs = {"counts": np.diff(ends, prepend=0).tolist(), "size": list(codes.shape)}
            entry = {"id": len(annotations), "image_id": number, "category_id": code, "segmentation": runs}
            annotations.append(entry)
    names = [{"id": entry.code, "name": entry.name} for entry in load_label_table("chesapeake").taxonomy.classes]
    content = {"images": images, "annotations": annotations, "categories": names}
    (tmp_path / "objects.json").write_text(json.dumps(content))
    scenes = sorted((naip / "images").glob("*.tif"))
    options = ("-o", tmp_path / "dataset", "--size", 128, "--buffer", 0)
    cwsam("tile", *scenes, "--labels", tmp_path / "objects.json", *options)
    for tile, _, label in tiles(chips):
        assert (read(label) == read(tmp_path / "dataset" / "labels" / tile.split / label.name)).all()


# What an audit finds in them


def squares(folder: Path, side: int, *, down: int = 0, right: int = 0) -> list[Pair]:
    """A scene in tiles whose labels are moved by some pixels."""
    image, (codes,) = read(folder / "image.tif"), read(folder / "label.tif")
    full, grid = np.ones((side, side), bool), Grid(None, Affine.identity(), side, side)
    starts = [range(8, size - side - 7, side) for size in codes.shape]
    pairs = []
    for row, col in product(*starts):
        own = codes[row - down : row - down + side, col - right : col - right + side]
        pairs.append(Pair(image[:, row : row + side, col : col + side], full, own, own != 255, grid))
    return pairs


@pytest.mark.parametrize("name", ["nc_landsat7_2002", pytest.param("zion_landsat8_nlcd", marks=pytest.mark.slow)])
def test_labels_moved_by_some_pixels_are_found_and_others_not_accused(landcover: Path, name: str) -> None:
    own, moved = (
        judge(name, np.concatenate([contrast_below_edges(tile) for tile in tiles]), is_north_up=True)
        for tiles in (squares(landcover / name, 64), squares(landcover / name, 64, down=-2, right=3))
    )
    assert own.verdict == "aligned" and moved.verdict == "shifted"
    assert own.right_px is not None and own.down_px is not None and np.hypot(own.right_px, own.down_px) < 0.75
    assert moved.right_px is not None and moved.down_px is not None
    assert abs(moved.right_px - own.right_px - 3) < 0.15 and abs(moved.down_px - own.down_px + 2) < 0.15


def test_most_tiles_with_a_wrong_class_are_among_the_first_suspects(landcover: Path) -> None:
    pairs = squares(landcover / "nc_landsat7_2002", 32)
    wrong = set(np.random.default_rng(0).choice(len(pairs), len(pairs) // 20, replace=False).tolist())
    for number in wrong:
        own, counts = np.unique(pairs[number].codes, return_counts=True)
        pairs[number].codes[:] = 6 if own[counts.argmax()] != 6 else 5
    samples = [draw_sample("train", Path("tile"), pair, number) for number, pair in enumerate(pairs)]
    shares, _ = judge_samples(samples, [str(number // 8) for number in range(len(pairs))])
    first = set(np.argsort(-np.array(shares), kind="stable")[: len(wrong)].tolist())
    assert len(first & wrong) / len(wrong) > 0.6, "chance is 0.05"
