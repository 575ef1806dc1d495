"""Vector layers reach the page in its CRS, with the names and colours of their classes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
from rasterio.crs import CRS
from shapely import Point, Polygon, box

from cwsam_cli.errors import DataError
from cwsam_cli.vector.layers import write_layer_style
from cwsam_cli.view.features import inspect_features, prepare_features
from cwsam_cli.view.frame import Frame
from cwsam_cli.view.request import ClassEntry

UTM = Frame(CRS.from_epsg(32617))
KNOWN = (ClassEntry(3, 3, "water", "#005adc"), ClassEntry(9, 9, "forest", "#006e28"))
SQUARES = [box(600_000, 3_999_000, 600_500, 4_000_000), box(600_500, 3_999_000, 601_000, 4_000_000)]


def write(path: Path, geometry: object = SQUARES, crs: object = 32617, **columns: object) -> Path:
    geopandas.GeoDataFrame(columns, geometry=geometry, crs=crs).to_file(path)
    return path


def test_attributes_and_geometries_arrive(tmp_path: Path) -> None:
    path = write(tmp_path / "polygons.gpkg", code=[3, 9], name=["water", "forest"], area_ha=[50.0, 50.0])
    layer = prepare_features(inspect_features(path)[0], UTM, tmp_path, KNOWN)
    read = geopandas.read_file(layer.file).sort_values("code", ignore_index=True)
    assert read.geometry.geom_equals(geopandas.GeoSeries(SQUARES, crs=32617)).all()
    assert read["area_ha"].tolist() == [50, 50] and read["name"].tolist() == ["water", "forest"]
    assert layer.classes == KNOWN and layer.facts["field"] == "code" and not layer.facts["filled"]
    assert layer.extent == (600_000, 3_999_000, 601_000, 4_000_000)


def test_another_crs_is_transformed(tmp_path: Path) -> None:
    moved = geopandas.GeoSeries(SQUARES, crs=32617).to_crs(4326)
    path = write(tmp_path / "polygons.geojson", moved, 4326, code=[3, 9])
    read = geopandas.read_file(prepare_features(inspect_features(path)[0], UTM, tmp_path, KNOWN).file)
    assert np.abs(read.total_bounds - (600_000, 3_999_000, 601_000, 4_000_000)).max() < 0.2


def test_codes_that_the_map_does_not_know_get_the_colours_of_the_geopackage(tmp_path: Path) -> None:
    path = write(tmp_path / "polygons.gpkg", code=[3, 700], name=["water", "ice"])
    write_layer_style(path, "polygons", {3: ("water", "#0000ff"), 700: ("ice", "#eeeeee")}, "code")
    layer = prepare_features(inspect_features(path)[0], UTM, tmp_path, KNOWN)
    assert [(entry.code, entry.name, entry.color) for entry in layer.classes] == [
        (3, "water", "#0000ff"),
        (700, "ice", "#eeeeee"),
    ]


def test_codes_of_another_legend_are_not_the_classes_of_the_map(tmp_path: Path) -> None:
    path = write(tmp_path / "polygons.gpkg", code=[3, 9], name=["Water ", "town"])
    layer = prepare_features(inspect_features(path)[0], UTM, tmp_path, KNOWN)
    assert [entry.name for entry in layer.classes] == ["Water ", "town"]
    without_names = write(tmp_path / "codes.gpkg", code=[3, 9])
    assert prepare_features(inspect_features(without_names)[0], UTM, tmp_path, KNOWN).classes == KNOWN


def test_features_without_codes_have_no_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "fields.gpkg", crop=["wheat", "maize"])
    layer = prepare_features(inspect_features(path)[0], UTM, tmp_path, KNOWN)
    assert layer.classes == () and layer.facts["field"] is None


def test_features_without_geometry_are_left_out_and_heights_dropped(tmp_path: Path) -> None:
    high = Polygon([(0, 0, 5), (1, 0, 5), (1, 1, 5)])
    path = write(tmp_path / "mixed.gpkg", [high, None, Point(3, 4), Polygon()], code=[1, 2, 3, 4])
    layer = prepare_features(inspect_features(path)[0], UTM, tmp_path, ())
    assert layer.note == "2 features"
    assert not geopandas.read_file(layer.file).has_z.any()


def test_every_layer_of_a_geopackage_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "two.gpkg", code=[1, 2])
    geopandas.GeoDataFrame(geometry=SQUARES, crs=32617).to_file(path, layer="roads")
    assert [source.name for source in inspect_features(path)] == ["two.gpkg: two", "two.gpkg: roads"]


def test_awkward_names_of_layers_and_fields_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "roads.gpkg"
    geopandas.GeoDataFrame({"wkt": ["POINT (1 2)"]}, geometry=SQUARES[:1], crs=32617).to_file(path, layer="2024/07")
    with closing(sqlite3.connect(path)) as package, package:
        package.execute('ALTER TABLE "2024/07" RENAME COLUMN wkt TO geometry')
    layer = prepare_features(inspect_features(path)[0], UTM, tmp_path, ())
    assert geopandas.read_file(layer.file).geometry[0].equals(SQUARES[0])


def test_an_empty_layer_has_no_extent(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.gpkg", [], code=[])
    assert prepare_features(inspect_features(path)[0], UTM, tmp_path, ()).extent is None


def test_a_layer_without_a_crs_beside_a_map_with_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "plain.shp", crs=None, code=[1, 2])
    with pytest.raises(DataError, match=r"plain.shp` has no coordinate reference system"):
        prepare_features(inspect_features(path)[0], UTM, tmp_path, ())


def test_a_table_without_geometry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no layer with geometry"):
        inspect_features(path)
