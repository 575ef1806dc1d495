"""A class raster explains itself, with its sidecar or without."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from cwsam_cli.errors import DataError
from cwsam_cli.raster.style import CLASSES_TAG, colormap, read_taxonomy, tag_classes, write_sidecar
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy, default_color

MakeRaster = Callable[..., Path]

TAXONOMY = Taxonomy(
    name="map",
    classes=(
        LandCoverClass(code=7, name="林地 & <针叶>", color="#006e28"),  # neither sorted nor without gaps
        LandCoverClass(code=0, name="水体", color="#005adc"),
        LandCoverClass(code=3, name="Été sec", color="#fffe01"),
    ),
    source="drawn up here",
    unlabelled=(9, 10),
)
CODES = np.array([[0, 3], [7, 255]], np.uint8)


@pytest.fixture
def class_map(make_raster: MakeRaster) -> Path:
    """A map as `predict` leaves it: palette, JSON tag and sidecar."""
    path = make_raster("map.tif", CODES, nodata=255)
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TAXONOMY)
    write_sidecar(path, TAXONOMY)
    return path


def foreign_sidecar(path: Path, *names: str) -> Path:
    """Category names as GDAL itself writes them."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    for name in names:
        ElementTree.SubElement(categories, "Category").text = name
    path.with_name(path.name + ".aux.xml").write_text(ElementTree.tostring(root, "unicode"), encoding="utf-8")
    return path


def read(path: Path, present: tuple[int, ...] = ()) -> Taxonomy:
    with rasterio.open(path) as dataset:
        return read_taxonomy(dataset, present)


def by_code(taxonomy: Taxonomy) -> dict[int, tuple[str, str]]:
    return {entry.code: (entry.name, entry.color) for entry in taxonomy.classes}


def test_the_class_table_survives_whole_in_the_tag(class_map: Path) -> None:
    assert read(class_map) == TAXONOMY
    with rasterio.open(class_map) as dataset:
        assert "水体" in dataset.tags()[CLASSES_TAG]  # people read it too


def test_names_and_palette_of_other_programs_are_read(make_raster: MakeRaster) -> None:
    path = make_raster("theirs.tif", CODES, nodata=255)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, colormap(TAXONOMY))
    foreign_sidecar(path, "水体", "", "", "Été sec", "", "", "", "林地 & <针叶>")
    taxonomy = read(path)
    assert by_code(taxonomy) == by_code(TAXONOMY)
    assert taxonomy.codes == [0, 3, 7]
    assert taxonomy.name == "theirs"


def test_the_tag_is_preferred_to_a_sidecar_that_contradicts_it(class_map: Path, make_raster: MakeRaster) -> None:
    names = ("someone", "else's", "names")
    assert read(foreign_sidecar(class_map, *names)) == TAXONOMY
    assert read(foreign_sidecar(make_raster("bare.tif", CODES), *names)).names == list(names)


def test_a_lost_sidecar_costs_nothing(class_map: Path) -> None:
    class_map.with_name("map.tif.aux.xml").unlink()
    assert read(class_map) == TAXONOMY


def test_a_palette_raster_without_names_gets_classes_in_its_colours(make_raster: MakeRaster) -> None:
    path = make_raster("plain.tif", np.array([[1, 2, 2]], np.uint8))
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {1: (10, 20, 30, 255), 2: (200, 100, 0, 255), 5: (1, 1, 1, 255)})
    assert by_code(read(path, present=(1, 2))) == {1: ("class 1", "#0a141e"), 2: ("class 2", "#c86400")}


def test_a_raster_that_says_nothing_gets_classes_in_colours_of_our_own(make_raster: MakeRaster) -> None:
    taxonomy = read(make_raster("bare.tif", np.array([[4, 2]], np.uint8)), present=(4, 2))
    assert by_code(taxonomy) == {2: ("class 2", default_color(0)), 4: ("class 4", default_color(1))}


def test_codes_that_occur_are_in_the_table_even_if_the_names_forget_them(make_raster: MakeRaster) -> None:
    path = foreign_sidecar(make_raster("some.tif", CODES, nodata=255), "water", "", "", "grass")
    taxonomy = read(path, present=(0, 7))
    assert taxonomy.codes == [0, 3, 7]
    assert taxonomy.names == ["water", "grass", "class 7"]


def test_a_name_given_twice_is_told_apart_by_its_code(make_raster: MakeRaster) -> None:
    path = foreign_sidecar(make_raster("twice.tif", CODES), "", "forest", "forest")
    assert read(path).names == ["forest", "forest (2)"]


def test_the_colour_table_is_opaque_for_classes_and_clear_for_the_rest(class_map: Path) -> None:
    table = colormap(TAXONOMY)
    assert table[7] == (0, 0x6E, 0x28, 255) and table[3] == (255, 254, 1, 255)
    assert {code for code, color in table.items() if color[3]} == {0, 3, 7}
    assert len(table) == 256
    with rasterio.open(class_map) as dataset:
        written = dataset.colormap(1)
        assert {code: written[code][:3] for code in (0, 3, 7)} == {code: table[code][:3] for code in (0, 3, 7)}


def test_the_attribute_table_is_well_formed_with_a_row_a_class(class_map: Path) -> None:
    tree = ElementTree.parse(class_map.with_name("map.tif.aux.xml"))
    assert tree.getroot().tag == "PAMDataset"
    (table,) = tree.findall("PAMRasterBand/GDALRasterAttributeTable")
    fields = [(field.findtext("Name"), field.findtext("Usage")) for field in table.findall("FieldDefn")]
    assert fields == [("Value", "5"), ("Class", "2"), ("Red", "6"), ("Green", "7"), ("Blue", "8")]
    rows = [[cell.text for cell in row.findall("F")] for row in table.findall("Row")]
    assert rows == [[str(c.code), c.name, *map(str, c.rgb)] for c in TAXONOMY.classes]
    assert [row.get("index") for row in table.findall("Row")] == ["0", "1", "2"]
    names = [category.text or "" for category in tree.findall("PAMRasterBand/CategoryNames/Category")]
    assert names == ["水体", "", "", "Été sec", "", "", "", "林地 & <针叶>"]


def test_the_classes_of_real_labels_come_with_their_colours(landcover: Path) -> None:
    taxonomy = read(landcover / "zion_landsat8_nlcd" / "label.tif", present=range(1, 9))
    assert taxonomy.codes == list(range(1, 9))
    assert taxonomy.classes[3].rgb == (104, 170, 99)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"code": "one"}, "classes.0.code"),
        ({"code": 1.5}, "classes.0.code"),
        ({"code": True}, "classes.0.code"),
        ({"name": 7}, "classes.0.name"),
        ({"name": "bell\x07"}, "cannot be printed"),
        ({"color": "red"}, "color `red`"),
        ({"color": None}, "classes.0.color"),
    ],
)
def test_a_field_of_the_tag_is_refused_by_its_name(make_raster: MakeRaster, change: dict[str, Any], named: str) -> None:
    path = make_raster("map.tif", CODES)
    entry = {"code": 1, "name": "water", "color": "#0000ff"}
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{CLASSES_TAG: json.dumps({"classes": [entry | change]})})
    with pytest.raises(DataError, match="is not a class table") as caught:
        read(path)
    assert named in str(caught.value)
