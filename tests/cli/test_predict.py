"""The map lies on the scene's own grid, says its classes itself, and is a class wherever the scene is anything."""

import hashlib
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from pyproj import Geod, Transformer
from rasterio.transform import from_origin
from typer.testing import Result

Cwsam = Callable[..., Result]


def picture(height: int, width: int, bands: int = 3, seed: int = 0) -> Any:
    """Patches of the colours the model knows, with some noise: its map is not all one class."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 3, (height // 9 + 1, width // 9 + 1)).repeat(9, 0).repeat(9, 1)[:height, :width]
    colors = np.linspace(40, 200, 3 * bands).reshape(3, bands)
    image = colors[patches].transpose(2, 0, 1) + rng.normal(0, 6, (bands, height, width))
    return image.clip(1, 254).astype(np.uint8)


def codes_of(path: Path) -> Any:
    with rasterio.open(path) as source:
        return source.read(1)


def names_of(path: Path, scratch: Path) -> dict[int, str]:
    """Category names as any GDAL program reads them."""
    rasterio.shutil.copy(path, scratch, driver="VRT")
    names = [entry.text or "" for entry in ElementTree.parse(scratch).iter("Category")]
    return {code: name for code, name in enumerate(names) if name}


@pytest.fixture
def predict(cwsam: Cwsam, run: Any, tmp_path: Path) -> Callable[..., Any]:
    """Map a scene with the striped run's model; returns the codes."""

    def to_codes(scene: Path, *options: Any, name: str = "map.tif") -> Any:
        cwsam("predict", scene, "-c", run.checkpoint, "-o", name, *options)
        return codes_of(tmp_path / name)

    return to_codes


# The grid


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32617", from_origin(600_000.123456789, 4_000_000.987654321, 28.500000001, 28.499999999)),
        ("EPSG:4326", from_origin(-78.123456789012345, 35.987654321098765, 1 / 3600, 1 / 3600)),
        ("EPSG:32617", Affine(30, 0, 600_000, 0, 30, 3_990_000)),
        ("EPSG:32617", Affine(-30, 0, 600_000, 0, -30, 3_990_000)),
        ("EPSG:32617", Affine.translation(6e5, 4e6) @ Affine.rotation(33) @ Affine.scale(10, -10)),
        ("EPSG:32617", Affine(10, 3, 600_000, 1, -7, 4_000_000)),
        (None, from_origin(2_644_000, 1_228_000, 100, 100)),
    ],
    ids=["long digits", "degrees", "south up", "mirrored", "rotated", "sheared", "no crs"],
)
def test_the_map_lies_on_the_scenes_own_grid(
    predict: Any, make_raster: Any, tmp_path: Path, crs: str | None, transform: Affine
) -> None:
    scene = make_raster("scene.tif", picture(45, 70), crs=crs, transform=transform)
    predict(scene)
    with rasterio.open(scene) as there, rasterio.open(tmp_path / "map.tif") as here:
        assert here.transform == there.transform == transform
        assert here.crs == there.crs
        assert here.shape == there.shape
        assert (here.count, here.dtypes, here.nodata) == (1, ("uint8",), 255)


def test_a_scene_without_georeferencing_gives_a_map_without(predict: Any, make_raster: Any, tmp_path: Path) -> None:
    scene = make_raster("scene.tif", picture(40, 40), crs=None, transform=Affine.identity())
    assert (predict(scene) != 255).all()
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.crs is None and source.transform.is_identity


def test_a_crs_without_a_code_is_carried_through(predict: Any, make_raster: Any, tmp_path: Path) -> None:
    wkt = 'LOCAL_CS["Cartesian (Meter)",UNIT["metre",1],AXIS["X",EAST],AXIS["Y",NORTH]]'
    predict(make_raster("scene.tif", picture(20, 20), crs=wkt))
    with rasterio.open(tmp_path / "map.tif") as source, rasterio.open(tmp_path / "scene.tif") as scene:
        assert source.crs == scene.crs
        assert "Cartesian (Meter)" in source.crs.to_wkt()


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (7, 3), (3, 7), (1, 80), (31, 33), (32, 32), (33, 64), (100, 45), (129, 131)]
)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.7])
def test_scenes_of_any_size_are_mapped_to_their_last_pixel(
    predict: Any, make_raster: Any, height: int, width: int, overlap: float
) -> None:
    codes = predict(make_raster("scene.tif", picture(height, width)), "--overlap", overlap)
    assert codes.shape == (height, width)
    assert np.isin(codes, [1, 2, 3]).all()


