"""Rasters as they come: what index.csv beside them says a land-cover program should do with each."""

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.warp
import yaml
from rasterio.transform import from_origin
from rasterio.windows import Window
from typer.testing import CliRunner, Result

from cwsam_cli.main import app

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SHAPE = (
    "model.args.encoder_mode={embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [], patch_size: 16, "
    "prompt_embed_dim: 16, decoder_mlp_dim: 32, window_size: 8, moe_num_expert_groups: 0}"
)

IMAGES = {
    "RGB.byte.tif": 3,
    "RGB2.byte.tif": 3,
    "rgba_alpha_jpeg.tif": 3,
    "float_nodata_ignf.tif": 1,
    "float64_nan_nodata.tif": 1,
    "rgb_internal_mask.tif": 3,
    "tiny_51px_utm7s.tif": 3,
    "antimeridian_utm60.tif": 1,
    "fullearth_float64.tif": 1,
    "int8.tif": 1,
    "planar_lzw.tif": 3,
    "local_cs.tif": 3,
    "label_not_binary_localcs.tif": 1,
    "sentinel2_float_nan.tif": 4,
    "label_other_crs_nonsquare.tif": 1,
    "label_float32_nan_nocrs.tif": 1,
    "south_up_real.tif": 3,
}
"""Rasters to accept as a scene, with the number of bands a model sees."""

REFUSED = {
    "RGB.byte.gcp.vrt": (3, "georeferenced by ground control points only"),
    "palette_lambert.tif": (1, "palette"),
    "complex_int16_slc.tif": (1, "complex"),
    "gcps_only_s1.tif": (1, "georeferenced by ground control points only"),
    "uint64.tiff": (1, "uint64"),
    "fuzzed_0.tif": (1, "not a readable raster"),
    "zero_bytes.tif": (1, "not a readable raster"),
    "corrupt_jpeg_tile.tif": (3, "not a readable raster"),
}
"""Rasters to refuse as a scene, with bands and a word of the reason."""

ALONE = {"all_nodata.tif", "RGB2.byte.tif.msk", "world_36000x18000.tif"}
"""What a test of its own looks at, or belongs to another raster."""


def cwsam(*arguments: Any) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def accepted(*arguments: Any) -> Result:
    result = cwsam(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(folder: Path, *arguments: Any, names: str, reason: str) -> str:
    """The command must fail with code 4, one sentence that names the file, and nothing new in the folder."""
    before = sorted(folder.rglob("*"))
    result = cwsam(*arguments)
    error = result.stderr[result.stderr.index("error: ") :]
    sentence, blank, hint = error.split("\n")[:3]
    assert result.exit_code == 4, result.stderr
    assert f"{names}`" in sentence and reason in sentence, error
    assert blank == "" and hint.startswith("hint: ")
    assert "Traceback" not in result.stderr
    assert sorted(folder.rglob("*")) == before
    return error


def like(source: Path, target: Path, make: Callable[[int, int], Any]) -> Path:
    """A raster on the grid of another."""
    with rasterio.open(source) as grid:
        values = make(grid.height, grid.width)
        place = {"crs": grid.crs, "transform": grid.transform}
    return write(target, values, **place)


def write(target: Path, values: Any, **place: Any) -> Path:
    bands = values if values.ndim == 3 else values[None]
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width}
    with rasterio.open(target, "w", driver="GTiff", dtype=bands.dtype, **shape, **place) as out:
        out.write(bands)
    return target


