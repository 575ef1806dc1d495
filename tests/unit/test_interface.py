"""The Python interface: an array is classified like a scene with the same pixels, and maps leave as arrays or files."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

import cwsam_cli
from cwsam_cli.errors import DataError, MissingCRS, OutputExists, UsageError
from cwsam_cli.interface import Classifier, ClassMap, assess_map, open_checkpoint, polygons, vectorize_map
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.work import predict
from cwsam_cli.taxonomy import from_names
from tests.checkpoints import save_network
from tests.small import small

PLACE: Any = {"crs": "EPSG:32617", "transform": from_origin(600_000, 4_000_000, 30, 30)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    return save_network(ClassWiseSam(small(num_bands=4)), tmp_path_factory.mktemp("model") / "model.pth")


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> Classifier:
    return open_checkpoint(checkpoint, precision="fp32")


def image(height: int = 45, width: int = 70) -> Any:
    return np.random.default_rng(0).integers(0, 255, (4, height, width), dtype=np.uint8)


def classes(codes: Any, **place: Any) -> ClassMap:
    return ClassMap(codes=np.asarray(codes, np.uint8), classes=from_names(["water", "forest"]), **place)


def codes_of(path: Path) -> Any:
    with rasterio.open(path) as source:
        return source.read()


def test_an_array_gets_the_codes_and_probabilities_of_the_map_of_the_same_pixels(
    classifier: Classifier, checkpoint: Path, make_raster: Any, tmp_path: Path
) -> None:
    valid = np.ones((45, 70), bool)
    valid[:9, :13] = False
    scene = make_raster("scene.tif", image(), mask=valid, photometric="minisblack", alpha="unspecified")
    predict(
        MapRequest(
            checkpoint=checkpoint,
            scene=str(scene),
            output=tmp_path / "map.tif",
            precision="fp32",
            probabilities=True,
        )
    )
    made = classifier.classify(image(), valid=valid, probabilities=True)
    np.testing.assert_array_equal(made.codes, codes_of(tmp_path / "map.tif")[0])
    np.testing.assert_array_equal(made.probabilities, codes_of(tmp_path / "map.probabilities.tif"))
    assert (made.codes[:9, :13] == 255).all() and len(np.unique(made.codes)) > 2


def test_a_masked_array_hides_pixels_as_its_nodata_value_does_in_a_scene(
    classifier: Classifier, make_raster: Any, tmp_path: Path
) -> None:
    for number, (dtype, nodata) in enumerate((("uint8", 0), ("int16", -1), ("float32", 7))):
        pixels = image().astype(dtype)
        pixels[0, :5] = nodata
        pixels[:, 10:15] = nodata
        scene = make_raster(f"{number}.tif", pixels, nodata=nodata, photometric="minisblack", alpha="unspecified")
        classifier.map_scene(scene, tmp_path / f"map{number}.tif")
        with rasterio.open(scene) as source:
            made = classifier.classify(source.read(masked=True), crs=source.crs, transform=source.transform)
        np.testing.assert_array_equal(made.codes, codes_of(tmp_path / f"map{number}.tif")[0])
        assert (made.codes[:5] == 255).all() == (dtype != "uint8")


def test_an_array_without_a_crs_is_no_cause_for_a_warning(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.classify(image())
    assert "coordinate reference system" not in caplog.text


def test_a_classifier_says_what_the_model_needs(classifier: Classifier) -> None:
    assert classifier.bands == ("band_1", "band_2", "band_3", "band_4")
    assert classifier.classes.names == ["class 0", "class 1", "class 2", "class 3"]
    assert classifier.pixel_m == 30


@pytest.mark.parametrize(
    ("pixels", "valid", "says"),
    [
        (np.zeros((3, 8, 8), np.uint8), None, "C = 4"),
        (np.zeros((8, 8), np.uint8), None, "C = 4"),
        (np.zeros((4, 0, 8), np.uint8), None, "C = 4"),
        (np.zeros((4, 8, 8), np.float16), None, "float16"),
        (np.zeros((4, 8, 8), np.uint8), np.ones((8, 9), bool), "`valid` has the shape"),
    ],
)
def test_an_image_of_another_form_is_refused(classifier: Classifier, pixels: Any, valid: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        classifier.classify(pixels, valid=valid)


def test_the_byte_order_of_an_array_makes_no_difference(classifier: Classifier) -> None:
    made = [classifier.classify(image().astype(dtype)).codes for dtype in ("<f4", ">f4", ">u2")]
    assert (made[0] == made[1]).all() and (made[0] == made[2]).all()


def test_a_crs_without_a_transform_is_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError, match="no `transform`"):
        classifier.classify(image(), crs="EPSG:32617")


def test_a_crs_that_does_not_exist_is_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError, match="no such place"):
        classifier.classify(image(), crs="no such place", transform=PLACE["transform"])


def test_a_scene_is_mapped_with_options_of_the_command(
    classifier: Classifier, make_raster: Any, tmp_path: Path
) -> None:
    scene, target = make_raster("scene.tif", image(), photometric="minisblack", alpha="unspecified"), tmp_path / "m.tif"
    result = classifier.map_scene(scene, target, confidence=True, bounds=(600_000, 3_999_100, 600_900, 4_000_000))
    assert (result.width, result.height) == (30, 30)
    assert (tmp_path / "m.confidence.tif").exists()
    with pytest.raises(OutputExists):
        classifier.map_scene(scene, target)
    with pytest.raises(UsageError, match="holds for all maps"):
        classifier.map_scene(scene, target, tta="d4")
    with pytest.raises(UsageError, match="for the command line"):
        classifier.map_scene(scene, target, gpus=2)


def test_a_map_for_an_object_store_is_uploaded(
    classifier: Classifier, make_raster: Any, object_store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    scene = make_raster("scene.tif", image(), photometric="minisblack", alpha="unspecified")
    classifier.map_scene(scene, "s3://notebook/maps/north.tif")
    puts = [line for line in Path("requests").read_text().splitlines() if line.startswith("PUT")]
    assert puts[-1].endswith("/maps/north.tif")


def test_polygons_of_an_array_equal_those_of_its_file(tmp_path: Path) -> None:
    made = classes([[0, 0, 1], [0, 1, 1], [255, 1, 1]], **PLACE)
    made.write(tmp_path / "map.tif")
    frame = polygons(made)
    vectorize_map(tmp_path / "map.tif", tmp_path / "polygons.gpkg")
    stored = gpd.read_file(tmp_path / "polygons.gpkg", layer="polygons")
    assert frame.drop(columns="geometry").equals(stored.drop(columns="geometry"))
    assert frame.geometry.geom_equals(stored.geometry).all()
    assert frame.crs == made.crs
    assert dict(zip(frame["name"], frame["pixels"], strict=True)) == {"water": 3, "forest": 5}


def test_options_of_vectorize_reach_it(tmp_path: Path) -> None:
    made = classes([[0, 0, 0], [0, 1, 0], [0, 0, 0]], **PLACE)
    assert len(polygons(made, min_area="2px")) == 1
    result = vectorize_map(made, tmp_path / "polygons.fgb", check=True)
    assert result.polygons == 2 and result.check is not None


def test_polygons_need_a_crs() -> None:
    with pytest.raises(MissingCRS, match="the array"):
        polygons(classes([[0, 1]]))


def test_an_array_is_compared_with_reference_codes() -> None:
    result = assess_map(classes([[0, 0, 1, 255]], **PLACE), np.array([[0, 1, 1, 1]], np.uint8))
    assert result.matrix.tolist() == [[1, 0], [1, 1]]
    assert result.metrics.accuracy == pytest.approx(2 / 3)
    assert result.metrics.pixels == 3
    with pytest.raises(DataError, match="the map has"):
        assess_map(classes([[0, 1]], **PLACE), np.zeros((2, 1), np.uint8))
    with pytest.raises(DataError, match="bool values"):
        assess_map(classes([[0, 1]], **PLACE), np.array([[True, False]]))


def test_a_written_map_replaces_another_only_on_request(tmp_path: Path) -> None:
    made = classes([[0, 1]], **PLACE)
    made.write(tmp_path / "map.tif")
    with pytest.raises(OutputExists):
        made.write(tmp_path / "map.tif")
    made.write(tmp_path / "map.tif", overwrite=True)


def test_the_package_names_the_interface_and_imports_it_only_on_use() -> None:
    script = (
        "import sys, cwsam_cli;"
        "assert 'polygons' in dir(cwsam_cli);"
        "slow = {'torch', 'rasterio', 'geopandas'};"
        "assert not slow & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    for name in cwsam_cli.__all__:
        assert getattr(cwsam_cli, name) is not None
    with pytest.raises(AttributeError, match="open_map"):
        _ = cwsam_cli.open_map
