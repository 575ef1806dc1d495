"""What people's GIS opens says the class, its name in any script, and its measures."""

import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyarrow as pa
import pyogrio
import pytest
import shapely
from pyproj import CRS
from rasterio.transform import from_origin

from cwsam_cli.errors import DataError, MachineError, UsageError
from cwsam_cli.maps.codes import Strip
from cwsam_cli.maps.legend import Legend
from cwsam_cli.raster.style import qml, read_qml, write_style
from cwsam_cli.taxonomy import from_names
from cwsam_cli.vector import layers as vector
from cwsam_cli.vector.formats import vector_driver
from cwsam_cli.vector.layers import (
    check_size,
    copy_geopackage,
    may_write_style,
    write_frame,
    write_layer_style,
    write_stream,
)
from cwsam_cli.vectorize.features import Columns, dissolve, encode_regions
from cwsam_cli.vectorize.measure import to_ground
from cwsam_cli.vectorize.polygonize import Regions, polygonize

UTM = CRS.from_epsg(32617)
NAMES = {1: "水体", 2: "林地（针叶）", 7: "Été — sèche"}
LEGEND = Legend(NAMES, {1: "#005adc", 2: "#006e28", 7: "#ffee00"})
SUFFIXES = [".gpkg", ".shp", ".fgb", ".parquet"]


def some_regions() -> Regions:
    codes = np.ones((40, 40), np.int32)
    codes[10:20, 10:20], codes[:, 30:] = 2, 7
    (regions,) = polygonize([Strip(codes)], 40, 40)
    return regions


def ground(regions: Regions) -> np.ndarray:
    return to_ground(regions.xy, from_origin(600_000, 4_000_000, 30, 30))


def write(path: Path, regions: Regions | None, *, areas: float = 900.0, crs: CRS = UTM) -> None:
    columns = Columns()

    def batches() -> Iterator[pa.RecordBatch]:
        if regions is not None:
            area = regions.pixels * areas
            yield columns.batch(regions, area, np.sqrt(area), LEGEND, encode_regions(ground(regions), regions))

    write_stream(batches(), columns.schema, path, driver=vector_driver(path), crs=crs, layer=path.stem)


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_polygons_survive_a_round_trip_with_names_in_any_script(tmp_path: Path, suffix: str) -> None:
    regions = some_regions()
    write(tmp_path / f"p{suffix}", regions)
    frame = read(tmp_path / f"p{suffix}").sort_values("code")
    order = np.argsort(regions.codes)
    assert frame.crs.to_epsg() == 32617
    assert frame["name"].tolist() == list(NAMES.values())
    assert frame["pixels"].tolist() == regions.pixels[order].tolist()
    np.testing.assert_allclose(frame["area_m2"], regions.pixels[order] * 900, rtol=1e-12)
    np.testing.assert_allclose(frame["area_ha"], regions.pixels[order] * 0.09, rtol=1e-12)
    placed = shapely.transform(regions.polygons(), lambda xy: to_ground(xy, from_origin(600_000, 4_000_000, 30, 30)))
    assert shapely.equals_exact(frame.geometry.to_numpy(), placed[order], normalize=True).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_map_without_polygons_writes_an_empty_layer(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"empty{suffix}", None)
    frame = read(tmp_path / f"empty{suffix}")
    assert len(frame) == 0
    assert {"code", "name", "area_m2", "pixels"} <= set(frame.columns)
    assert frame.crs.to_epsg() == 32617