# Nodata


HOLES = np.zeros((70, 90), bool)
HOLES[:11] = HOLES[30:45, 20:60] = HOLES[60:, 80:] = True
HOLES[55, 5] = True


@pytest.fixture(params=["value", "nan", "nan tagged", "float value", "mask", "mask file", "alpha", "16 bit"])
def holed(request: pytest.FixtureRequest, make_raster: Any) -> Path:
    """A scene with holes, once for every way a raster can say so."""
    image, inside = picture(70, 90), (~HOLES * 255).astype(np.uint8)
    floats = image.astype(np.float32)
    if request.param == "value":
        return make_raster("scene.tif", np.where(HOLES, 0, image).astype(np.uint8), nodata=0)
    if request.param == "nan":
        return make_raster("scene.tif", np.where(HOLES, np.nan, floats))
    if request.param == "nan tagged":
        return make_raster("scene.tif", np.where(HOLES, np.nan, floats), nodata=np.nan)
    if request.param == "float value":
        return make_raster("scene.tif", np.where(HOLES, np.float32(-3.4e38), floats), nodata=float(np.float32(-3.4e38)))
    if request.param == "mask":
        return make_raster("scene.tif", image, mask=inside)
    if request.param == "mask file":
        scene = make_raster("scene.tif", image)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as target:
            target.write_mask(inside)
        assert scene.with_name("scene.tif.msk").exists()
        return scene
    if request.param == "alpha":
        return make_raster("scene.tif", np.concatenate([image, inside[None]]), photometric="RGB", alpha="YES")
    return make_raster("scene.tif", np.where(HOLES, np.uint16(65_535), image), nodata=65_535)


def test_nodata_stays_nodata_and_nothing_else_becomes_it(predict: Any, holed: Path) -> None:
    codes = predict(holed)
    assert ((codes == 255) == HOLES).all()
    assert np.isin(codes[~HOLES], [1, 2, 3]).all()


def test_what_lies_under_nodata_does_not_show_through(predict: Any, make_raster: Any) -> None:
    image, inside = picture(70, 90), (~HOLES * 255).astype(np.uint8)
    dark, bright = np.where(HOLES, 0, image).astype(np.uint8), np.where(HOLES, 255, image).astype(np.uint8)
    a = predict(make_raster("dark.tif", dark, mask=inside), name="a.tif")
    b = predict(make_raster("bright.tif", bright, mask=inside), name="b.tif")
    assert (a == b).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_in_one_band_is_nodata_and_harms_no_other(
    predict: Any, make_raster: Any, poison: float
) -> None:
    image = picture(70, 90).astype(np.float32)
    image[1, 40, 40] = poison
    codes = predict(make_raster("scene.tif", image))
    assert codes[40, 40] == 255
    codes[40, 40] = 1
    assert np.isin(codes, [1, 2, 3]).all()


def test_a_scene_of_nodata_alone_gives_a_map_of_nodata(predict: Any, make_raster: Any, tmp_path: Path) -> None:
    codes = predict(make_raster("scene.tif", np.zeros((3, 40, 70), np.uint8), nodata=0))
    assert (codes == 255).all()
    assert names_of(tmp_path / "map.tif", tmp_path / "names.vrt") == {1: "class 1", 2: "class 2", 3: "class 3"}


