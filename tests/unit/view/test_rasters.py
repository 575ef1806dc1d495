"""Rasters become what the page reads: the file itself if it has tiles and overviews, else a COG of its pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from cwsam_cli.errors import DataError
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from cwsam_cli.view.frame import Frame
from cwsam_cli.view.rasters import inspect_raster, prepare_classes, prepare_image

MakeRaster = Callable[..., Path]

UTM = Frame(CRS.from_epsg(32617))
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=3, name="water", color="#005adc"),
        LandCoverClass(code=9, name="forest", color="#006e28"),
    )
)
CODES = np.where(np.arange(40)[:, None] < 10, 3, 9).repeat(50, axis=1).astype(np.uint8)
CODES[:, :5] = 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page").mkdir()
    return tmp_path / "page"


def classify(path: Path) -> Path:
    with rasterio.open(path, "r+") as dataset:
        tag_classes(dataset, TAXONOMY)
    return path


def read(path: Path) -> Any:
    with rasterio.open(path) as dataset:
        return dataset.read()


def test_a_tiled_map_is_served_as_it_is(make_raster: MakeRaster, folder: Path) -> None:
    path = classify(make_raster("map.tif", CODES, nodata=255, tiled=True, blockxsize=16, blockysize=16))
    layer = prepare_classes(inspect_raster(str(path)), UTM, folder)
    assert layer.file == path
    assert [(entry.code, entry.value, entry.name, entry.color) for entry in layer.classes] == [
        (3, 3, "water", "#005adc"),
        (9, 9, "forest", "#006e28"),
    ]
    assert layer.facts["area"]["m2"] == [[pytest.approx(900)]]
    assert layer.extent == (600_000, 4_000_000 - 40 * 30, 600_000 + 50 * 30, 4_000_000)


def test_a_large_map_without_overviews_becomes_a_cog_with_the_same_pixels(
    make_raster: MakeRaster, folder: Path
) -> None:
    codes = np.kron(CODES, np.ones((30, 30), np.uint8))
    path = classify(make_raster("map.tif", codes, nodata=255))
    layer = prepare_classes(inspect_raster(str(path)), UTM, folder)
    assert layer.file.parent == folder
    assert (read(layer.file)[0] == codes).all()
    with rasterio.open(layer.file) as dataset:
        assert dataset.overviews(1) and dataset.profile["tiled"]
    assert sorted(path.name for path in folder.iterdir()) == ["map.tif", "map.tif.aux.xml"]


def test_codes_that_do_not_fit_into_a_byte_get_other_values(make_raster: MakeRaster, folder: Path) -> None:
    codes = np.array([[11, 255, 4000], [-5, 11, -9999]], np.int32)
    path = make_raster("map.tif", codes, nodata=-9999)
    layer = prepare_classes(inspect_raster(str(path)), UTM, folder)
    code_of = {entry.value: entry.code for entry in layer.classes} | {255: -9999}
    assert [[code_of[value] for value in row] for row in read(layer.file)[0].tolist()] == codes.tolist()
    assert code_of[11] == 11


def test_more_codes_than_a_byte_holds_are_refused(make_raster: MakeRaster, folder: Path) -> None:
    path = make_raster("map.tif", np.arange(300, dtype=np.int32)[None])
    source = inspect_raster(str(path))
    assert not source.holds_classes
    with pytest.raises(DataError, match="more than 255 codes"):
        prepare_classes(source, UTM, folder)


def test_a_map_in_another_crs_has_no_class_that_it_did_not_have(make_raster: MakeRaster, folder: Path) -> None:
    degrees = {"crs": "EPSG:4326", "transform": from_origin(-78.0, 36.0, 3e-4, 3e-4)}
    path = classify(make_raster("map.tif", CODES, nodata=255, **degrees))
    layer = prepare_classes(inspect_raster(str(path)), UTM, folder)
    values = read(layer.file)[0]
    assert set(np.unique(values)) == {3, 9, 255}
    assert (values == 3).sum() == pytest.approx((CODES == 3).sum(), rel=0.1)
    assert "nearest neighbour" in layer.note


def test_a_map_with_rows_from_south_to_north_is_turned(make_raster: MakeRaster, folder: Path) -> None:
    south_up = Affine(30, 0, 600_000, 0, 30, 4_000_000 - 40 * 30)
    path = classify(make_raster("map.tif", CODES[::-1], nodata=255, transform=south_up))
    assert (read(prepare_classes(inspect_raster(str(path)), UTM, folder).file)[0] == CODES).all()


def test_a_map_without_a_class_table_has_its_rare_codes_too(make_raster: MakeRaster, folder: Path) -> None:
    codes = np.ones((2100, 1100), np.uint8)
    codes[1, 1] = 9
    path = make_raster("map.tif", codes, nodata=255, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.nearest)
    layer = prepare_classes(inspect_raster(str(path)), UTM, folder)
    assert layer.file == path
    assert [entry.code for entry in layer.classes] == [1, 9]


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:32618"])
def test_a_name_of_the_nodata_value_is_no_class(make_raster: MakeRaster, folder: Path, crs: str) -> None:
    path = make_raster("map.tif", CODES, nodata=3, crs=crs)
    with rasterio.open(path, "r+") as dataset:
        tag_classes(dataset, TAXONOMY)
    layer = prepare_classes(inspect_raster(str(path)), UTM, folder)
    assert "water" not in [entry.name for entry in layer.classes]


def test_areas_of_a_coarse_map_of_the_globe_are_those_of_its_pixels(make_raster: MakeRaster, folder: Path) -> None:
    degrees = {"crs": "EPSG:4326", "transform": from_origin(-180, 90, 2, 2)}
    path = make_raster("map.tif", np.ones((90, 180), np.uint8), **degrees)
    area = prepare_classes(inspect_raster(str(path)), Frame(CRS.from_epsg(4326)), folder).facts["area"]
    assert area["rows"] == list(range(90))
    assert 180 * sum(row[0] for row in area["m2"]) == pytest.approx(510.0656e12, rel=1e-6)  # WGS 84


def test_pixels_in_degrees_have_areas_by_row(make_raster: MakeRaster, folder: Path) -> None:
    path = classify(make_raster("map.tif", CODES, crs="EPSG:4326", transform=from_origin(10, 60, 1e-3, 1e-3)))
    layer = prepare_classes(inspect_raster(str(path)), Frame(CRS.from_epsg(4326)), folder)
    area = layer.facts["area"]
    assert area["columns"] == [0] and area["rows"] == list(range(40))
    assert area["m2"][0][0] == pytest.approx(6_211, rel=0.01)  # 111.41 m × 55.8 m
    assert area["m2"][0][0] < area["m2"][-1][0]


@pytest.mark.parametrize(
    ("name", "values", "holds_classes"),
    [
        ("reference.tif", CODES, True),
        ("map.confidence.tif", CODES, False),
        ("grey.tif", np.arange(200, dtype=np.uint8).reshape(10, 20), False),
        ("height.tif", CODES.astype(np.float32), False),
        ("scene.tif", np.stack([CODES] * 3), False),
    ],
)
def test_maps_are_told_from_images_by_their_values(
    make_raster: MakeRaster, name: str, values: Any, holds_classes: bool
) -> None:
    assert inspect_raster(str(make_raster(name, values))).holds_classes == holds_classes


def test_an_image_without_overviews_becomes_eight_bits_with_alpha(make_raster: MakeRaster, folder: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1000, 3000, (4, 1200, 1300)).astype(np.uint16)
    image[:, :100] = 0
    layer = prepare_image(inspect_raster(str(make_raster("scene.tif", image, nodata=0))), UTM, folder)
    shown = read(layer.file)
    assert shown.shape == (4, 1200, 1300) and shown.dtype == np.uint8
    assert not shown[3, :100].any() and (shown[3, 100:] == 255).all()
    low, high = np.percentile(image[2, 100:], (2, 98))
    expected = ((image[2, 100:] - low) / (high - low) * 255).clip(0, 255)
    assert np.abs(shown[0, 100:].astype(float) - expected).max() < 3  # the range is that of a reduced picture
    assert layer.kind == "image"


def test_a_tiled_image_is_served_as_it_is_with_the_range_of_each_band(make_raster: MakeRaster, folder: Path) -> None:
    image = np.stack([np.linspace(low, low + 1000, 2500).reshape(50, 50) for low in (0, 5000, 9000, 100)])
    path = make_raster("scene.tif", image.astype(np.uint16), tiled=True, blockxsize=32, blockysize=32)
    layer = prepare_image(inspect_raster(str(path)), UTM, folder)
    assert layer.file == path and layer.facts["bands"] == [3, 2, 1]
    assert layer.facts["min"][:3] == pytest.approx([20, 5020, 9020], abs=1)
    assert layer.facts["max"][:3] == pytest.approx([980, 5980, 9980], abs=1)


def test_confidence_keeps_its_values_and_has_a_unit(make_raster: MakeRaster, folder: Path) -> None:
    values = np.linspace(30, 99, 1200 * 8).reshape(1200, 8).astype(np.uint8)
    layer = prepare_image(inspect_raster(str(make_raster("map.confidence.tif", values, nodata=255))), UTM, folder)
    assert (read(layer.file)[0] == values).all()
    assert (layer.kind, layer.facts["label"], layer.facts["unit"], layer.facts["scale"]) == (
        "values",
        "confidence",
        " %",
        (0, 1),
    )


def test_values_of_floats_can_be_computed_from_what_the_page_reads(make_raster: MakeRaster, folder: Path) -> None:
    values = np.linspace(-5, 20, 4000, dtype=np.float32).reshape(40, 100)
    layer = prepare_image(inspect_raster(str(make_raster("height.tif", values))), UTM, folder)
    offset, factor = layer.facts["scale"]
    assert np.abs(offset + factor * read(layer.file)[0] - values).max() < 0.6  # 2 % of the values lie beyond each end


def test_an_image_in_another_crs_is_brought_to_that_of_the_page(make_raster: MakeRaster, folder: Path) -> None:
    image = np.full((3, 40, 50), 90, np.uint8)
    path = make_raster("scene.tif", image, crs="EPSG:4326", transform=from_origin(-78.0, 36.0, 3e-4, 3e-4))
    layer = prepare_image(inspect_raster(str(path)), UTM, folder)
    with rasterio.open(layer.file) as dataset:
        assert dataset.crs == UTM.crs
        assert 0.9 < (dataset.read(4) == 255).mean() < 1


def test_a_raster_without_a_crs_beside_a_map_with_one_is_refused(make_raster: MakeRaster, folder: Path) -> None:
    source = inspect_raster(str(make_raster("plain.tif", CODES, crs=None, transform=Affine.identity())))
    with pytest.raises(DataError, match=r"plain.tif` has no coordinate reference system, but the map has one"):
        prepare_classes(source, UTM, folder)


def test_without_a_crs_pixels_are_the_coordinates(make_raster: MakeRaster, folder: Path) -> None:
    source = inspect_raster(str(make_raster("plain.tif", CODES, crs=None, transform=Affine.identity())))
    layer = prepare_classes(source, Frame(None), folder)
    assert layer.extent == (0, -40, 50, 0) and layer.facts["area"] is None
    with rasterio.open(layer.file) as dataset:
        assert dataset.transform == Affine.scale(1, -1)
    for transform in (Affine.identity(), Affine.rotation(20)):
        image = make_raster("image.tif", np.stack([CODES] * 3), crs=None, transform=transform)
        assert prepare_image(inspect_raster(str(image)), Frame(None), folder).extent == (0, -40, 50, 0)
