"""Names and colours of any class raster, however it keeps them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio

from cwsam_cli.maps.legend import Legend
from cwsam_cli.raster.style import tag_classes, write_sidecar
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

MakeRaster = Callable[..., Path]
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=7, name="林地", color="#006e28"),
        LandCoverClass(code=0, name="水体", color="#005adc"),
    )
)
TABLE = """<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable>
<FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>0</Usage></FieldDefn>
<FieldDefn index="1"><Name>Count</Name><Type>1</Type><Usage>1</Usage></FieldDefn>
<FieldDefn index="2"><Name>LABEL3</Name><Type>2</Type><Usage>0</Usage></FieldDefn>
<Row index="0"><F>111</F><F>10</F><F>Continuous urban fabric</F></Row>
<Row index="1"><F>523</F><F>20</F><F>Sea and ocean</F></Row>
</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"""


def read(path: Path) -> Legend:
    with rasterio.open(path) as dataset:
        return Legend.read(dataset)


def test_a_map_of_ours_brings_its_class_table(make_raster: MakeRaster) -> None:
    path = make_raster("map.tif", np.array([[0, 7]], np.uint8))
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TAXONOMY)
    assert read(path) == Legend({7: "林地", 0: "水体"}, {7: "#006e28", 0: "#005adc"})


def test_category_names_in_a_sidecar_are_read(make_raster: MakeRaster) -> None:
    path = make_raster("map.tif", np.array([[0, 7]], np.uint8))
    write_sidecar(path, TAXONOMY)
    assert read(path).names == {7: "林地", 0: "水体"}


def test_an_attribute_table_names_codes_beyond_254(make_raster: MakeRaster) -> None:
    path = make_raster("corine.tif", np.array([[111, 523]], np.uint16))
    path.with_name("corine.tif.aux.xml").write_text(TABLE)
    legend = read(path)
    assert legend.names == {111: "Continuous urban fabric", 523: "Sea and ocean"}
    assert legend.name(999) == "class 999"


def test_a_palette_colours_classes_without_names(make_raster: MakeRaster) -> None:
    path = make_raster("worldcover.tif", np.array([[10, 80]], np.uint8))
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {10: (0, 100, 0, 255), 80: (0, 100, 200, 255)})
    legend = read(path)
    assert (legend.name(10), legend.color(10), legend.color(80)) == ("class 10", "#006400", "#0064c8")


def test_names_of_other_programs_may_be_long_but_not_unprintable(make_raster: MakeRaster) -> None:
    path = make_raster("globcover.tif", np.array([[0, 1]], np.uint8))
    names = "".join(f"<Category>{name}</Category>" for name in ("w" * 150, "wet&#10;land\u202e", "\u202d"))
    path.with_name("globcover.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand></PAMDataset>',
        encoding="utf-8",
    )
    assert read(path).names == {0: "w" * 150, 1: "wet land"}
