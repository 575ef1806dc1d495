"""What options of `predict` do to the map, and what they leave beside it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate
from typer.testing import CliRunner, Result

from cwsam_cli.commands.options import command_line, parse_memory_size
from cwsam_cli.main import app

Cwsam = Callable[..., Result]

HEIGHT, WIDTH = 110, 140
PLACE = from_origin(600_000, 4_000_000, 30, 30)


def picture(height: int = HEIGHT, width: int = WIDTH) -> Any:
    """Patches of the colours the model knows, and of colours between them, of which it is not sure."""
    rng = np.random.default_rng(3)
    patches = rng.integers(0, 5, (height // 9 + 1, width // 9 + 1)).repeat(9, 0).repeat(9, 1)[:height, :width]
    colors = np.linspace(40, 200, 9).reshape(3, 3)
    colors = np.stack([*colors, colors[:2].mean(axis=0), colors[1:].mean(axis=0)])
    image = colors[patches].transpose(2, 0, 1) + rng.normal(0, 6, (3, height, width))
    return image.clip(1, 254).astype(np.uint8)


def read(path: Path | str) -> Any:
    with rasterio.open(path) as source:
        return source.read()


@pytest.fixture
def scene(make_raster: Any) -> Path:
    return make_raster("scene.tif", picture(), transform=PLACE)


@pytest.fixture
def predict(cwsam: Cwsam, run: Any, scene: Path) -> Callable[..., Any]:
    """Map the scene in fp32; returns the codes."""

    def to_codes(*options: Any, name: str = "map.tif", of: Path | str = scene) -> Any:
        cwsam("predict", of, "-c", run.checkpoint, "-o", name, "--precision", "fp32", *options)
        return read(name)[0]

    return to_codes


# Where


def test_bounds_are_snapped_outward_and_show_what_the_whole_map_shows(predict: Any) -> None:
    whole = predict(name="whole.tif")
    west, north = 600_000 + 30 * 41.5, 4_000_000 - 30 * 20.2
    part = predict("--bounds", west, north - 30 * 33.1, west + 30 * 50, north, name="part.tif")
    with rasterio.open("part.tif") as source:
        assert source.transform == PLACE * PLACE.translation(41, 20)
    np.testing.assert_array_equal(part, whole[20:54, 41:92])


def test_bounds_on_pixel_edges_take_no_pixel_more(predict: Any) -> None:
    part = predict("--bounds", 600_300, 3_999_400, 600_600, 3_999_700)
    assert part.shape == (10, 10)


def test_bounds_that_reach_beyond_the_scene_are_cut(predict: Any) -> None:
    np.testing.assert_array_equal(predict("--bounds", 0, 0, 9e6, 9e6, name="a.tif"), predict(name="b.tif"))


def test_bounds_of_a_south_up_scene_mean_the_same_ground(predict: Any, make_raster: Any) -> None:
    bounds = ("--bounds", 600_300, 3_998_000, 602_000, 3_999_500)
    north = predict(*bounds, name="north.tif")
    flipped = make_raster(
        "flipped.tif", picture()[:, ::-1], transform=PLACE * PLACE.translation(0, HEIGHT) * PLACE.scale(1, -1)
    )
    south = predict(*bounds, name="south.tif", of=flipped)
    np.testing.assert_array_equal(south[::-1], north)
    with rasterio.open("north.tif") as one, rasterio.open("south.tif") as other:
        assert sorted(one.bounds) == pytest.approx(sorted(other.bounds))


def test_bounds_beside_the_scene_are_refused(refused: Any, run: Any, scene: Path) -> None:
    bounds = ("--bounds", 0, 0, 10, 10)
    refused(4, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", *bounds, names="outside the scene")


@pytest.mark.parametrize("bounds", [("nan",) * 4, ("0", "0", "inf", "inf"), ("9", "0", "1", "5"), ("0", "5", "9", "5")])
def test_bounds_that_are_none_are_refused(refused: Any, run: Any, scene: Path, bounds: tuple[str, ...]) -> None:
    refused(2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--bounds", *bounds, names="--bounds")


def test_outside_an_area_of_interest_is_nodata_and_inside_the_whole_map(predict: Any) -> None:
    whole = predict(name="whole.tif")
    circle = shapely.Point(602_000, 3_998_500).buffer(700)
    gpd.GeoDataFrame(geometry=[circle, shapely.box(603_900, 3_999_700, 9e5, 9e6)], crs="EPSG:32617").to_crs(
        4326
    ).to_file("aoi.gpkg")
    part = predict("--aoi", "aoi.gpkg", name="part.tif")
    rows, cols = np.indices(whole.shape)
    x, y = 600_000 + 30 * (cols + 0.5), 4_000_000 - 30 * (rows + 0.5)
    inside = shapely.contains_xy(circle, x, y) | ((x > 603_900) & (y > 3_999_700))
    shown = part != 255
    assert (shown != inside).sum() < 12  # reprojecting polygons moves their edge a little
    np.testing.assert_array_equal(part[shown], whole[shown])


@pytest.mark.parametrize(
    ("geometry", "crs", "names"),
    [
        (shapely.box(0, 0, 1, 1), "EPSG:32617", "no polygon of"),
        (shapely.Point(602_000, 3_998_500), "EPSG:32617", "no polygon"),
        (shapely.box(0, 0, 1, 1), None, "coordinate reference system"),
    ],
)
def test_an_area_of_interest_that_cannot_be_meant_is_refused(
    refused: Any, run: Any, scene: Path, tmp_path: Path, geometry: Any, crs: str | None, names: str
) -> None:
    gpd.GeoDataFrame(geometry=[geometry], crs=crs).to_file(tmp_path / "aoi.gpkg")
    common = ("predict", scene, "-c", run.checkpoint, "-o", "map.tif")
    refused(4, *common, "--aoi", tmp_path / "aoi.gpkg", names=names)


# Layers


def test_layers_lie_beside_the_map_on_its_grid_and_leave_it_as_it_is(predict: Any) -> None:
    plain = predict(name="plain.tif")
    codes = predict("--confidence", "--probabilities", "--entropy")
    np.testing.assert_array_equal(codes, plain)
    confidence, entropy = read("map.confidence.tif")[0], read("map.entropy.tif")[0]
    probabilities = read("map.probabilities.tif")
    assert probabilities.shape == (3, HEIGHT, WIDTH)
    assert abs(probabilities.astype(int).sum(axis=0) - 100).max() <= 2
    np.testing.assert_array_equal(probabilities.max(axis=0), confidence)
    sure = confidence > np.sort(probabilities, axis=0)[1]
    np.testing.assert_array_equal((probabilities.argmax(axis=0) + 1)[sure], codes[sure])
    assert entropy.max() <= 100 and entropy.min() > 90  # hardly trained, the model is sure of nothing
    with rasterio.open("map.probabilities.tif") as source, rasterio.open("map.tif") as drawn:
        assert source.descriptions == ("class 1", "class 2", "class 3")
        assert (source.transform, source.crs, source.nodata) == (drawn.transform, drawn.crs, 255)


def test_layers_are_nodata_where_the_scene_is(predict: Any, make_raster: Any) -> None:
    image = picture()
    image[:, 30:60, 40:90] = 0
    holed = make_raster("holed.tif", image, nodata=0)
    codes = predict("--confidence", "--probabilities", of=holed)
    for layer in (*read("map.confidence.tif"), *read("map.probabilities.tif")):
        np.testing.assert_array_equal(layer == 255, codes == 255)
    assert (codes == 255).sum() == 30 * 50


def test_what_is_less_sure_than_asked_is_nodata(predict: Any) -> None:
    plain = predict("--confidence", name="plain.tif")
    confidence = read("plain.confidence.tif")[0]
    limit = int(np.median(confidence))
    codes = predict("--min-confidence", limit)
    assert (codes[confidence < limit] == 255).all()
    np.testing.assert_array_equal(codes[confidence > limit], plain[confidence > limit])


def test_a_model_without_groups_has_no_map_of_them(refused: Any, run: Any, scene: Path) -> None:
    refused(2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--experts", names="--experts")


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_turned_views_give_nearly_the_same_map(predict: Any, tta: str) -> None:
    plain, other = predict(name="plain.tif"), predict("--tta", tta, "--probabilities")
    assert np.isin(other, [1, 2, 3]).all()
    assert 0.7 < (plain == other).mean() < 1
    assert abs(read("map.probabilities.tif").astype(int).sum(axis=0) - 100).max() <= 2


def test_bf16_gives_nearly_the_same_map(predict: Any) -> None:
    assert (predict(name="plain.tif") == predict("--precision", "bf16")).mean() > 0.97


@pytest.mark.parametrize("options", [("--batch-size", 1), ("--batch-size", 3), ("--max-memory", "4GB")])
def test_memory_and_batches_hardly_change_the_map(predict: Any, options: tuple[Any, ...]) -> None:
    assert (predict(name="plain.tif") == predict(*options)).mean() > 0.9999


# Files


def test_a_cog_is_valid_and_says_its_classes(predict: Any) -> None:
    plain = predict(name="plain.tif")
    np.testing.assert_array_equal(predict("--format", "COG", "--confidence"), plain)
    for name in ("map.tif", "map.confidence.tif"):
        valid, errors, _ = cog_validate(name)
        assert valid, errors
    with rasterio.open("map.tif") as cog, rasterio.open("plain.tif") as tiff:
        assert cog.colormap(1) == tiff.colormap(1)
        assert cog.tags()["CWSAM_CLASSES"] == tiff.tags()["CWSAM_CLASSES"]
        assert cog.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert Path("map.tif.aux.xml").read_text("utf-8") == Path("plain.tif.aux.xml").read_text("utf-8")


def test_overviews_of_a_cog_hold_classes_only(predict: Any, make_raster: Any) -> None:
    large = make_raster("large.tif", picture(700, 600))
    predict("--format", "COG", of=large)
    with rasterio.open("map.tif") as cog:
        assert cog.overviews(1)
        assert set(np.unique(cog.read(1, out_shape=(350, 300)))) <= {1, 2, 3}


@pytest.mark.parametrize("compress", ["ZSTD", "DEFLATE", "LZW"])
def test_compression_is_a_matter_of_choice(predict: Any, compress: str) -> None:
    plain = predict(name="plain.tif")
    np.testing.assert_array_equal(predict("--co", f"COMPRESS={compress}"), plain)
    with rasterio.open("map.tif") as source:
        assert source.compression.name == compress.lower()
        assert source.profile["tiled"] and source.block_shapes == [(256, 256)]


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdal-bin is not installed")
@pytest.mark.parametrize("format", ["GTiff", "COG"])
def test_gdalinfo_shows_names_colours_and_attributes(cwsam: Cwsam, odd_classes: Any, format: str) -> None:
    """Another GDAL than the one that wrote it."""
    cwsam("predict", odd_classes.scene, "-c", odd_classes.checkpoint, "-o", "map.tif", "--format", format)
    told = subprocess.run(["gdalinfo", "map.tif"], capture_output=True, text=True, check=True).stdout
    assert "NoData Value=255" in told and "ColorInterp=Palette" in told
    assert "    1: 水体\n" in told and "    3: grass & <herbs>\n" in told and "  200: 林地\n" in told
    assert "  1: 0,0,255,255\n" in told and "200: 0,255,0,255\n" in told
    assert "<GDALRasterAttributeTable" in told and "<F>冰川</F>" in told
    tags = ("CWSAM_CLASSES=", "CWSAM_CHECKPOINT_SHA256=", "CWSAM_VERSION=", "CWSAM_COMMAND=")
    assert all(tag in told for tag in tags)


def test_qgis_finds_the_maps_colours_by_its_name(cwsam: Cwsam, odd_classes: Any) -> None:
    cwsam("predict", odd_classes.scene, "-c", odd_classes.checkpoint, "-o", "map.tif")
    style = ElementTree.parse("map.qml").getroot()
    assert style.tag == "qgis"
    renderer = style.find("pipe/rasterrenderer")
    assert renderer is not None and renderer.get("type") == "paletted" and renderer.get("band") == "1"
    entries = {
        int(entry.get("value", "")): (entry.get("label"), entry.get("color")) for entry in style.iter("paletteEntry")
    }
    assert entries[200] == ("林地", "#00ff00")
    assert entries[3] == ("grass & <herbs>", "#ffff00")
    assert len(entries) == 5


def test_a_preview_shows_the_maps_colours_and_its_legend(cwsam: Cwsam, odd_classes: Any) -> None:
    cwsam("predict", odd_classes.scene, "-c", odd_classes.checkpoint, "-o", "map.tif", "--preview", "map.png")
    with Image.open("map.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
        assert picture.width >= 200 and picture.height > 160
    assert {(0, 0, 255), (0, 255, 0), (255, 0, 255)} <= colors


def test_overwriting_without_layers_leaves_no_layer_of_an_older_map(predict: Any, tmp_path: Path) -> None:
    predict("--confidence")
    predict("--overwrite")
    assert not (tmp_path / "map.confidence.tif").exists()


def test_overwriting_leaves_a_layer_that_nobody_knows(predict: Any, tmp_path: Path) -> None:
    predict()
    (tmp_path / "map.entropy.tif").write_text("mine")
    predict("--overwrite")
    assert (tmp_path / "map.entropy.tif").read_text() == "mine"


@pytest.mark.parametrize("kept", ["map.confidence.tif", "map.png", "map.qml", "map.tif.aux.xml", "all"])
def test_what_remains_of_the_same_map_is_in_nobodys_way(predict: Any, tmp_path: Path, snapshot: Any, kept: str) -> None:
    options = ("--confidence", "--preview", "map.png")
    predict(*options)
    before = snapshot(tmp_path)
    for path in tmp_path.glob("map.*"):
        if path.name == "map.tif" or kept not in (path.name, "all"):
            path.unlink()
    predict(*options)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("there", ["map.confidence.tif", "map.png"])
def test_what_remains_of_another_map_is_not_replaced(
    predict: Any, refused: Any, run: Any, scene: Path, tmp_path: Path, there: str
) -> None:
    options = ("--confidence", "--preview", "map.png", "--precision", "fp32")
    predict(*options)
    for path in tmp_path.glob("map.*"):
        if path.name != there:
            path.unlink()
    refused(2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", *options, "--overlap", 0.5, names=there)


@pytest.mark.parametrize("there", ["map.confidence.tif", "map.png", "map.qml", "map.tif.aux.xml"])
def test_an_existing_file_beside_the_map_is_not_replaced(
    refused: Any, run: Any, scene: Path, tmp_path: Path, there: str
) -> None:
    (tmp_path / there).write_text("mine")
    options = ("--confidence", "--preview", "map.png")
    refused(2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", *options, names=there)


# Checks


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tta", "all"), ("--format", "PNG"), ("--alpha", "yes"), ("--precision", "fp8")],
)
def test_values_that_an_option_does_not_know_are_named(run: Any, scene: Path, option: str, value: str) -> None:
    command = ["predict", str(scene), "-c", str(run.checkpoint), "-o", "map.tif", option, value]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert f"'{option}'" in result.stderr and f"'{value}' is not one of" in result.stderr


@pytest.mark.parametrize("value", ["lots", "-1GB", "GB", "0"])
def test_a_size_of_memory_that_is_none_is_named(refused: Any, run: Any, scene: Path, value: str) -> None:
    refused(2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--max-memory", value, names=value)


@pytest.mark.parametrize("value", ["4", "0.5", "4000000000"])
def test_a_size_of_memory_without_a_unit_is_refused(refused: Any, run: Any, scene: Path, value: str) -> None:
    arguments = ("predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--max-memory", value)
    assert f"--max-memory {value}GB" in refused(2, *arguments, names=f"--max-memory `{value}` has no unit")
    arguments = ("plan", "--config", "tiny", "--gpus", 1, "--gpu-memory", value)
    assert f"--gpu-memory {value}GB" in refused(2, *arguments, names=f"--gpu-memory `{value}` has no unit")


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("500mb", 5 * 10**8), ("2g", 2 * 10**9), ("7B", 7)]
)
def test_a_size_of_memory_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_memory_size(text, "--max-memory") == size


def test_too_little_memory_is_told_with_what_is_needed(refused: Any, run: Any, scene: Path) -> None:
    message = refused(6, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--max-memory", "50MB", names="50 MB")
    assert "need" in message


def test_bands_are_taken_in_the_order_that_is_asked_for(predict: Any, make_raster: Any) -> None:
    plain = predict(name="plain.tif")
    swapped = make_raster("swapped.tif", picture()[::-1])
    np.testing.assert_array_equal(predict("--bands", "3,2,1", of=swapped), plain)


@pytest.mark.parametrize("bands", ["3,2", "3,2,9", "red,green,infrared"])
def test_bands_that_are_not_there_are_named(refused: Any, run: Any, scene: Path, bands: str) -> None:
    refused(4, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--bands", bands, names="scene.tif")


def test_alpha_hides_pixels_or_is_ignored_as_asked(predict: Any, make_raster: Any) -> None:
    alpha = np.full((1, HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :, :50] = 0
    rgba = make_raster("rgba.tif", np.concatenate([picture(), alpha]), photometric="RGB", alpha="YES")
    np.testing.assert_array_equal(predict(of=rgba, name="a.tif") == 255, alpha[0] == 0)
    np.testing.assert_array_equal(predict("--alpha", "mask", of=rgba, name="b.tif") == 255, alpha[0] == 0)
    assert (predict("--alpha", "ignore", of=rgba, name="c.tif") != 255).all()


def test_values_of_another_scale_are_warned_of(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    bright = make_raster("reflectance.tif", picture().astype(np.uint16) * 100)
    told = cwsam("predict", bright, "-c", run.checkpoint, "-o", "map.tif").stderr
    assert "uint16" in told
    assert told.count("values of another scale") == 3
    assert "scale" not in cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "own.tif").stderr


@pytest.mark.parametrize(
    ("metres", "warned"), [(14.0, True), (16.0, False), (30.0, False), (59.0, False), (61.0, True)]
)
def test_pixels_of_another_size_are_warned_of_beyond_a_factor_of_two(
    cwsam: Cwsam, run: Any, make_raster: Any, metres: float, warned: bool
) -> None:
    scene = make_raster("scene.tif", picture(), transform=from_origin(6e5, 4e6, metres, metres))
    told = cwsam("predict", scene, "-c", run.checkpoint, "-o", "map.tif").stderr
    assert ("--resample-to-model" in told) == warned


def test_a_dry_run_tells_the_cost_and_writes_nothing(cwsam: Cwsam, run: Any, scene: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    text = cwsam("predict", scene, "-c", run.checkpoint, "--dry-run").stdout
    assert f"{WIDTH} × {HEIGHT} pixels" in text
    for word in ("windows", "in the model", "of memory", "of disk"):
        assert word in text
    told = json.loads(cwsam("predict", scene, "-c", run.checkpoint, "--dry-run", "--json").stdout)["scenes"][0]
    assert told["windows"] == 6 * 7 and told["disk"] == 2 * HEIGHT * WIDTH
    assert told["seconds"] > 0 and told["memory"] > 10**8
    assert set(tmp_path.rglob("*")) == before


def test_a_dry_run_warns_as_a_run_does(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    scene = make_raster("scene.tif", picture().astype(np.float32) / 10_000, crs=None)
    told = cwsam("predict", scene, "-c", run.checkpoint, "--dry-run").stderr
    assert "no coordinate reference system" in told and "float32" in told


def test_a_scene_with_control_points_only_is_refused_with_the_line_that_mends_it(
    refused: Any, run: Any, make_raster: Any
) -> None:
    points = [rasterio.control.GroundControlPoint(r, c, 8 + c / 100, 47 - r / 100) for r in (0, 99) for c in (0, 99)]
    scene = make_raster("gcps.tif", picture(), transform=rasterio.Affine.identity(), gcps=points)
    assert "gdalwarp -tps" in refused(4, "predict", scene, "-c", run.checkpoint, "--dry-run", names="gcps.tif")


def test_an_output_must_be_named(refused: Any, run: Any, scene: Path) -> None:
    assert "-o map.tif" in refused(2, "predict", scene, "-c", run.checkpoint, names="output")


@pytest.mark.parametrize("nodata", ["value", "mask", "alpha", "nan"])
def test_a_finer_scene_is_mapped_at_the_pixel_size_the_model_knows(predict: Any, make_raster: Any, nodata: str) -> None:
    image = picture()
    image[:, 40:60] = 0
    fine = image.repeat(3, axis=1).repeat(3, axis=2)
    place = {"transform": from_origin(600_000, 4_000_000, 10, 10)}
    inside = ((fine[0] > 0) * 255).astype(np.uint8)
    if nodata == "value":
        path = make_raster("fine.tif", fine, nodata=0, **place)
    elif nodata == "mask":
        path = make_raster("fine.tif", fine, mask=inside, **place)
    elif nodata == "alpha":
        path = make_raster("fine.tif", np.concatenate([fine, inside[None]]), photometric="RGB", alpha="YES", **place)
    else:
        path = make_raster("fine.tif", np.where(inside, fine.astype(np.float32), np.nan), nodata=np.nan, **place)
    coarse = predict(of=make_raster("coarse.tif", image, nodata=0, transform=PLACE), name="coarse_map.tif")
    codes = predict("--resample-to-model", of=path)
    with rasterio.open("map.tif") as source:
        assert source.transform.almost_equals(PLACE) and source.shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(codes == 255, coarse == 255)
    assert (codes == coarse).mean() > 0.98


def test_a_scene_without_a_place_has_no_pixel_size_to_change(refused: Any, run: Any, make_raster: Any) -> None:
    scene = make_raster("scene.tif", picture(), crs=None)
    refused(4, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--resample-to-model", names="scene.tif")


# What may be written where


def test_a_preview_goes_to_a_folder_that_is_not_there_yet(predict: Any) -> None:
    predict("--preview", "pictures/of/map.png")
    assert Image.open("pictures/of/map.png").format == "PNG"


@pytest.mark.parametrize("name", ["map.tif", "map.jpg"])
def test_a_preview_that_is_no_png_is_refused(refused: Any, run: Any, scene: Path, name: str) -> None:
    refused(
        2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--preview", name, names="not the name of a PNG"
    )


def test_a_scene_called_like_an_older_maps_layer_stays(refused: Any, run: Any, make_raster: Any) -> None:
    scene = make_raster("map.experts.tif", picture(), transform=PLACE)
    refused(2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--overwrite", names="is an input")


@pytest.mark.parametrize("form", ["GTiff", "COG"])
def test_a_creation_option_that_gdal_refuses_is_refused_before_any_work(
    refused: Any, run: Any, scene: Path, form: str
) -> None:
    options = ("--co", "BLOCKXSIZE=17", "--co", "BLOCKSIZE=17", "--format", form)
    refused(2, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", *options, names="--co")


def test_a_scene_is_not_called_empty_where_the_model_is_only_unsure(cwsam: Cwsam, run: Any, scene: Path) -> None:
    told = cwsam("predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--min-confidence", 100)
    assert "no valid pixel of that confidence" in told.stderr


def test_bands_may_be_named_with_spaces_between(predict: Any) -> None:
    np.testing.assert_array_equal(
        predict("--bands", "3, 2, 1", name="a.tif"), predict("--bands", "3,2,1", name="b.tif")
    )


def test_bands_taken_by_position_are_warned_of_with_their_numbers(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    bare = make_raster("bare.tif", picture(), photometric="MINISBLACK")
    told = cwsam("predict", bare, "-c", run.checkpoint, "-o", "map.tif").stderr
    assert told.count("bands 1, 2, 3 (band_1, band_2, band_3) are taken for red, green, blue by position") == 1
    chosen = cwsam("predict", bare, "-c", run.checkpoint, "-o", "chosen.tif", "--bands", "1,2,3").stderr
    named = cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "named.tif").stderr
    assert "by position" not in chosen + named


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("https://example.org/a.tif?X-Amz-Signature=abc&x=1", "https://example.org/a.tif"),
        ("/vsicurl/https://me:word@example.org/a.tif", "/vsicurl/https://example.org/a.tif"),
        ("/vsicurl?header.Authorization=abc&url=x", "/vsicurl"),
        ("--aoi=https://example.org/a.gpkg?sig=abc", "--aoi=https://example.org/a.gpkg"),
        ("scenes/what?.tif", "'scenes/what?.tif'"),
    ],
)
def test_the_record_of_a_command_holds_no_secret_of_a_url(
    monkeypatch: pytest.MonkeyPatch, typed: str, kept: str
) -> None:
    monkeypatch.setattr("sys.argv", ["cwsam", "predict", typed, "-o", "map.tif"])
    assert command_line() == f"cwsam predict {kept} -o map.tif"