def test_every_format_has_the_same_fields_of_at_most_ten_characters(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write(tmp_path / f"p{suffix}", some_regions())
        fields = read(tmp_path / f"p{suffix}").columns.drop("geometry").tolist()
        assert fields == ["code", "name", "area_m2", "area_ha", "perim_m", "pixels"]
        assert max(map(len, fields)) <= 10


def test_names_of_statistics_are_cut_for_a_shapefile_and_stay_different() -> None:
    columns = Columns.of(["elevation", "elevations", "ndvi"], shapefile=True)
    names = [name for name in columns.schema.names if name.endswith("_mean")]
    assert len(set(names)) == 3 and max(map(len, names)) <= 10
    assert (
        max(len(name.encode()) for name in Columns.of(["höhenlage", "高度差"], shapefile=True).schema.names[:-1]) <= 10
    )
    assert "elevation_mean" in Columns.of(["elevation"], shapefile=False).schema.names


def test_a_shapefile_says_that_its_text_is_utf_8(tmp_path: Path) -> None:
    write(tmp_path / "p.shp", some_regions())
    assert (tmp_path / "p.cpg").read_text().strip() == "UTF-8"
    assert "水体".encode() in (tmp_path / "p.dbf").read_bytes()


def test_a_shapefile_holds_areas_of_continents(tmp_path: Path) -> None:
    regions = some_regions()
    area = 44_579_000_123_456.5
    write(tmp_path / "p.shp", regions, areas=area)
    np.testing.assert_allclose(read(tmp_path / "p.shp")["area_m2"], regions.pixels * area, rtol=1e-12)


@pytest.mark.parametrize("limit", [2_000, 3_500])
def test_a_shapefile_too_large_for_its_readers_is_refused(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(vector, "SHAPEFILE_LIMIT", limit)
    regions = some_regions()
    batch = Columns().batch(
        regions, regions.pixels * 1.0, regions.pixels * 1.0, LEGEND, encode_regions(regions.xy, regions)
    )
    with pytest.raises(DataError, match=r"p\.shp.*2 GB") as caught:
        list(check_size(iter([batch] * 8), "p.shp"))
    assert ".gpkg" in caught.value.hint


def test_an_empty_shapefile_is_one_of_polygons(tmp_path: Path) -> None:
    write(tmp_path / "empty.shp", None)
    (kind,) = struct.unpack("<i", (tmp_path / "empty.shp").read_bytes()[32:36])
    assert kind == 5


def test_a_code_without_a_name_is_called_by_its_number() -> None:
    legend = Legend({}, {})
    assert legend.name(9) == "class 9" and legend.color(9).startswith("#")


def test_a_crs_without_a_code_is_carried_through(tmp_path: Path) -> None:
    write(tmp_path / "p.gpkg", some_regions(), crs=CRS.from_proj4("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84"))
    written = read(tmp_path / "p.gpkg").crs
    assert written.coordinate_operation.method_name.startswith("Lambert Azimuthal Equal Area")
    assert [each.value for each in written.coordinate_operation.params[:2]] == [10, 20]


def test_a_geopackage_brings_the_classes_colours(tmp_path: Path) -> None:
    path = tmp_path / "p.gpkg"
    write(path, some_regions())
    write_layer_style(path, "p", {code: (name, LEGEND.color(code)) for code, name in NAMES.items()}, "code")
    (row,) = sqlite3.connect(path).execute(
        "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML, update_time FROM layer_styles"
    )
    (column,) = sqlite3.connect(path).execute("SELECT column_name FROM gpkg_geometry_columns")
    assert row[:3] == ("p", column[0], 1)
    style = ElementTree.fromstring(row[3])
    assert style.find("renderer-v2").attrib["attr"] == "code"  # type: ignore[union-attr]
    assert {c.attrib["value"]: c.attrib["label"] for c in style.iter("category")} == {
        str(code): name for code, name in NAMES.items()
    }
    fills = [o.attrib["value"] for o in style.iter("Option") if o.attrib.get("name") == "color"]
    assert fills == ["0,90,220,255", "0,110,40,255", "255,238,0,255"]
    assert {name for name, _ in pyogrio.list_layers(path)} == {"p", "layer_styles"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row[4])


def test_a_style_is_read_back_and_any_other_is_none() -> None:
    colors = {-4: ("a & <b>", "#010203"), 300: ("水体", "#ffffff")}
    assert read_qml(qml(colors, "code")) == colors
    assert read_qml("<qgis/>") == read_qml("no xml") == {}


def test_geoparquet_says_what_its_geometry_is(tmp_path: Path) -> None:
    from pyarrow import parquet

    write(tmp_path / "p.parquet", some_regions())
    geo = json.loads(parquet.read_schema(tmp_path / "p.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 32617}


def test_what_fails_while_batches_are_made_is_said_and_not_what_gdal_makes_of_it(tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        raise DataError("the map is damaged")
        yield

    for suffix in SUFFIXES:
        with pytest.raises(DataError, match="damaged"):
            path = tmp_path / f"p{suffix}"
            write_stream(broken(), Columns().schema, path, driver=vector_driver(path), crs=UTM, layer="p")


def test_dissolved_classes_keep_every_part_and_every_sum() -> None:
    codes = np.random.default_rng(0).integers(1, 4, (30, 30)).astype(np.int32)
    values = np.random.default_rng(1).random((1, 30, 30)).astype(np.float32)
    parts = list(
        polygonize([Strip(codes[i : i + 4], values[:, i : i + 4]) for i in range(0, 30, 4)], 30, 30, statistics=1)
    )
    whole, areas, perimeters, geometry = dissolve([(part, part.pixels * 1.0, part.pixels * 2.0) for part in parts])
    assert whole.codes.tolist() == [1, 2, 3]
    assert [shape.geom_type for shape in geometry] == ["MultiPolygon"] * 3
    for row, code in enumerate(whole.codes):
        own = values[0][codes == code].astype(float)
        assert geometry[row].is_valid
        assert geometry[row].area == areas[row] == whole.pixels[row] == own.size == perimeters[row] / 2
        assert whole.statistics[row, 0].tolist() == pytest.approx([own.size, own.sum(), own.min(), own.max()])


@pytest.mark.parametrize("name", ["map.kml", "map", "map.tif"])
def test_an_unknown_suffix_is_a_usage_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        vector_driver(Path(name))
    assert caught.value.exit_code == 2
    assert ".gpkg" in caught.value.hint and ".shp" in caught.value.hint


def test_a_format_can_be_named() -> None:
    assert vector_driver(Path("map.json"), "geojsonseq") == "GeoJSONSeq"
    assert vector_driver(Path("map.GPKG")) == "GPKG"
    with pytest.raises(UsageError, match=r"must end in \.shp"):
        vector_driver(Path("map"), "shp")
    with pytest.raises(UsageError, match=r"must end in \.fgb"):
        vector_driver(Path("map.txt"), "fgb")


def test_a_copied_geopackage_holds_what_stands_in_its_log_only(tmp_path: Path) -> None:
    source = tmp_path / "source.gpkg"
    with closing(sqlite3.connect(source)) as other:  # a program that still has it open
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE polygons (code INTEGER)")
        other.execute("INSERT INTO polygons VALUES (7)")
        other.commit()
        assert (tmp_path / "source.gpkg-wal").stat().st_size
        copy_geopackage(source, tmp_path / "copy.gpkg")
    with closing(sqlite3.connect(tmp_path / "copy.gpkg")) as copied:
        assert copied.execute("SELECT code FROM polygons").fetchall() == [(7,)]


def test_what_is_no_geopackage_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "text.gpkg").write_text("no database, but long enough to be read as one" * 9)
    with pytest.raises(MachineError, match=r"text.gpkg. could not be copied"):
        copy_geopackage(tmp_path / "text.gpkg", tmp_path / "copy.gpkg")


def test_a_style_beside_a_layer_never_replaces_that_of_a_map_of_the_same_name(tmp_path: Path) -> None:
    layer, style = tmp_path / "map.shp", tmp_path / "map.qml"
    assert may_write_style(layer, overwrite=False)
    style.write_text(qml({1: ("water", "#005adc")}, "code"), encoding="utf-8")
    assert not may_write_style(layer, overwrite=False)
    assert may_write_style(layer, overwrite=True)
    write_style(tmp_path / "map.tif", from_names(["water"]))
    assert not may_write_style(layer, overwrite=True)


def test_a_style_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "p.gpkg"
    write(path, some_regions())
    with closing(sqlite3.connect(path)) as other:  # as a full disk does: SQLite says no
        other.execute("DROP TABLE gpkg_contents")
    with pytest.raises(MachineError, match=r"p\.gpkg. could not be written"):
        write_layer_style(path, "p", {1: ("water", "#005adc")}, "code")


@pytest.mark.parametrize(
    ("suffix", "cut", "lost"),
    [
        (".geojson", ".geojson", 1),
        (".geojson", ".geojson", 300),
        (".geojsonl", ".geojsonl", 1),
        (".fgb", ".fgb", 1),
        (".shp", ".shp", 1),
        (".shp", ".shx", 8),
        (".shp", ".dbf", 100),
        (".shp", ".prj", 10_000),
    ],
)
def test_a_layer_whose_end_is_not_on_the_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, cut: str, lost: int
) -> None:
    write_arrow = pyogrio.write_arrow

    def write_less(*args: Any, **options: Any) -> None:
        write_arrow(*args, **options)
        part = (tmp_path / "p").with_suffix(cut)
        os.truncate(part, max(0, part.stat().st_size - lost))

    write(tmp_path / f"p{suffix}", some_regions())
    monkeypatch.setattr(pyogrio, "write_arrow", write_less)
    with pytest.raises(MachineError, match="could not be written whole") as caught:
        write(tmp_path / f"p{suffix}", some_regions())
    assert "disk" in caught.value.hint


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no limit of a file's size")
def test_a_geopackage_without_its_spatial_index_is_an_error(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"a": range(400)}, geometry=[shapely.Point(i, i) for i in range(400)], crs=32617)
    write_frame(frame, tmp_path / "whole.gpkg", layer="points")
    size = (tmp_path / "whole.gpkg").stat().st_size
    code = (
        "import geopandas, resource, sys; from pathlib import Path; from cwsam_cli.vector.layers import write_frame\n"
        "frame = geopandas.read_file('whole.gpkg')\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size - 4096},) * 2)\n"
        "write_frame(frame, Path('half.gpkg'), layer='points')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "MachineError: `half.gpkg` could not be written whole" in done.stderr, done.stderr


def test_rows_are_appended_to_a_layer_without_spatial_index(tmp_path: Path) -> None:
    path, columns, regions = tmp_path / "p.gpkg", Columns(), some_regions()
    write(path, regions)
    with closing(sqlite3.connect(path)) as package, package:
        package.execute("DELETE FROM gpkg_extensions WHERE extension_name = 'gpkg_rtree_index'")
    area = regions.pixels * 900.0
    batch = columns.batch(regions, area, np.sqrt(area), LEGEND, encode_regions(ground(regions), regions))
    write_stream(iter([batch]), columns.schema, path, driver="GPKG", crs=UTM, layer="p", append=True)
    assert len(read(path)) == 2 * len(area)


@pytest.mark.parametrize("name", ["a;b.gpkg", "a!b.shp", "a!b/c.geojson"])
def test_a_name_that_would_be_read_as_a_url_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be written to a path with"):
        vector_driver(Path(name))
    assert vector_driver(Path("a&b [c]: (d).gpkg")) == "GPKG"
