"""Odd but honest input: each of these once gave a wrong result or a traceback."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import NAME, read_manifest
from cwsam_cli.errors import DataError
from cwsam_cli.maps.codes import Strip
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.quicklook import draw_quicklook
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.raster.style import CLASSES_TAG, colormap, read_taxonomy, write_sidecar
from cwsam_cli.taxonomy import LabelTable, LandCoverClass, Taxonomy, from_names
from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED
from cwsam_cli.tile.labels.fields import field_table
from cwsam_cli.tile.labels.files import find_labels
from cwsam_cli.tile.labels.raster import open_raster_labels
from cwsam_cli.tile.labels.vector import VectorSource, place_polygons
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.split.assignment import assign
from cwsam_cli.vectorize.measure import measure_regions
from cwsam_cli.vectorize.pipeline import vectorize
from cwsam_cli.vectorize.polygonize import polygonize
from cwsam_cli.vectorize.request import VectorizeRequest

MakeRaster = Callable[..., Path]
UTM = CRS.from_epsg(32617)
GRID = Grid(UTM, from_origin(600_000, 4_000_000, 30, 30), 20, 16)
WHOLE = Window(0, 0, 20, 16)
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=7, name="林地 & <针叶>", color="#006e28"),
        LandCoverClass(code=0, name="水体", color="#005adc"),
    )
)


def named_map(make_raster: MakeRaster) -> Path:
    path = make_raster("map.tif", np.array([[0, 7], [7, 255]], np.uint8), nodata=255)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, colormap(TAXONOMY))  # and no JSON tag
    write_sidecar(path, TAXONOMY)
    return path


def test_names_and_palette_survive_in_the_sidecar_alone(make_raster: MakeRaster) -> None:
    with rasterio.open(named_map(make_raster)) as dataset:
        taxonomy = read_taxonomy(dataset, ())
    assert {c.code: (c.name, c.color) for c in taxonomy.classes} == {
        c.code: (c.name, c.color) for c in TAXONOMY.classes
    }


def test_gdal_reads_the_attribute_table_that_is_written(make_raster: MakeRaster, tmp_path: Path) -> None:
    rasterio.shutil.copy(named_map(make_raster), tmp_path / "copy.vrt", driver="VRT")
    rows = ElementTree.parse(tmp_path / "copy.vrt").findall("VRTRasterBand/GDALRasterAttributeTable/Row")
    assert [row.findall("F")[1].text for row in rows] == TAXONOMY.names


def test_a_damaged_tag_is_refused_by_name(make_raster: MakeRaster) -> None:
    path = make_raster("map.tif", np.ones((4, 4), np.uint8))
    with rasterio.open(path, "r+") as target:
        target.update_tags(**{CLASSES_TAG: '{"classes": ['})
    with rasterio.open(path) as dataset, pytest.raises(DataError):
        read_taxonomy(dataset, (1,))


@pytest.mark.parametrize(("dtype", "odd"), [("uint16", 300), ("uint8", 255), ("int16", -1), ("int32", -(2**31))])
def test_a_code_that_no_class_table_holds_is_a_class_of_its_polygons(
    make_raster: MakeRaster, tmp_path: Path, dtype: str, odd: int
) -> None:
    codes = np.ones((6, 6), dtype)
    codes[3:] = odd
    if odd == -(2**31):  # stands for what lies beyond the map
        with pytest.raises(DataError, match=str(odd)):
            vectorize(VectorizeRequest(map_path=make_raster("map.tif", codes), output=tmp_path / "map.gpkg"))
        return
    vectorize(VectorizeRequest(map_path=make_raster("map.tif", codes), output=tmp_path / "map.gpkg"))
    assert set(geopandas.read_file(tmp_path / "map.gpkg")["code"]) == {1, odd}


def test_a_plain_raster_of_nodata_alone_gives_an_empty_layer(make_raster: MakeRaster, tmp_path: Path) -> None:
    empty = make_raster("map.tif", np.full((6, 6), 255, np.uint8), nodata=255)
    vectorize(VectorizeRequest(map_path=empty, output=tmp_path / "map.gpkg"))
    assert len(geopandas.read_file(tmp_path / "map.gpkg")) == 0


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32", "float64"])
def test_ground_beyond_the_label_raster_is_unlabelled_even_without_nodata(make_raster: MakeRaster, dtype: str) -> None:
    path = make_raster("small.tif", np.ones((8, 8), dtype), transform=from_origin(600_060, 3_999_940, 15, 15))
    with open_raster_labels(path, GRID, Path("scene.tif")) as labels:
        read = labels.read(WHOLE)
    assert (read[2:6, 2:6] == 1).all()
    assert (read == NO_LABEL).sum() == read.size - 16


def test_labels_in_an_engineering_crs_are_refused(make_raster: MakeRaster) -> None:
    path = make_raster("local.tif", np.ones((8, 8), np.uint8), crs='LOCAL_CS["site",UNIT["metre",1]]')
    with (
        pytest.raises(DataError, match=r"local\.tif") as caught,
        open_raster_labels(path, GRID, Path("scene.tif")),
    ):
        pass
    assert "{" not in str(caught.value), "no dump of the CRS"


def test_polygons_in_an_engineering_crs_are_refused() -> None:
    site = geopandas.GeoDataFrame({"code": [1], "rank": 0}, geometry=[shapely.box(0, 0, 1, 1)], crs='LOCAL_CS["site"]')
    with pytest.raises(DataError, match=r"site, to that of `scene\.tif`"):
        place_polygons(site, GRID, Path("scene.tif"))


def layer(tmp_path: Path, values: list[object]) -> Path:
    boxes = [shapely.box(600_000 + 90 * i, 3_999_910, 600_090 + 90 * i, 4_000_000) for i in range(len(values))]
    geopandas.GeoDataFrame({"class": values}, geometry=boxes, crs=UTM.to_wkt()).to_file(tmp_path / "p.gpkg")
    return tmp_path / "p.gpkg"


def source(path: Path) -> VectorSource:
    return VectorSource(path=path, layer=path.stem, class_field="class")


def test_polygons_whose_classes_differ_in_capitals_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`Forest` and `forest` differ") as caught:
        field_table([source(layer(tmp_path, ["forest", "Forest"]))])
    assert "--classes" in caught.value.hint


def test_a_category_name_that_cannot_be_printed_is_refused_and_one_that_repeats_gets_its_code(
    make_raster: MakeRaster,
) -> None:
    path = make_raster("map.tif", np.ones((8, 8), np.uint8))
    for names, expected in ((("", "Forest", "forest"), ["Forest", "forest (2)"]), (("", "a", "bell\n"), None)):
        entries = "".join(f"<Category>{name}</Category>" for name in names)
        path.with_name("map.tif.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{entries}</CategoryNames></PAMRasterBand></PAMDataset>'
        )
        with rasterio.open(path) as dataset:
            if expected:
                assert read_taxonomy(dataset, [1, 2]).names == expected
                continue
            with pytest.raises(DataError, match=r"map\.tif.*cannot be printed"):
                read_taxonomy(dataset, [1, 2])


def test_names_and_tags_that_are_not_utf8_are_survived(make_raster: MakeRaster) -> None:
    path = make_raster("latin1.tif", np.ones((1, 8, 8), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(PLACE="xxxx", ODD="wwww")
        dataset.set_band_description(1, "zzzz")
    contents = (
        path.read_bytes().replace(b"xxxx", b"\xe9t\xe9s").replace(b"zzzz", b"gr\xfcn").replace(b"wwww", b"a\x07b ")
    )
    path.write_bytes(contents)
    with rasterio.open(path) as dataset:
        assert read_taxonomy(dataset, [1]).names == ["class 1"]
    with open_scene(path) as scene:
        assert scene.band_names == ("band_1",)


@pytest.mark.parametrize("tag", ["[" * 100_000, '{"classes": ' + "9" * 5000 + "}"], ids=["nested", "digits"])
def test_a_class_table_in_a_tag_that_cannot_be_read_is_refused(make_raster: MakeRaster, tag: str) -> None:
    path = make_raster("map.tif", np.ones((8, 8), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{CLASSES_TAG: tag})
    with rasterio.open(path) as dataset, pytest.raises(DataError, match="is not a class table"):
        read_taxonomy(dataset, [1])


def test_classes_with_digits_for_names_are_not_mixed_up(tmp_path: Path) -> None:
    own = source(layer(tmp_path, ["1", "10", "2"]))
    table = field_table([own])
    frame, taxonomy = own.near(GRID, table), table.taxonomy
    place = {
        int(shape.bounds[0] - 600_000) // 90: code for shape, code in zip(frame.geometry, frame["code"], strict=True)
    }
    name = dict(zip(taxonomy.codes, taxonomy.names, strict=True))
    assert len(set(place.values())) == 3
    assert [name[place[i]].removeprefix("class ") for i in range(3)] == ["1", "10", "2"]


def test_polygons_with_an_empty_name_are_left_out(tmp_path: Path) -> None:
    own = source(layer(tmp_path, ["forest", ""]))
    table = field_table([own])
    assert table.taxonomy.names == ["forest"] and len(own.near(GRID, table)) == 1


@pytest.mark.parametrize("field", ["class", "missing"])
def test_a_table_without_geometry_is_refused(tmp_path: Path, field: str) -> None:
    (tmp_path / "table.csv").write_text("class,x\na,1\n")
    request = TileRequest(
        scenes=("scene.tif",), labels=tmp_path / "table.csv", output=tmp_path / "data", class_field=field
    )
    with pytest.raises(DataError, match=r"table\.csv"):
        find_labels(request)


def test_a_field_of_dates_holds_no_class(tmp_path: Path) -> None:
    import pandas

    own = source(layer(tmp_path, [pandas.Timestamp("2020-01-01")]))
    assert own.near(GRID, LabelTable.of(TAXONOMY))["code"].tolist() == [UNEXPECTED]


def test_a_byte_reference_with_nodata_has_a_picture(make_raster: MakeRaster, tmp_path: Path) -> None:
    label = np.ones((30, 40), np.uint8)
    label[:5] = 255
    path = make_raster("label.tif", label, nodata=255)
    with open_scene(make_raster("scene.tif", np.ones((3, 30, 40), np.uint8))) as scene:
        draw_quicklook(scene, path, path, from_names(["water"], first=1), tmp_path / "q.png")
    assert (tmp_path / "q.png").exists()


def test_bands_that_share_a_name_are_taken_by_position(make_raster: MakeRaster) -> None:
    path = make_raster("same.tif", np.stack([np.full((4, 4), i, np.uint8) for i in (1, 2)]))
    with rasterio.open(path, "r+") as target:
        target.descriptions = ("sr", "sr")
    with open_scene(path, wanted_bands=("sr", "sr")) as scene:
        assert scene.bands == (1, 2)


def test_bands_of_different_dtypes_are_read_as_one_that_holds_all(make_raster: MakeRaster, tmp_path: Path) -> None:
    byte, word = (
        make_raster("b.tif", np.full((8, 8), 200, np.uint8)),
        make_raster("w.tif", np.full((8, 8), 9000, np.uint16)),
    )
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, (kind, path) in enumerate((("Byte", byte), ("UInt16", word)), start=1)
    )
    (tmp_path / "mixed.vrt").write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{bands}</VRTDataset>')
    with open_scene(tmp_path / "mixed.vrt") as scene:
        values, _ = scene.read(Window(0, 0, 8, 8))
    assert values.dtype == scene.dtype == "uint16"
    assert values[:, 0, 0].tolist() == [200, 9000]


def test_near_infrared_tagged_as_alpha_hides_nothing_from_a_model_of_three_bands(make_raster: MakeRaster) -> None:
    values = np.random.default_rng(0).integers(20, 200, (4, 16, 16)).astype(np.uint8)
    values[3, :4] = 0
    path = make_raster("naip.tif", values, photometric="RGB", alpha="YES")
    with open_scene(path, wanted_bands=("red", "green", "blue")) as scene:
        _, valid = scene.read(Window(0, 0, 16, 16))
    assert valid.all()


@pytest.mark.parametrize("unit", ['UNIT["metre",1]', 'UNIT["foot",0.3048]'])
def test_an_engineering_crs_has_pixels_in_its_own_unit(unit: str) -> None:
    grid = Grid(CRS.from_wkt(f'LOCAL_CS["site",{unit}]'), from_origin(0, 0, 2, 2), 10, 10)
    assert grid.gsd_m == pytest.approx(2 if "metre" in unit else 0.6096)


def test_a_real_scene_in_an_engineering_crs_says_how_large_it_is(awkward: Path) -> None:
    with open_scene(awkward / "local_cs.tif") as scene:
        assert "101 × 77 pixels" in str(scene.grid)


def areas(codes: np.ndarray, grid: Grid) -> list[float]:
    (regions,) = polygonize([Strip(codes.astype(np.int32))], grid.width, grid.height)
    return measure_regions(regions, grid)[0].tolist()


@pytest.mark.parametrize(
    ("west", "north", "width", "height"),
    [(-180, 90, 36, 18), (-60, 60, 12, 3)],
    ids=["the whole earth", "a third of a zone"],
)
def test_areas_in_degrees_follow_the_parallels(west: int, north: int, width: int, height: int) -> None:
    """A wide polygon covers the same ground as narrow pixels of the same rows do."""
    crs = CRS.from_epsg(4326)
    one = np.ones((height, width), np.uint8)
    (whole,) = areas(one, Grid(crs, Affine(10, 0, west, 0, -10, north), width, height))
    slices = np.arange(100 * height, dtype=np.int32)[:, None]  # 0.1 degrees each, codes of their own
    narrow = areas(slices, Grid(crs, Affine(0.1, 0, 8, 0, -0.1, north), 1, 100 * height))
    assert whole == pytest.approx(sum(narrow) * 100 * width, rel=1e-4)


@pytest.mark.parametrize("shares", [(20, 20, 60), (10, 10, 80), (1, 1, 98)])
def test_three_blocks_are_enough_for_every_wanted_split(shares: tuple[int, int, int]) -> None:
    assert set(assign(np.full((3, 2), 5), shares, seed=0)) == {"train", "val", "test"}


def test_a_description_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xff\xfe\x00\x80 no UTF-8")
    with pytest.raises(DataError, match=r"dataset\.yaml"):
        read_manifest(tmp_path)
