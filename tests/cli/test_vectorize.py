"""Polygons are the map in other words: same ground, same classes, same areas."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod
from rasterio.features import rasterize, shapes
from rasterio.transform import from_origin
from typer.testing import Result

Cwsam = Callable[..., Result]

GRID = from_origin(600_000, 4_000_000, 30, 30)


def patchwork(height: int = 50, width: int = 70, seed: int = 0, grain: int = 3) -> Any:
    """Ragged regions, single pixels, diagonal touches and holes."""
    rng = np.random.default_rng(seed)
    shape = (height // grain + 1, width // grain + 1)
    coarse = rng.integers(1, 5, shape).repeat(grain, 0).repeat(grain, 1)[:height, :width]
    noise = rng.random((height, width)) < 0.1
    return np.where(noise, rng.integers(1, 5, (height, width)), coarse).astype(np.uint8)


def burn(polygons: Any, shape: tuple[int, int], transform: Affine, fill: int = 255) -> Any:
    pairs = zip(polygons.geometry, polygons["code"], strict=True)
    return rasterize(pairs, out_shape=shape, transform=transform, fill=fill, dtype="uint8")


@pytest.mark.parametrize("file", ["polygons.gpkg", "polygons.shp"])
@pytest.mark.parametrize("grain", [1, 3, 10])
def test_polygons_rasterised_give_the_map_back(cwsam: Cwsam, make_raster: Any, file: str, grain: int) -> None:
    codes = patchwork(grain=grain)
    codes[10:20, 5:25] = 255
    cwsam("vectorize", make_raster("map.tif", codes, nodata=255), file)
    polygons = gpd.read_file(file)
    assert (burn(polygons, codes.shape, GRID) == codes).all()
    assert polygons.geometry.is_valid.all()
    assert polygons.crs.to_epsg() == 32617


@pytest.mark.parametrize("file", ["polygons.gpkg", "polygons.shp"])
def test_areas_of_a_class_are_its_pixels(cwsam: Cwsam, make_raster: Any, file: str) -> None:
    codes = patchwork()
    told = json.loads(cwsam("vectorize", make_raster("map.tif", codes, nodata=255), file, "--json").stdout)
    polygons = gpd.read_file(file)
    assert list(polygons.columns) == ["code", "name", "area_m2", "geometry"]
    for code in range(1, 5):
        area = polygons[polygons["code"] == code]["area_m2"].sum()
        assert area == pytest.approx((codes == code).sum() * 900, rel=1e-12)
        assert told["area_m2"][f"class {code}"] == pytest.approx(area)
    assert told["polygons"] == len(polygons)
    assert polygons["area_m2"].to_numpy() == pytest.approx(polygons.geometry.area.to_numpy())


def test_there_is_one_polygon_for_every_run_of_equal_codes(cwsam: Cwsam, make_raster: Any) -> None:
    codes = patchwork()
    cwsam("vectorize", make_raster("map.tif", codes, nodata=255), "polygons.gpkg")
    polygons = gpd.read_file("polygons.gpkg")
    assert set(polygons.geom_type) == {"Polygon"}
    assert len(polygons) == sum(1 for _ in shapes(codes, connectivity=4))


@pytest.mark.parametrize(
    "transform",
    [
        Affine(30, 0, 600_000, 0, 30, 3_990_000),
        Affine.translation(6e5, 4e6) @ Affine.rotation(33) @ Affine.scale(10, -10),
        Affine(10, 3, 600_000, 1, -7, 4_000_000),
        from_origin(600_000.123456789, 4_000_000.987654321, 28.500000001, 28.499999999),
    ],
    ids=["south up", "rotated", "sheared", "long digits"],
)
def test_any_transform_keeps_ground_and_area(cwsam: Cwsam, make_raster: Any, transform: Affine) -> None:
    codes = patchwork()
    cwsam("vectorize", make_raster("map.tif", codes, nodata=255, transform=transform), "polygons.gpkg")
    polygons = gpd.read_file("polygons.gpkg")
    assert (burn(polygons, codes.shape, transform) == codes).all()
    area = polygons.groupby("code")["area_m2"].sum()
    for code in range(1, 5):
        assert area[code] == pytest.approx((codes == code).sum() * abs(transform.determinant), rel=1e-9)


@pytest.mark.parametrize("south_up", [False, True])
def test_areas_in_degrees_are_geodesic(cwsam: Cwsam, make_raster: Any, south_up: bool) -> None:
    codes = patchwork()
    transform = Affine(0.01, 0, 10, 0, 0.01, 60) if south_up else from_origin(10, 60.5, 0.01, 0.01)
    scene = make_raster("map.tif", codes, nodata=255, crs="EPSG:4326", transform=transform)
    cwsam("vectorize", scene, "polygons.gpkg")
    polygons = gpd.read_file("polygons.gpkg")
    # A pixel's edge is a parallel, which a geodesic between far corners is not: so with many corners.
    geod, dense = Geod(ellps="WGS84"), shapely.orient_polygons(shapely.segmentize(polygons.geometry.to_numpy(), 0.002))
    expected = [geod.geometry_area_perimeter(shape)[0] for shape in dense]
    assert polygons["area_m2"].to_numpy() == pytest.approx(np.array(expected), rel=1e-6)
    # ... and altogether the ground that the map covers: an equal-area projection agrees
    assert polygons["area_m2"].sum() == pytest.approx(polygons.to_crs("EPSG:6933").area.sum(), rel=1e-4)


def test_areas_in_degrees_are_those_of_the_classes_pixels(cwsam: Cwsam, make_raster: Any) -> None:
    codes = patchwork()
    transform = from_origin(10, 60.5, 0.01, 0.01)
    told = json.loads(
        cwsam(
            "vectorize", make_raster("map.tif", codes, crs="EPSG:4326", transform=transform), "polygons.gpkg", "--json"
        ).stdout
    )
    geod = Geod(ellps="WGS84")
    rows = [shapely.box(10, 60.5 - 0.01 * (row + 1), 10.01, 60.5 - 0.01 * row) for row in range(len(codes))]
    pixel = np.array([geod.geometry_area_perimeter(shapely.segmentize(row, 0.001))[0] for row in rows])
    for code in range(1, 5):
        assert told["area_m2"][f"class {code}"] == pytest.approx(((codes == code).sum(axis=1) * np.abs(pixel)).sum())


def test_areas_are_square_metres_in_a_crs_of_feet(cwsam: Cwsam, make_raster: Any) -> None:
    codes = np.ones((10, 10), np.uint8)
    cwsam("vectorize", make_raster("map.tif", codes, crs="EPSG:2264"), "polygons.gpkg")
    foot = 1200 / 3937
    assert gpd.read_file("polygons.gpkg")["area_m2"].sum() == pytest.approx(100 * 900 * foot**2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_any_whole_number_type_is_a_map(cwsam: Cwsam, make_raster: Any, dtype: str) -> None:
    codes = patchwork()
    cwsam("vectorize", make_raster("map.tif", codes.astype(dtype)), "polygons.gpkg")
    assert (burn(gpd.read_file("polygons.gpkg"), codes.shape, GRID) == codes).all()


def test_code_0_is_a_class_unless_the_map_says_otherwise(cwsam: Cwsam, make_raster: Any) -> None:
    codes = patchwork() - 1
    cwsam("vectorize", make_raster("with.tif", codes, nodata=255), "with.gpkg")
    assert set(gpd.read_file("with.gpkg")["code"]) == {0, 1, 2, 3}
    cwsam("vectorize", make_raster("without.tif", codes, nodata=0), "without.gpkg")
    assert set(gpd.read_file("without.gpkg")["code"]) == {1, 2, 3}


def test_a_map_larger_than_a_block_has_no_seams(cwsam: Cwsam, make_raster: Any) -> None:
    codes = np.ones((700, 600), np.uint8)
    codes[100:500, 200:400] = 2
    cwsam("vectorize", make_raster("map.tif", codes, nodata=255, tiled=True, blockxsize=256, blockysize=256), "p.gpkg")
    assert sorted(gpd.read_file("p.gpkg")["code"]) == [1, 2]


def test_a_map_of_one_pixel_is_one_polygon(cwsam: Cwsam, make_raster: Any) -> None:
    cwsam("vectorize", make_raster("map.tif", np.full((1, 1), 7, np.uint8), nodata=255), "p.gpkg")
    (polygon,) = gpd.read_file("p.gpkg").itertuples()
    assert (polygon.code, polygon.area_m2, polygon.geometry.area) == (7, 900, 900)


@pytest.mark.parametrize("file", ["多边形.gpkg", "polygons.shp"])
def test_class_names_in_any_script_reach_the_polygons(
    cwsam: Cwsam, odd_classes: Any, tmp_path: Path, file: str
) -> None:
    cwsam("predict", odd_classes.scene, "-c", odd_classes.checkpoint, "-o", "map.tif")
    cwsam("vectorize", "map.tif", file)
    names = {1: "水体", 3: "grass & <herbs>", 7: "冰川", 9: "矿山", 200: "林地"}
    polygons = gpd.read_file(file)
    assert [names[code] for code in polygons["code"]] == list(polygons["name"])
    with rasterio.open("map.tif") as source:
        codes = source.read(1)
    assert (burn(polygons, codes.shape, GRID) == codes).all()
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*part*"))


def test_overwriting_replaces_all_files_of_a_shapefile(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    many, one = make_raster("many.tif", patchwork()), make_raster("one.tif", np.full((5, 5), 9, np.uint8))
    cwsam("vectorize", many, "out/p.shp")
    cwsam("vectorize", one, "out/p.shp", "--overwrite")
    assert list(gpd.read_file("out/p.shp")["code"]) == [9]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".shp", ".shx", ".dbf", ".prj", ".cpg"}


def test_overwriting_replaces_a_geopackage(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    many, one = make_raster("many.tif", patchwork()), make_raster("one.tif", np.full((5, 5), 9, np.uint8))
    cwsam("vectorize", many, "out/p.gpkg")
    cwsam("vectorize", one, "out/p.gpkg", "--overwrite")
    assert list(gpd.read_file("out/p.gpkg")["code"]) == [9]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.gpkg"]


def test_other_files_of_the_same_stem_are_left_alone(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("notes")
    (tmp_path / "p.gpkg").write_text("mine")
    cwsam("vectorize", make_raster("map.tif", patchwork()), "p.shp")
    assert (tmp_path / "p.txt").read_text() == "notes" and (tmp_path / "p.gpkg").read_text() == "mine"


@pytest.mark.parametrize("file", ["p.gpkg", "p.shp"])
def test_a_raster_of_nodata_alone_has_no_polygons(cwsam: Cwsam, make_raster: Any, file: str) -> None:
    cwsam("vectorize", make_raster("map.tif", np.full((5, 5), 255, np.uint8), nodata=255), file)
    assert len(gpd.read_file(file)) == 0


@pytest.mark.parametrize("file", ["p.gpkg", "p.shp"])
def test_the_map_of_a_scene_of_nodata_has_no_polygons(cwsam: Cwsam, run: Any, make_raster: Any, file: str) -> None:
    scene = make_raster("scene.tif", np.zeros((3, 40, 70), np.uint8), nodata=0)
    cwsam("predict", scene, "-c", run.checkpoint, "-o", "map.tif")
    cwsam("vectorize", "map.tif", file)
    polygons = gpd.read_file(file)
    assert len(polygons) == 0
    assert {"code", "name", "area_m2"} <= set(polygons.columns)