def test_a_fourth_band_that_is_a_picture_is_no_mask(
    cwsam: Cwsam, small: tuple[str, ...], make_raster: Any, tmp_path: Path
) -> None:
    """NAIP's near infrared is tagged alpha."""
    image = picture(64, 64, bands=4)
    image[3, :20] = 0
    tagged = make_raster("tagged.tif", image, photometric="RGB", alpha="YES")
    labels = make_raster("labels.tif", (np.indices((64, 64))[1] // 8 % 3 + 1).astype(np.uint8))
    cwsam("tile", tagged, "--labels", labels, "-o", "dataset", "--size", 16)
    cwsam("train", *small, "--set", "epoch_max=1", "--data", "dataset", "-o", "run")
    cwsam("predict", tagged, "-c", "run/model_epoch_best.pth", "-o", "map.tif")
    assert (codes_of(tmp_path / "map.tif") != 255).all()


# What the map says


def test_the_map_says_its_classes_itself(cwsam: Cwsam, odd_classes: Any, tmp_path: Path) -> None:
    cwsam("predict", odd_classes.scene, "-c", odd_classes.checkpoint, "-o", "map.tif")
    names = {1: "水体", 3: "grass & <herbs>", 7: "冰川", 9: "矿山", 200: "林地"}
    assert names_of(tmp_path / "map.tif", tmp_path / "names.vrt") == names
    found = np.unique(codes_of(tmp_path / "map.tif"))
    assert set(found) <= set(names) and len(found) > 1
    with rasterio.open(tmp_path / "map.tif") as source:
        colors = source.colormap(1)
        tags = source.tags()
        assert source.colorinterp[0] == rasterio.enums.ColorInterp.palette
    assert colors[1] == (0, 0, 255, 255) and colors[200] == (0, 255, 0, 255) and colors[9] == (255, 0, 255, 255)
    told = [json.loads(value) for value in tags.values() if value.startswith("{")]
    assert {entry["code"]: entry["name"] for entry in told[0]["classes"]} == names
    assert hashlib.sha256(odd_classes.checkpoint.read_bytes()).hexdigest() in tags.values()


def test_the_attribute_table_pairs_codes_with_names_and_colours(cwsam: Cwsam, odd_classes: Any, tmp_path: Path) -> None:
    cwsam("predict", odd_classes.scene, "-c", odd_classes.checkpoint, "-o", "map.tif")
    rasterio.shutil.copy("map.tif", "map.vrt", driver="VRT")
    table = ElementTree.parse("map.vrt").getroot().find(".//GDALRasterAttributeTable")
    assert table is not None
    usage = [int(field.findtext("Usage", "")) for field in table.iter("FieldDefn")]
    rows = [dict(zip(usage, (cell.text for cell in row), strict=True)) for row in table.iter("Row")]
    value, name, red, green, blue = 5, 2, 6, 7, 8  # GDALRATFieldUsage
    found = {int(row[value] or ""): (row[name], row[red], row[green], row[blue]) for row in rows}
    assert found[200] == ("林地", "0", "255", "0")
    assert found[3] == ("grass & <herbs>", "255", "255", "0")


def test_names_survive_the_loss_of_the_sidecar(cwsam: Cwsam, odd_classes: Any, tmp_path: Path) -> None:
    cwsam("predict", odd_classes.scene, "-c", odd_classes.checkpoint, "-o", "map.tif")
    for path in tmp_path.iterdir():
        if path.name != "map.tif":
            path.unlink()
    cwsam("vectorize", "map.tif", "polygons.gpkg")
    found = gpd.read_file("polygons.gpkg")
    names = {1: "水体", 3: "grass & <herbs>", 7: "冰川", 9: "矿山", 200: "林地"}
    assert [names[code] for code in found["code"]] == list(found["name"])


def test_the_map_keeps_the_command_as_it_could_be_typed_again(
    cwsam: Cwsam, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["predict", str(run.scene), "-c", str(run.checkpoint), "-o", "my map.tif"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/cwsam", *typed])
    cwsam(*typed)
    with rasterio.open(tmp_path / "my map.tif") as source:
        assert ["cwsam", *typed] in [shlex.split(value) for value in source.tags().values() if "predict" in value]


def test_json_counts_every_pixel(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    image = picture(70, 90)
    image[:, HOLES] = 0
    scene = make_raster("scene.tif", image, nodata=0)
    told = json.loads(cwsam("predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--json").stdout)
    codes = codes_of(Path("map.tif"))
    assert told["pixels"] == {f"class {code}": int((codes == code).sum()) for code in (1, 2, 3)}
    assert told["nodata"] == HOLES.sum()
    assert (told["width"], told["height"]) == (90, 70)


@pytest.mark.parametrize(
    ("crs", "transform", "areas"),
    [
        ("EPSG:32617", from_origin(600_000, 4_000_000, 30, 30), "planar"),
        ("EPSG:3857", from_origin(0, 8_400_000, 60, 60), "geodesic"),
        ("EPSG:4326", Affine(0.001, 0, 10, 0, 0.001, 60), "geodesic"),
    ],
)
def test_classes_are_told_with_their_ground_and_their_share(
    cwsam: Cwsam, run: Any, make_raster: Any, crs: str, transform: Affine, areas: str
) -> None:
    image = picture(70, 90)
    image[:, HOLES] = 0
    scene = make_raster("scene.tif", image, nodata=0, crs=crs, transform=transform)
    first = cwsam("predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--json").stdout
    told = json.loads(first)
    assert told["areas"] == areas
    left, right = transform @ (0, 0), transform @ (90, 70)
    if crs == "EPSG:32617":
        pixel_m2 = 900.0
    else:
        corners = [left, (right[0], left[1]), right, (left[0], right[1])]
        x, y = Transformer.from_crs(crs, 4326, always_xy=True).transform(*zip(*corners, strict=True))
        pixel_m2 = abs(Geod(ellps="WGS84").polygon_area_perimeter(x, y)[0]) / (70 * 90)
    for name, pixels in told["pixels"].items():
        assert told["hectares"][name] == pytest.approx(pixels * pixel_m2 / 10_000, rel=0.002)
    command = ("predict", scene, "-c", run.checkpoint, "-o", "map.tif", "--overwrite")
    text = cwsam(*command).stdout
    assert f"hectares ({areas})" in text and f"{HOLES.sum():,} of them without a class" in text
    shares = [float(line.split()[-2]) for line in text.splitlines() if line.endswith("%")]
    assert len(shares) == 3 and sum(shares) == pytest.approx(100, abs=0.2) and shares == sorted(shares, reverse=True)


def test_a_map_without_a_crs_is_told_in_pixels(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    scene = make_raster("scene.tif", picture(40, 50), crs=None)
    text = cwsam("predict", scene, "-c", run.checkpoint, "-o", "map.tif").stdout
    assert "pixels    share" in text and "hectares" not in text


def test_a_map_that_is_there_is_told_as_it_was_when_it_was_made(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    """A killed run may have left its journal beside the finished map."""
    command = ("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif", "--json")
    made = cwsam(*command).stdout
    (tmp_path / ".map.tif.journal").mkdir()
    again = cwsam(*command).stdout
    assert json.loads(again)["pixels"] == json.loads(made)["pixels"]
    assert json.loads(again)["hectares"] == pytest.approx(json.loads(made)["hectares"])
    assert not (tmp_path / ".map.tif.journal").exists()


def test_the_output_is_the_map_and_its_sidecar_and_nothing_else(
    cwsam: Cwsam, run: Any, tmp_path: Path, snapshot: Any
) -> None:
    for _ in range(2):
        cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "deeper/map.tif", "--overwrite")
        assert set(snapshot(tmp_path)) == {*("deeper", "deeper/map.tif", "deeper/map.tif.aux.xml", "deeper/map.qml")}


def test_overwriting_replaces_map_and_names(cwsam: Cwsam, run: Any, odd_classes: Any, tmp_path: Path) -> None:
    cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    cwsam("predict", run.scene, "-c", odd_classes.checkpoint, "-o", "map.tif", "--overwrite")
    assert names_of(tmp_path / "map.tif", tmp_path / "names.vrt")[1] == "水体"


def test_the_same_scene_and_model_give_the_same_map(predict: Any, make_raster: Any) -> None:
    scene = make_raster("scene.tif", picture(70, 90))
    assert (predict(scene, name="a.tif") == predict(scene, name="b.tif")).all()


def test_the_scene_is_only_read(predict: Any, run: Any, snapshot: Any) -> None:
    before = snapshot(run.scene.parent)
    predict(run.scene)
    assert snapshot(run.scene.parent) == before


def test_the_map_shows_what_the_model_learnt(cwsam: Cwsam, run: Any, odd_classes: Any, tmp_path: Path) -> None:
    cwsam("predict", run.scene, "-c", odd_classes.checkpoint, "-o", "map.tif")
    assert (codes_of(tmp_path / "map.tif") == codes_of(odd_classes.labels)).mean() > 0.4  # guessing: 0.36