def striped(height: int, width: int) -> Any:
    return (np.arange(width)[None] // 8 % 2 + 1).repeat(height, 0).astype(np.uint8)


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(1, 255, (3, height, width)).astype(np.uint8)


def codes_of(path: Path) -> Any:
    with rasterio.open(path) as source:
        return source.read(1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A small model for each number of bands."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    place = {"crs": "EPSG:32617", "transform": from_origin(600_000, 4_000_000, 30, 30)}
    for bands in (1, 3, 4):
        values = np.random.default_rng(bands).integers(1, 255, (bands, 64, 256)).astype(np.uint16)
        scene = write(folder / f"scene{bands}.tif", values, **place)
        labels = write(folder / f"labels{bands}.tif", striped(64, 256), **place)
        accepted("tile", scene, "--labels", labels, "-o", folder / f"data{bands}", "--size", 64)
        settings = ("--set", "model.args.inp_size=128", "--set", SHAPE, "--set", "epoch_max=1")
        out = folder / f"run{bands}"
        accepted("train", "--config", "tiny", *settings, "--data", folder / f"data{bands}", "-o", out)
        found[bands] = out / "model_epoch_best.pth"
    return found


def test_every_raster_of_the_index_is_looked_at(awkward: Path) -> None:
    with (awkward / "index.csv").open(encoding="utf-8", newline="") as file:
        listed = {row["file"] for row in csv.DictReader(file)}
    assert listed == set(IMAGES) | set(REFUSED) | ALONE


# As a scene


@pytest.mark.parametrize(("name", "bands"), IMAGES.items())
def test_a_usable_scene_is_mapped_on_its_own_grid(
    awkward: Path, checkpoints: dict[int, Path], tmp_path: Path, name: str, bands: int
) -> None:
    accepted("predict", awkward / name, "-c", checkpoints[bands], "-o", tmp_path / "map.tif", "--overlap", 0.1)
    with rasterio.open(awkward / name) as scene, rasterio.open(tmp_path / "map.tif") as drawn:
        assert drawn.transform == scene.transform
        assert drawn.crs == scene.crs
        assert drawn.shape == scene.shape
        codes, valid = drawn.read(1), scene.dataset_mask() > 0
        if scene.dtypes[0].startswith("float"):
            valid &= np.isfinite(scene.read()).all(axis=0)
    assert ((codes != 255) == valid).all()
    assert valid.any()


@pytest.mark.parametrize("name", IMAGES)
def test_a_usable_scene_is_tiled_with_its_nodata_unlabelled(awkward: Path, tmp_path: Path, name: str) -> None:
    labels = like(awkward / name, tmp_path / "labels.tif", striped)
    data = tmp_path / "data"
    accepted("tile", awkward / name, "--labels", labels, "-o", data, "--size", 256, "--split", 100, 0, 0)
    manifest = yaml.safe_load((data / "dataset.yaml").read_text("utf-8"))
    assert len(manifest["bands"]) == IMAGES[name]
    for index, band in enumerate(manifest["bands"], start=1):
        with rasterio.open(awkward / name) as scene:
            values = scene.read(index, out_dtype="float64")
            valid = (scene.dataset_mask() > 0) & np.isfinite(values)
        assert values[valid].min() <= band["mean"] <= values[valid].max()
        assert np.isfinite(band["std"])
    # Tiles may overlap where the scene is no multiple of their size: a lower bound is the valid ground.
    assert sum(manifest["pixels"]["train"]) >= valid.sum()
    for path in (data / "labels" / "train").glob("*.tif"):
        with rasterio.open(path) as label, rasterio.open(data / "images" / "train" / path.name) as image:
            inside = (image.dataset_mask() > 0) & np.isfinite(image.read()).all(axis=0)
            assert ((label.read(1) != 255) <= inside).all()


@pytest.mark.parametrize("name", REFUSED)
def test_an_unusable_scene_is_refused_in_a_sentence(
    awkward: Path, checkpoints: dict[int, Path], tmp_path: Path, name: str
) -> None:
    bands, reason = REFUSED[name]
    scene = awkward / name
    refused(tmp_path, "predict", scene, "-c", checkpoints[bands], "-o", tmp_path / "map.tif", names=name, reason=reason)
    try:
        labels = like(scene, tmp_path / "labels.tif", striped)
    except rasterio.errors.RasterioIOError:
        labels = write(tmp_path / "labels.tif", striped(64, 64))
    refused(tmp_path, "tile", scene, "--labels", labels, "-o", tmp_path / "data", names=name, reason=reason)


def test_a_scene_of_nodata_has_a_map_of_nodata_and_no_tiles(
    awkward: Path, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    scene = awkward / "all_nodata.tif"
    accepted("predict", scene, "-c", checkpoints[4], "-o", tmp_path / "map.tif")
    assert (codes_of(tmp_path / "map.tif") == 255).all()
    accepted("vectorize", tmp_path / "map.tif", tmp_path / "polygons.gpkg")
    assert len(gpd.read_file(tmp_path / "polygons.gpkg")) == 0
    labels = like(scene, tmp_path / "labels.tif", striped)
    result = cwsam("tile", scene, "--labels", labels, "-o", tmp_path / "data")
    assert result.exit_code == 4 and "no valid pixel" in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_mask_beside_the_scene_does_what_a_nodata_value_does(
    awkward: Path, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    maps = []
    for name in ("RGB.byte.tif", "RGB2.byte.tif"):
        common = ("predict", awkward / name, "-c", checkpoints[3], "--precision", "fp32")
        accepted(*common, "-o", tmp_path / f"{name}.map.tif")
        maps.append(codes_of(tmp_path / f"{name}.map.tif"))
    with rasterio.open(awkward / "RGB2.byte.tif") as scene:
        assert ((maps[1] == 255) == (scene.dataset_mask() == 0)).all()
    assert (maps[0] == maps[1]).mean() > 0.99

    shutil.copy(awkward / "RGB2.byte.tif", tmp_path / "scene.tif")  # without its mask, all of it is valid
    accepted("predict", tmp_path / "scene.tif", "-c", checkpoints[3], "-o", tmp_path / "all.tif")
    assert (codes_of(tmp_path / "all.tif") != 255).all()


def test_a_south_up_scene_covers_the_ground_of_its_twin(
    awkward: Path, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    for name in ("RGB.byte.tif", "south_up_real.tif"):
        accepted("predict", awkward / name, "-c", checkpoints[3], "-o", tmp_path / name)
    with rasterio.open(tmp_path / "RGB.byte.tif") as north, rasterio.open(tmp_path / "south_up_real.tif") as south:
        assert south.bounds.left == north.bounds.left
        assert sorted([south.bounds.top, south.bounds.bottom]) == pytest.approx([north.bounds.bottom, north.bounds.top])
        assert ((north.read(1) == 255) == (south.read(1)[::-1] == 255)).all()


def test_alpha_is_a_mask_and_no_band(awkward: Path, checkpoints: dict[int, Path], tmp_path: Path) -> None:
    accepted("predict", awkward / "rgba_alpha_jpeg.tif", "-c", checkpoints[3], "-o", tmp_path / "map.tif")
    with rasterio.open(awkward / "rgba_alpha_jpeg.tif") as scene:
        assert ((codes_of(tmp_path / "map.tif") == 255) == (scene.read(4) == 0)).all()


def test_a_part_of_the_whole_world_is_mapped_without_the_rest(
    awkward: Path, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    bounds = ("--bounds", 5, 44, 10, 48)
    accepted("predict", awkward / "world_36000x18000.tif", "-c", checkpoints[1], "-o", tmp_path / "map.tif", *bounds)
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert drawn.shape == (400, 500)
        assert tuple(drawn.bounds) == pytest.approx((5, 44, 10, 48))


WORLD = """
import re, sys
from pathlib import Path
import rasterio, torch
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.journal import journal
from cwsam_cli.predict.mapfile import write_map
from cwsam_cli.predict.work import make_pieces
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.scene import GDAL_CACHE
from tests.predict_plans import plan_of

with rasterio.open(sys.argv[1]) as dataset:
    grid = Grid.of(dataset)
bands = (Band(name="b", mean=127.0, std=60.0),)
plan = plan_of(sys.argv[1], grid, classes=2, size=1024, overlap=128, columns=9216, bands=bands)

def score(images):
    values = images[:, 0]
    return torch.stack([-values, values], dim=1)

def peak():  # of this program alone; getrusage would tell the test's own, if that is larger
    return int(re.search("VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1]) / 1024

before = peak()
target = Path(sys.argv[2])
with journal(target, {}, {}) as kept:
    make_pieces(plan, score, kept, device=torch.device("cpu"))
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        write_map(target, plan, kept.read, scratch=kept.folder)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_raster_of_the_whole_world_is_mapped_in_less_memory_than_it_has_pixels(awkward: Path, tmp_path: Path) -> None:
    world, peaks = awkward / "world_36000x18000.tif", []
    for attempt in range(3):  # what the allocator keeps differs by 100 MB from run to run: the least is what it takes
        target = tmp_path / f"{attempt}.tif"
        done = subprocess.run(
            [sys.executable, "-c", WORLD, str(world), str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout))
        if peaks[-1] < 500:
            break
    assert min(peaks) < 36_000 * 18_000 / 2**20  # MB
    with rasterio.open(world) as scene, rasterio.open(target) as drawn:
        assert drawn.shape == scene.shape
        for window in (Window(18_000, 4_000, 500, 500), Window(35_500, 17_500, 500, 500)):
            values = scene.read(1, window=window, out_dtype="float32", masked=True)
            expected = np.where(np.ma.getmaskarray(values), 255, values.data > 127)
            np.testing.assert_array_equal(drawn.read(1, window=window), expected)


# As labels


def labels_of(folder: Path, name: str, awkward: Path, *options: Any) -> Any:
    """Tile a picture on the label's own grid; returns the manifest's taxonomy and the codes that were written."""
    scene = like(awkward / name, folder / "scene.tif", noise)
    data = folder / "data"
    split = ("--size", 256, "--split", 100, 0, 0)
    accepted("tile", scene, "--labels", awkward / name, *options, "-o", data, *split)
    manifest = yaml.safe_load((data / "dataset.yaml").read_text("utf-8"))
    found = {code for path in (data / "labels" / "train").glob("*.tif") for code in np.unique(codes_of(path)).tolist()}
    return manifest["taxonomy"]["classes"], found - {255}


def test_a_palette_raster_is_a_label_with_its_colours(awkward: Path, tmp_path: Path) -> None:
    classes, found = labels_of(tmp_path, "palette_lambert.tif", awkward)
    with rasterio.open(awkward / "palette_lambert.tif") as source:
        expected, palette = set(np.unique(source.read(1)).tolist()) - {255}, source.colormap(1)
    assert found == expected
    for entry in classes:
        assert entry["color"] == "#{:02x}{:02x}{:02x}".format(*palette[entry["code"]][:3])


def test_whole_numbers_in_float_with_nan_are_a_label(awkward: Path, tmp_path: Path) -> None:
    name = "label_float32_nan_nocrs.tif"
    classes, found = labels_of(tmp_path, name, awkward)
    with rasterio.open(awkward / name) as source:
        values = source.read(1)
    expected = set(np.unique(values[np.isfinite(values)]).astype(int).tolist())
    assert found == expected == {entry["code"] for entry in classes}


def test_codes_that_a_label_should_not_hold_are_listed(awkward: Path, tmp_path: Path) -> None:
    name = "label_not_binary_localcs.tif"
    scene = like(awkward / name, tmp_path / "scene.tif", noise)
    table = {"classes": [{"code": n, "name": f"c{n}", "color": "#ff0000"} for n in (0, 1)]}
    (tmp_path / "binary.yaml").write_text(yaml.safe_dump(table))
    options = ("--classes", tmp_path / "binary.yaml", "-o", tmp_path / "data")
    error = refused(tmp_path, "tile", scene, "--labels", awkward / name, *options, names=name, reason="5 (")
    assert "class table" in error


def test_a_label_without_a_crs_is_mentioned(awkward: Path, tmp_path: Path) -> None:
    name = "label_float32_nan_nocrs.tif"
    scene = like(awkward / name, tmp_path / "scene.tif", noise)
    with rasterio.open(scene, "r+") as target:
        target.crs = "EPSG:2056"
    result = accepted("tile", scene, "--labels", awkward / name, "-o", tmp_path / "data", "--size", 256)
    assert "warning:" in result.stderr and name in result.stderr


def test_a_sparse_label_in_another_crs_leaves_its_background_unlabelled(awkward: Path, tmp_path: Path) -> None:
    label = awkward / "label_other_crs_nonsquare.tif"
    with rasterio.open(label) as source:
        codes = source.read(1)
        west, south, east, north = rasterio.warp.transform_bounds(source.crs, "EPSG:32633", *source.bounds)
    width, height = int((east - west) / 30), int((north - south) / 30)
    place = {"crs": "EPSG:32633", "transform": from_origin(west, north, 30, 30)}
    scene = write(tmp_path / "scene.tif", noise(height, width), **place)
    colors = ["#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4"]
    table = {"classes": [{"code": n, "name": f"c{n}", "color": c} for n, c in enumerate(colors, 1)], "unlabelled": [0]}
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(table))
    options = ("--classes", tmp_path / "classes.yaml", "--size", 512)
    accepted("tile", scene, "--labels", label, *options, "-o", tmp_path / "data")
    manifest = yaml.safe_load((tmp_path / "data" / "dataset.yaml").read_text("utf-8"))
    found = {
        code for path in (tmp_path / "data/labels/train").glob("*.tif") for code in np.unique(codes_of(path)).tolist()
    }
    assert found == {1, 2, 3, 4, 5, 6, 255}
    ground = np.isin(codes, range(1, 7)).sum()
    assert sum(manifest["pixels"]["train"]) == pytest.approx(ground, rel=0.05)


PICTURES = [
    "RGB.byte.tif",
    "RGB2.byte.tif",
    "rgba_alpha_jpeg.tif",
    "rgb_internal_mask.tif",
    "tiny_51px_utm7s.tif",
    "planar_lzw.tif",
    "local_cs.tif",
    "south_up_real.tif",
]
NO_LABELS = {
    "float_nodata_ignf.tif": "labels are whole numbers",
    "float64_nan_nodata.tif": "labels are whole numbers",
    "fullearth_float64.tif": "42,382 values that no class has",
    "sentinel2_float_nan.tif": "4 bands of float32",
    "all_nodata.tif": "4 bands of uint16",
    "int8.tif": "-28 (25 pixels), ",
    "uint64.tiff": "256 values that no class has",
    "antimeridian_utm60.tif": "cannot be class codes",
    "complex_int16_slc.tif": "complex",
    "gcps_only_s1.tif": "ground control points only",
    "RGB.byte.gcp.vrt": "ground control points only",
    "fuzzed_0.tif": "not a readable raster",
    "zero_bytes.tif": "not a readable raster",
    "corrupt_jpeg_tile.tif": "its labels are colours",
} | dict.fromkeys(PICTURES, "its labels are colours")
"""Rasters to refuse as labels, with words of the reason."""
LABELS = {"palette_lambert.tif", "label_float32_nan_nocrs.tif", "label_other_crs_nonsquare.tif"}
"""Rasters to accept as labels, each in a test of its own."""


def test_every_raster_of_the_index_is_tried_as_a_label(awkward: Path) -> None:
    own_tests = LABELS | {"label_not_binary_localcs.tif", "world_36000x18000.tif", "RGB2.byte.tif.msk"}
    with (awkward / "index.csv").open(encoding="utf-8", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} == set(NO_LABELS) | own_tests


@pytest.mark.parametrize(("name", "reason"), NO_LABELS.items())
def test_an_image_is_no_label(awkward: Path, tmp_path: Path, name: str, reason: str) -> None:
    if "readable" in reason or name.endswith(".vrt"):
        scene = write(tmp_path / "scene.tif", noise(64, 64))
    else:
        scene = like(awkward / name, tmp_path / "scene.tif", noise)
    refused(tmp_path, "tile", scene, "--labels", awkward / name, "-o", tmp_path / "data", names=name, reason=reason)


@pytest.mark.parametrize("name", PICTURES)
def test_colors_of_a_picture_are_no_classes(awkward: Path, tmp_path: Path, name: str) -> None:
    scene = like(awkward / name, tmp_path / "scene.tif", noise)
    options = ("--labels", awkward / name, "--classes", "chesapeake", "-o", tmp_path / "data")
    error = refused(tmp_path, "tile", scene, *options, names=name, reason="values that no class has: #")
    assert "not an image?" in error


def test_a_damaged_block_of_colors_is_told(awkward: Path, tmp_path: Path) -> None:
    name = "corrupt_jpeg_tile.tif"
    scene = like(awkward / name, tmp_path / "scene.tif", noise)
    options = ("--labels", awkward / name, "--classes", "chesapeake", "-o", tmp_path / "data")
    refused(tmp_path, "tile", scene, *options, names=name, reason="not a readable raster")


def test_labels_of_the_whole_world_are_read_where_the_scene_is(awkward: Path, tmp_path: Path) -> None:
    world = awkward / "world_36000x18000.tif"
    place = {"crs": "EPSG:32633", "transform": from_origin(400_000, 5_200_000, 500, 500)}
    scene = write(tmp_path / "scene.tif", noise(120, 130), **place)
    table = {"classes": [{"code": n, "name": f"c{n}", "color": f"#{n:06x}"} for n in range(255)]}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(table))
    options = ("--classes", tmp_path / "all.yaml", "--size", 64, "--split", 100, 0, 0)
    accepted("tile", scene, "--labels", world, *options, "-o", tmp_path / "data")
    expected = np.zeros((120, 130), np.uint8)
    with rasterio.open(world) as source:
        rasterio.warp.reproject(
            rasterio.band(source, 1), expected, dst_transform=place["transform"], dst_crs=place["crs"], tolerance=0
        )
    found = np.zeros_like(expected)
    for tile in gpd.read_file(tmp_path / "data" / "tiles.gpkg").itertuples():
        codes = codes_of(tmp_path / "data" / "labels" / tile.split / f"{tile.tile}.tif")
        part = found[tile.row_off : tile.row_off + tile.height, tile.col_off : tile.col_off + tile.width]
        own = codes[: part.shape[0], : part.shape[1]]
        part[own != 255] = own[own != 255]
    assert (expected > 0).any() and (found == expected).mean() > 0.999
