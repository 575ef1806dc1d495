"""What people's GIS opens says the class, its name in any script, and its area."""

import struct
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cwsam_cli.errors import OutputExists, UsageError
from cwsam_cli.geo.grid import Grid
from cwsam_cli.geo.polygonize import Region, polygonize
from cwsam_cli.geo.vector import vector_driver, write_regions
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

UTM = CRS.from_epsg(32617)
NAMES = {1: "水体", 2: "林地（针叶）", 7: "Été — sèche"}
TAXONOMY = Taxonomy(
    classes=tuple(LandCoverClass(code=code, name=name, color="#102030") for code, name in NAMES.items())
)


def some_regions() -> list[Region]:
    codes = np.ones((40, 40), np.uint8)
    codes[10:20, 10:20], codes[:, 30:] = 2, 7
    return list(polygonize(codes, Grid(UTM, from_origin(600_000, 4_000_000, 30, 30), 40, 40)))


@pytest.mark.parametrize("name", ["polygons.gpkg", "polygons.shp", "POLYGONS.GPKG"])
def test_polygons_survive_a_round_trip_with_names_in_any_script(tmp_path: Path, name: str) -> None:
    regions = some_regions()
    write_regions(regions, TAXONOMY, UTM, tmp_path / name)
    frame = geopandas.read_file(tmp_path / name)
    assert frame.crs.to_epsg() == 32617
    assert frame["code"].tolist() == [region.code for region in regions]
    assert frame["name"].tolist() == [NAMES[region.code] for region in regions]
    np.testing.assert_allclose(frame["area_m2"], [region.area_m2 for region in regions], rtol=1e-12)
    for read, region in zip(frame.geometry, regions, strict=True):
        assert shapely.equals_exact(read, region.geometry, normalize=True)


def test_every_format_has_the_same_fields_of_at_most_ten_characters(tmp_path: Path) -> None:
    for suffix in (".gpkg", ".shp"):
        write_regions(some_regions(), TAXONOMY, UTM, tmp_path / f"p{suffix}")
        fields = geopandas.read_file(tmp_path / f"p{suffix}").columns.drop("geometry").tolist()
        assert fields == ["code", "name", "area_m2"]
        assert max(map(len, fields)) <= 10


def test_a_shapefile_says_that_its_text_is_utf_8(tmp_path: Path) -> None:
    write_regions(some_regions(), TAXONOMY, UTM, tmp_path / "p.shp")
    assert (tmp_path / "p.cpg").read_text().strip() == "UTF-8"
    assert "水体".encode() in (tmp_path / "p.dbf").read_bytes()


def test_a_shapefile_holds_areas_of_continents(tmp_path: Path) -> None:
    region = Region(1, shapely.box(0, 0, 1e6, 1e6), 44_579_000_123_456.5)
    write_regions([region], TAXONOMY, UTM, tmp_path / "p.shp")
    assert geopandas.read_file(tmp_path / "p.shp")["area_m2"].iloc[0] == pytest.approx(region.area_m2, rel=1e-12)


def test_a_code_without_a_class_has_no_name(tmp_path: Path) -> None:
    write_regions([Region(9, shapely.box(0, 0, 1, 1), 1.0)], TAXONOMY, UTM, tmp_path / "p.gpkg")
    row = geopandas.read_file(tmp_path / "p.gpkg").iloc[0]
    assert (row["code"], row["name"]) == (9, "")


def test_a_crs_without_a_code_is_carried_through(tmp_path: Path) -> None:
    crs = CRS.from_proj4("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84")
    write_regions(some_regions(), TAXONOMY, crs, tmp_path / "p.gpkg")
    written = geopandas.read_file(tmp_path / "p.gpkg").crs
    assert written.to_dict()["lat_0"] == 10 and written.to_dict()["proj"] == "laea"


@pytest.mark.parametrize("suffix", [".gpkg", ".shp"])
def test_a_map_without_polygons_writes_an_empty_layer(tmp_path: Path, suffix: str) -> None:
    write_regions([], TAXONOMY, UTM, tmp_path / f"empty{suffix}")
    frame = geopandas.read_file(tmp_path / f"empty{suffix}")
    assert len(frame) == 0
    assert frame.columns.tolist() == ["code", "name", "area_m2", "geometry"]
    assert frame.crs.to_epsg() == 32617


def test_an_empty_shapefile_is_one_of_polygons(tmp_path: Path) -> None:
    write_regions([], TAXONOMY, UTM, tmp_path / "empty.shp")
    (kind,) = struct.unpack("<i", (tmp_path / "empty.shp").read_bytes()[32:36])
    assert kind == 5


@pytest.mark.parametrize("name", ["map.kml", "map", "map.tif"])
def test_an_unknown_suffix_is_a_usage_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        vector_driver(Path(name))
    assert caught.value.exit_code == 2
    assert ".gpkg" in caught.value.hint and ".shp" in caught.value.hint


def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    output = tmp_path / "p.gpkg"
    write_regions(some_regions(), TAXONOMY, UTM, output)
    with pytest.raises(OutputExists) as caught:
        write_regions([], TAXONOMY, UTM, output)
    assert caught.value.exit_code == 2
    assert len(geopandas.read_file(output)) == len(some_regions())
    write_regions([], TAXONOMY, UTM, output, overwrite=True)
    assert len(geopandas.read_file(output)) == 0
    assert list(tmp_path.iterdir()) == [output]
