"""Polygons are the map in other words: same ground, same classes, same areas."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod, Transformer
from rasterio.features import rasterize, shapes
from rasterio.transform import from_origin
from typer.testing import CliRunner, Result

from cwsam_cli.main import app

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
    assert list(polygons.columns) == ["code", "name", "area_m2", "area_ha", "perim_m", "pixels", "geometry"]
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
    scene = make_raster("map.tif", codes, crs="EPSG:2264", transform=from_origin(2e6, 7e5, 30, 30))
    cwsam("vectorize", scene, "polygons.gpkg")
    foot = 1200 / 3937
    assert gpd.read_file("polygons.gpkg")["area_m2"].sum() == pytest.approx(100 * 900 * foot**2)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3395"])
@pytest.mark.parametrize("dst", [(), ("--dst-crs", "EPSG:4326")])
def test_areas_in_a_mercator_plane_are_those_on_the_ground(
    cwsam: Cwsam, make_raster: Any, crs: str, dst: tuple[str, ...]
) -> None:
    import pyogrio

    codes = np.ones((20, 30), np.uint8)
    codes[5:9, 5:25] = 2  # 80 pixels: 7.2 ha in the plane, 1.8 ha on the ground
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(10, 60)
    scene = make_raster("map.tif", codes, crs=crs, transform=from_origin(x, y, 30, 30))
    said = cwsam("vectorize", scene, "p.gpkg", "--check", *dst).stdout
    assert "ha (geodesic, on the map's ellipsoid; lengths too)" in said
    metadata = pyogrio.read_info("p.gpkg", layer="p")["layer_metadata"]
    assert metadata["areas"].startswith("geodesic") and metadata["lengths"].startswith("geodesic")
    polygons = gpd.read_file("p.gpkg", layer="p").sort_values("code")
    geod = Geod(ellps="WGS84")
    degrees = shapely.orient_polygons(polygons.to_crs("EPSG:4326").geometry.to_numpy())
    area, length = geod.geometry_area_perimeter(degrees[1])
    assert polygons["area_m2"].iloc[1] == pytest.approx(area, rel=1e-4)
    assert polygons["perim_m"].iloc[1] == pytest.approx(length, rel=1e-4)
    cwsam("vectorize", scene, "large.gpkg", "--min-area", "5ha", "--check", *dst)
    assert gpd.read_file("large.gpkg", layer="large")["code"].tolist() == [1]


def test_areas_and_lengths_are_told_apart_where_only_lengths_are_stretched(cwsam: Cwsam, make_raster: Any) -> None:
    x, y = Transformer.from_crs(4326, 5070, always_xy=True).transform(-122, 48)
    scene = make_raster("map.tif", patchwork(), crs="EPSG:5070", transform=from_origin(x, y, 30, 30))
    told = json.loads(cwsam("vectorize", scene, "p.gpkg", "--check", "--json").stdout)
    assert told["areas"].startswith("projected") and told["lengths"].startswith("geodesic")
    assert sum(told["area_m2"].values()) == pytest.approx(50 * 70 * 900, rel=1e-12)


@pytest.mark.parametrize("options", [("--simplify", "20m"), ("--min-area", "1ha"), ("--dissolve",), ("--class", "1")])
def test_a_polar_map_has_the_areas_of_its_pixels_on_the_ground(
    cwsam: Cwsam, make_raster: Any, options: tuple[str, ...]
) -> None:
    codes = patchwork(grain=5)
    scene = make_raster("map.tif", codes, crs="EPSG:3413", transform=from_origin(-1000, 900, 30, 30))
    told = json.loads(cwsam("vectorize", scene, "p.gpkg", "--check", "--json", *options).stdout)
    pixel = 900 / 0.9702**2  # the plane is 3 % too small at the pole
    expected = (codes == 1).sum() if "--class" in options else codes.size
    assert sum(told["area_m2"].values()) == pytest.approx(expected * pixel, rel=1e-3)


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
    (tmp_path / "out/p.qix").write_bytes(b"an index of the older file")
    cwsam("vectorize", one, "out/p.shp", "--overwrite")
    assert list(gpd.read_file("out/p.shp")["code"]) == [9]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".shp", ".shx", ".dbf", ".prj", ".cpg", ".qml"}


def test_overwriting_replaces_a_geopackage(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    many, one = make_raster("many.tif", patchwork()), make_raster("one.tif", np.full((5, 5), 9, np.uint8))
    cwsam("vectorize", many, "out/p.gpkg")
    (tmp_path / "out/p.gpkg-wal").write_bytes(b"what another program was about to write")
    cwsam("vectorize", one, "out/p.gpkg", "--overwrite")
    assert list(gpd.read_file("out/p.gpkg")["code"]) == [9]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.gpkg"]


def test_an_output_that_another_process_writes_is_refused(refused: Any, make_raster: Any, tmp_path: Path) -> None:
    from cwsam_cli.files import reserved

    scene = make_raster("map.tif", patchwork())
    with reserved(tmp_path / "p.gpkg"):
        refused(6, "vectorize", scene, "p.gpkg", names="p.gpkg` is being written by another process")


def test_what_a_killed_run_left_staged_is_swept_by_the_next(cwsam: Cwsam, make_raster: Any, tmp_path: Path) -> None:
    (tmp_path / ".p.gpkg.abcdefgh.part").mkdir()
    (tmp_path / ".p.gpkg.abcdefgh.part" / "p.gpkg").write_bytes(b"half")
    cwsam("vectorize", make_raster("map.tif", patchwork()), "p.gpkg")
    assert not list(tmp_path.glob(".*"))


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


READERS = {".parquet": gpd.read_parquet}


@pytest.mark.parametrize("file", ["p.fgb", "p.parquet", "p.geojson", "p.geojsonl"])
def test_other_formats_hold_the_same_polygons(cwsam: Cwsam, make_raster: Any, file: str) -> None:
    codes = patchwork()
    codes[10:20, 5:25] = 255
    scene = make_raster("map.tif", codes, nodata=255)
    cwsam("vectorize", scene, file, "--check")
    polygons = READERS.get(Path(file).suffix, gpd.read_file)(file)
    if "json" in file:
        assert polygons.crs.to_epsg() == 4326
        polygons = polygons.to_crs("EPSG:32617")
    assert (burn(polygons, codes.shape, GRID) == codes).all()
    assert polygons.geometry.is_valid.all()


def test_a_geojson_has_its_rings_and_members_as_rfc_7946_has_them(cwsam: Cwsam, make_raster: Any) -> None:
    cwsam("vectorize", make_raster("map.tif", patchwork(), nodata=255), "p.geojson")
    whole = json.loads(Path("p.geojson").read_text())
    assert "crs" not in whole
    for feature in whole["features"]:
        outer, *holes = (shapely.LinearRing(ring) for ring in feature["geometry"]["coordinates"])
        assert outer.is_ccw and not any(hole.is_ccw for hole in holes)


@pytest.mark.parametrize("options", [(), ("--dissolve",)])
@pytest.mark.parametrize("file", ["p.geojson", "p.gpkg", "p.fgb", "p.shp", "p.parquet"])
def test_polygons_in_degrees_across_the_antimeridian_do_not_run_round_the_globe(
    cwsam: Cwsam, make_raster: Any, file: str, options: tuple[str, ...]
) -> None:
    codes = np.ones((20, 30), np.uint8)
    codes[5:9, 10:20] = 2
    transform = from_origin(620_000, 7_000_000, 2000, 2000)  # zone 60, over 180 degrees
    scene = make_raster("map.tif", codes, crs="EPSG:32660", transform=transform)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        said = cwsam("vectorize", scene, file, "--check", "--dst-crs", "EPSG:4326", *options).stderr
    assert "warning" not in said
    polygons = READERS.get(Path(file).suffix, gpd.read_file)(file)
    assert polygons.geometry.is_valid.all() and sorted(polygons["code"]) == [1, 2]
    parts = polygons.explode()
    assert ((parts.bounds.maxx - parts.bounds.minx) < 2).all()
    assert parts.bounds.minx.min() < -179 and parts.bounds.maxx.max() > 179
    area = parts.to_crs("EPSG:6933").area.sum()
    assert area == pytest.approx(20 * 30 * 4e6, rel=5e-3)  # the UTM plane is wide of its meridian here


@pytest.mark.parametrize("west", [-180, 0, 100], ids=["whole globe", "from Greenwich", "over the Pacific"])
@pytest.mark.parametrize("file", ["p.geojson", "p.geojsonl"])
def test_a_geojson_of_degrees_keeps_all_its_ground_within_180(
    cwsam: Cwsam, make_raster: Any, file: str, west: int
) -> None:
    codes = np.ones((18, 36), np.uint8)
    codes[5:8, 10:20] = 2
    scene = make_raster("map.tif", codes, crs="EPSG:4326", transform=from_origin(west, 90, 10, 10))
    cwsam("vectorize", scene, file, "--check")
    polygons = gpd.read_file(file).set_index("code").geometry
    assert np.abs(polygons.total_bounds).tolist() == [180, 90, 180, 90]
    square_degrees = dict(zip(polygons.index, shapely.area(polygons.geometry.array), strict=True))
    assert square_degrees == {1: 360 * 180 - 100 * 30, 2: 100 * 30}


def test_a_geojson_of_a_polar_map_holds_the_pole(cwsam: Cwsam, make_raster: Any) -> None:
    codes = np.ones((20, 20), np.uint8)
    codes[7:14, 7:14] = 2
    transform = from_origin(-1e6, 1e6, 1e5, 1e5)
    cwsam("vectorize", make_raster("map.tif", codes, crs="EPSG:3413", transform=transform), "p.geojson", "--check")
    around, cap = gpd.read_file("p.geojson").sort_values("code").geometry.to_crs("EPSG:6931").area  # equal area
    assert cap == pytest.approx(49e10, rel=0.1) and around == pytest.approx(351e10, rel=0.1)


@pytest.mark.parametrize("extra", [(), ("--simplify", "45m"), ("--min-area", "5px", "--simplify", "1.5px")])
@pytest.mark.parametrize("dst", [(), ("--dst-crs", "EPSG:3035")])
def test_the_check_proves_what_geometry_says_too(
    cwsam: Cwsam, make_raster: Any, extra: tuple[str, ...], dst: tuple[str, ...]
) -> None:
    codes = patchwork(grain=5)
    codes[30:35, :20] = 255
    scene = make_raster("map.tif", codes, nodata=255)
    told = json.loads(cwsam("vectorize", scene, "p.gpkg", "--check", "--json", *extra, *dst).stdout)
    assert told["check"]["edges"] > 0
    assert told["check"]["unmatched_edges"] == told["check"]["invalid_polygons"] == 0
    assert (told["check"]["largest_area_error"] < 1e-9) == (not extra)
    polygons = gpd.read_file("p.gpkg", layer="p")
    assert shapely.coverage_is_valid(polygons.geometry.to_numpy())
    assert polygons.geometry.is_valid.all()


def test_a_broken_coverage_is_refused_and_leaves_nothing(
    refused: Any, make_raster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cwsam_cli.vectorize import work

    original = work.to_ground

    def shaken(xy: Any, transform: Affine) -> Any:
        return original(xy, transform) + (np.arange(len(xy)) == 7)[:, None] * 0.01

    monkeypatch.setattr(work, "to_ground", shaken)
    scene = make_raster("map.tif", patchwork(), nodata=255)
    message = refused(4, "vectorize", scene, "p.gpkg", "--check", names="map.tif")
    assert "edges without their opposite" in message


def test_small_regions_join_their_neighbours(cwsam: Cwsam, make_raster: Any) -> None:
    codes = np.ones((20, 30), np.uint8)
    codes[:, 15:] = 2
    codes[3:5, 3:6], codes[10, 14:17], codes[0:4, 20:24] = 3, 3, 3  # 6, 3 and 16 pixels of 900 m²
    scene = make_raster("map.tif", codes)
    told = json.loads(cwsam("vectorize", scene, "p.gpkg", "--min-area", "1ha", "--check", "--json").stdout)
    polygons = gpd.read_file("p.gpkg", layer="p")
    assert sorted(polygons["code"]) == [1, 2, 3]
    assert polygons["area_ha"].min() >= 1
    assert told["area_m2"]["class 3"] == 16 * 900
    assert told["area_m2"]["class 1"] == (20 * 15 - 1) * 900  # the three pixels across the border went east, all
    assert all(len(shape.interiors) == 0 for shape in polygons.geometry[polygons["code"] == 1])


def test_simplified_polygons_have_fewer_vertices_and_their_own_areas(cwsam: Cwsam, make_raster: Any) -> None:
    rows, cols = np.mgrid[:60, :80]
    codes = ((rows + cols // 3) // 20 + (cols // 25) + 1).astype(np.uint8)
    scene = make_raster("map.tif", codes)
    cwsam("vectorize", scene, "exact.gpkg")
    cwsam("vectorize", scene, "simple.gpkg", "--simplify", "40m", "--check")
    exact, simple = gpd.read_file("exact.gpkg", layer="exact"), gpd.read_file("simple.gpkg", layer="simple")
    count = [shapely.get_num_coordinates(frame.geometry.to_numpy()).sum() for frame in (exact, simple)]
    assert count[1] < count[0] / 2
    assert simple["pixels"].tolist() == exact["pixels"].tolist()
    assert simple["area_m2"].to_numpy() == pytest.approx(simple.geometry.area.to_numpy())
    assert simple["perim_m"].to_numpy() == pytest.approx(simple.geometry.length.to_numpy())
    assert simple.geometry.union_all().equals(shapely.box(6e5, 4e6 - 1800, 6e5 + 2400, 4e6))


def test_classes_are_chosen_by_name(cwsam: Cwsam, refused: Any, odd_classes: Any) -> None:
    cwsam(
        "vectorize",
        odd_classes.labels,
        "p.gpkg",
        "--classes",
        odd_classes.dataset.parent / "classes.yaml",
        "--class",
        "水体",
    )
    assert set(gpd.read_file("p.gpkg", layer="p")["name"]) == {"水体"}
    refused(2, "vectorize", odd_classes.labels, "q.gpkg", "--class", "²", names="²")
    cwsam("vectorize", odd_classes.labels, "q.gpkg", "--class", "200", "--class", "class 3")
    assert set(gpd.read_file("q.gpkg", layer="q")["code"]) == {3, 200}


def test_dissolved_there_is_one_multipolygon_a_class(cwsam: Cwsam, make_raster: Any) -> None:
    codes = patchwork()
    cwsam("vectorize", make_raster("map.tif", codes, nodata=255), "p.gpkg", "--dissolve", "--check")
    polygons = gpd.read_file("p.gpkg", layer="p")
    assert polygons["code"].tolist() == [1, 2, 3, 4]
    assert set(polygons.geom_type) == {"MultiPolygon"}
    assert polygons["pixels"].tolist() == [(codes == code).sum() for code in range(1, 5)]
    assert (burn(polygons, codes.shape, GRID) == codes).all()


def test_ground_beside_another_raster_has_no_statistics(cwsam: Cwsam, refused: Any, make_raster: Any) -> None:
    codes = np.ones((20, 30), np.uint8)
    codes[:, 20:] = 2
    scene = make_raster("map.tif", codes)
    west = make_raster("west.tif", np.full((20, 10), 0.5, np.float32))  # without nodata
    cwsam("vectorize", scene, "p.gpkg", "--confidence", west)
    one, two = gpd.read_file("p.gpkg", layer="p").sort_values("code").itertuples()
    assert (one.conf_mean, one.conf_min) == (0.5, 0.5)
    assert np.isnan(two.conf_mean) and np.isnan(two.conf_min)
    refused(2, "vectorize", scene, "q.gpkg", "--stats", f"x={west}", "--stats", f"X={west}", names="X=")


def test_confidence_and_other_rasters_become_attributes_on_any_grid(cwsam: Cwsam, make_raster: Any) -> None:
    codes = np.ones((20, 30), np.uint8)
    codes[:, 15:] = 2
    confidence = np.full((20, 30), 0.5, np.float32)
    confidence[4, 4], confidence[:, 15:], confidence[3, 20] = 0.1, 0.9, np.nan
    heights = np.full((10, 15), 7, np.int16)  # pixels twice as large
    heights[:, 10:] = 9
    scene = make_raster("map.tif", codes)
    sure = make_raster("sure.tif", confidence, nodata=np.nan)
    dem = make_raster("dem.tif", heights, transform=from_origin(600_000, 4_000_000, 60, 60))
    cwsam("vectorize", scene, "p.gpkg", "--confidence", sure, "--stats", f"height={dem}")
    one, two = gpd.read_file("p.gpkg", layer="p").sort_values("code").itertuples()
    assert (one.conf_mean, one.conf_min) == pytest.approx((0.5 - 0.4 / 300, 0.1))
    assert (two.conf_mean, two.conf_min) == pytest.approx((0.9, 0.9))
    assert (one.height_mean, one.height_min, one.height_max) == (7, 7, 7)
    assert (two.height_min, two.height_max) == (7, 9)
    assert two.height_mean == pytest.approx((5 * 7 + 10 * 9) / 15)
    assert not hasattr(one, "conf_max")


def test_a_band_of_a_stack_can_be_the_map(cwsam: Cwsam, make_raster: Any) -> None:
    stack = np.stack([patchwork(seed=1), patchwork(seed=2)])
    cwsam("vectorize", make_raster("stack.tif", stack), "p.gpkg", "--band", 2)
    assert (burn(gpd.read_file("p.gpkg", layer="p"), stack.shape[1:], GRID) == stack[1]).all()


def test_layer_and_format_can_be_named(cwsam: Cwsam, make_raster: Any) -> None:
    scene = make_raster("map.tif", patchwork())
    cwsam("vectorize", scene, "p.gpkg", "--layer", "land cover")
    assert len(gpd.read_file("p.gpkg", layer="land cover")) > 0
    cwsam("vectorize", scene, "p.txt", "--format", "geojsonseq")
    assert all(json.loads(line)["type"] == "Feature" for line in Path("p.txt").read_text().splitlines())


def test_a_geopackage_says_how_it_was_made(cwsam: Cwsam, make_raster: Any) -> None:
    import pyogrio

    scene = make_raster("map.tif", patchwork(), crs="EPSG:4326", transform=from_origin(10, 50, 0.001, 0.001))
    cwsam("vectorize", scene, "p.gpkg", "--min-area", "3px")
    said = pyogrio.read_info("p.gpkg", layer="p")["layer_metadata"]
    assert said["areas"].startswith("geodesic") and said["smallest mapping unit"] == "3px"


def test_progress_and_polygons_do_not_depend_on_how_the_file_is_cut_into_blocks(cwsam: Cwsam, make_raster: Any) -> None:
    codes = patchwork(height=300, width=260)
    one = make_raster("one.tif", codes, nodata=255)
    two = make_raster("two.tif", codes, nodata=255, tiled=True, blockxsize=64, blockysize=64)
    for name, scene in (("one", one), ("two", two)):
        cwsam("vectorize", scene, f"{name}.fgb", "--min-area", "4px")
    first, second = gpd.read_file("one.fgb"), gpd.read_file("two.fgb")
    assert first.equals(second)


def test_nodata_inside_the_map_can_be_filled(cwsam: Cwsam, make_raster: Any) -> None:
    codes = np.ones((20, 30), np.uint8)
    codes[:, 15:] = 2
    codes[5:8, 5:8], codes[10:12, 14:19], codes[:3, :3] = 255, 255, 255
    scene = make_raster("map.tif", codes, nodata=255)
    cwsam("vectorize", scene, "p.gpkg", "--fill-nodata-holes", "--min-area", "2px", "--check")
    polygons = gpd.read_file("p.gpkg", layer="p").set_index("code")
    assert polygons["pixels"].to_dict() == {1: 20 * 15 - 9 - 2, 2: 20 * 15 + 2}
    assert all(len(shape.interiors) == 0 for shape in polygons.geometry)


def test_rounded_polygons_are_a_coverage(cwsam: Cwsam, make_raster: Any) -> None:
    codes = patchwork(grain=6)
    codes[20:30, 5:25] = 255
    scene = make_raster("map.tif", codes, nodata=255)
    cwsam("vectorize", scene, "sharp.fgb", "--simplify", "40m")
    cwsam("vectorize", scene, "round.fgb", "--simplify", "40m", "--smooth", "--check")
    sharp, rounded = gpd.read_file("sharp.fgb"), gpd.read_file("round.fgb")
    assert shapely.coverage_is_valid(rounded.geometry.to_numpy())
    count = [shapely.get_num_coordinates(frame.geometry.to_numpy()).sum() for frame in (sharp, rounded)]
    assert count[1] > 1.5 * count[0]
    assert rounded.geometry.union_all().bounds == sharp.geometry.union_all().bounds


def test_maps_can_be_appended_to_a_layer_and_beside_it(cwsam: Cwsam, make_raster: Any) -> None:
    import sqlite3

    beside = from_origin(602_100, 4_000_000, 30, 30)  # 70 pixels farther east
    west = make_raster("west.tif", patchwork(seed=1))
    east = make_raster("east.tif", patchwork(seed=2) + 4, transform=beside)
    cwsam("vectorize", west, "p.gpkg", "--append", "--layer", "cover")  # nothing is there yet
    first = len(gpd.read_file("p.gpkg", layer="cover"))
    cwsam("vectorize", east, "p.gpkg", "--append", "--layer", "cover")
    both = gpd.read_file("p.gpkg", layer="cover")
    assert len(both) > first and set(both["code"]) == set(range(1, 9))
    cwsam("vectorize", east, "p.gpkg", "--append", "--layer", "east")
    assert set(gpd.read_file("p.gpkg", layer="east")["code"]) == {5, 6, 7, 8}
    assert len(gpd.read_file("p.gpkg", layer="cover")) == len(both)
    styles = dict(sqlite3.connect("p.gpkg").execute("SELECT f_table_name, styleQML FROM layer_styles"))
    assert styles["cover"].count("<category ") == 8 and styles["east"].count("<category ") == 4


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_change_that_another_program_commits_during_append_is_not_lost(
    cwsam: Cwsam, make_raster: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    import sqlite3

    from cwsam_cli.vectorize import work

    scene = make_raster("map.tif", patchwork())
    cwsam("vectorize", scene, "p.gpkg")
    other = sqlite3.connect("p.gpkg")
    assert other.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    copy = work.copy_geopackage

    def copy_and_change(source: Path, target: Path) -> None:
        copy(source, target)
        other.execute("UPDATE gpkg_contents SET description = 'corrected'")
        other.commit()

    monkeypatch.setattr(work, "copy_geopackage", copy_and_change)
    result = CliRunner().invoke(app, ["vectorize", str(scene), "p.gpkg", "--append", "--layer", "two"])
    other.close()
    assert result.exit_code == 4 and "was changed while it was read" in result.stderr
    kept = sqlite3.connect("p.gpkg").execute("SELECT DISTINCT description FROM gpkg_contents").fetchall()
    assert kept == [("corrected",)]


@pytest.mark.parametrize("dst", [(), ("--dst-crs", "EPSG:3035")])
@pytest.mark.parametrize("columns", [0, 40])
def test_a_map_of_ground_that_the_layer_has_already_is_appended_only_on_demand(
    refused: Any, cwsam: Cwsam, make_raster: Any, columns: int, dst: tuple[str, ...]
) -> None:
    west = make_raster("west.tif", patchwork(seed=1), nodata=255)
    moved = from_origin(600_000 + 30 * columns, 4_000_000, 30, 30)
    east = make_raster("east.tif", patchwork(seed=2), nodata=255, transform=moved)
    cwsam("vectorize", west, "p.gpkg", *dst)
    before = len(gpd.read_file("p.gpkg", layer="p"))
    message = refused(4, "vectorize", east, "p.gpkg", "--append", *dst, names="layer `p` of `p.gpkg`")
    assert "--allow-overlap" in message
    if not dst:
        assert f"from {moved.c:.0f}, 3998500 to 602100, 4000000" in message
    cwsam("vectorize", east, "p.gpkg", "--append", "--allow-overlap", *dst)
    assert len(gpd.read_file("p.gpkg", layer="p")) > before


def test_only_ground_with_a_class_overlaps(cwsam: Cwsam, make_raster: Any) -> None:
    west, east = patchwork(seed=1), patchwork(seed=2)
    west[:, 50:], east[:, :50] = 255, 255
    for name, codes in (("west.tif", west), ("east.tif", east)):
        cwsam("vectorize", make_raster(name, codes, nodata=255), "p.gpkg", "--append", "--layer", "cover")
    nothing = make_raster("none.tif", np.full_like(west, 255), nodata=255)
    cwsam("vectorize", nothing, "p.gpkg", "--append", "--layer", "cover")
    area = gpd.read_file("p.gpkg", layer="cover")["area_m2"].sum()
    assert area == pytest.approx(50 * 70 * 900)


def test_overlap_can_be_allowed_only_where_something_is_appended(refused: Any, make_raster: Any) -> None:
    refused(2, "vectorize", make_raster("map.tif", patchwork()), "p.gpkg", "--allow-overlap", names="--allow-overlap")


def test_what_does_not_fit_a_layer_is_not_appended(refused: Any, make_raster: Any, tmp_path: Path) -> None:
    from cwsam_cli.vectorize.pipeline import vectorize
    from cwsam_cli.vectorize.request import VectorizeRequest

    scene = make_raster("map.tif", patchwork())
    vectorize(VectorizeRequest(map_path=scene, output=tmp_path / "p.gpkg"))
    refused(2, "vectorize", scene, "p.fgb", "--append", names="--append")
    refused(2, "vectorize", scene, "p.gpkg", "--append", "--overwrite", names="--append")
    refused(4, "vectorize", scene, "p.gpkg", "--append", "--dst-crs", "EPSG:3035", names="`p.gpkg`")
    refused(4, "vectorize", scene, "p.gpkg", "--append", "--stats", f"x={scene}", names="`p.gpkg`")
    assert "--layer" in refused(4, "vectorize", scene, "p.gpkg", "--append", "--dissolve", names="`p.gpkg`")


def test_what_gdal_has_to_say_is_said_in_a_line(cwsam: Cwsam, make_raster: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        said = cwsam("vectorize", make_raster("map.tif", patchwork()), "p.txt", "--format", "gpkg").stderr
    assert said.count("\n") == 1 and said.startswith("warning: `p.txt`: The filename extension")


@pytest.mark.parametrize(
    "option", [("--check",), ("--min-area", "3px"), ("--fill-nodata-holes",), ("--simplify", "2px"), ("--smooth",)]
)
def test_a_map_rotated_in_degrees_is_refused_where_rows_need_one_size(
    cwsam: Cwsam, refused: Any, make_raster: Any, option: tuple[str, ...]
) -> None:
    transform = Affine.translation(10, 60) @ Affine.rotation(20) @ Affine.scale(0.01, -0.01)
    scene = make_raster("map.tif", patchwork(), nodata=255, crs="EPSG:4326", transform=transform)
    message = refused(4, "vectorize", scene, "p.gpkg", *option, names="map.tif` is rotated")
    assert "gdalwarp" in message
    if option == ("--check",):
        told = json.loads(cwsam("vectorize", scene, "p.gpkg", "--json").stdout)
        equal_area = gpd.read_file("p.gpkg", layer="p").to_crs("EPSG:6933").area.sum()
        assert sum(told["area_m2"].values()) == pytest.approx(equal_area, rel=1e-4)


def test_a_map_without_a_place_is_told_where_to_get_one(refused: Any, make_raster: Any) -> None:
    scene = make_raster("map.tif", patchwork(), crs=None, transform=Affine.identity())
    sure = make_raster("sure.tif", np.ones((50, 70), np.float32))
    assert "-a_ullr" in refused(4, "vectorize", scene, "p.gpkg", names="nor a position")
    message = refused(4, "vectorize", scene, "p.gpkg", "--confidence", sure, names="nor a position")
    assert f"--like {sure} --crs like --transform like {scene}" in message
    sure = make_raster("sure.tif", np.ones((50, 70), np.float32), crs=None, transform=Affine.identity())
    scene = make_raster("map.tif", patchwork())
    message = refused(4, "vectorize", scene, "p.gpkg", "--confidence", sure, names="sure.tif` has no")
    assert f"--like {scene} --crs like --transform like {sure}" in message


def test_a_map_beside_the_earth_is_refused_by_its_corner(refused: Any, make_raster: Any) -> None:
    scene = make_raster("map.tif", patchwork(), crs="EPSG:4326", transform=from_origin(10, -262_096, 0.1, 0.1))
    message = refused(4, "vectorize", scene, "p.gpkg", names="upper left corner of `")
    assert "latitude -262,096°, beyond a pole" in message and "gdal_translate -a_ullr" in message


def test_a_chosen_class_without_a_polygon_is_warned_of(cwsam: Cwsam, make_raster: Any) -> None:
    scene = make_raster("map.tif", patchwork(), nodata=255)
    said = cwsam("vectorize", scene, "p.gpkg", "--class", "2", "--class", "99").stderr
    assert "map.tif` has no polygon of class `99`" in said and "`2`" not in said
    assert set(gpd.read_file("p.gpkg", layer="p")["code"]) == {2}
    cwsam("vectorize", scene, "none.gpkg", "--class", "99")
    assert len(gpd.read_file("none.gpkg", layer="none")) == 0


def test_the_check_tells_the_area_of_a_small_map_and_per_cent(cwsam: Cwsam, make_raster: Any) -> None:
    rows, cols = np.mgrid[:20, :30]
    codes = (rows > 10 + cols // 3 % 2).astype(np.uint8) + 1
    scene = make_raster("map.tif", codes, transform=from_origin(600_000, 4_000_000, 1, 1))
    said = cwsam("vectorize", scene, "p.gpkg", "--check").stdout
    assert "2 polygons, 600 m² (projected" in said and "class areas off by 0 % at most" in said
    said = cwsam("vectorize", scene, "simple.gpkg", "--check", "--simplify", "2px").stdout
    assert re.search(r"class areas off by \d\.?\d* % at most", said)


@pytest.mark.parametrize(("crs", "kind"), [("EPSG:4326", "geodesic"), ("EPSG:32617", "projected")])
def test_the_last_line_says_which_areas_are_meant_in_any_format(
    cwsam: Cwsam, make_raster: Any, crs: str, kind: str
) -> None:
    place = {"crs": crs} | ({"transform": from_origin(10, 50, 0.001, 0.001)} if crs == "EPSG:4326" else {})
    scene = make_raster("map.tif", patchwork(), **place)
    assert f"ha ({kind}" in cwsam("vectorize", scene, "p.shp").stdout
    assert json.loads(cwsam("vectorize", scene, "p.fgb", "--json").stdout)["areas"].startswith(kind)


def test_a_format_is_chosen_from_a_list(make_raster: Any, tmp_path: Path) -> None:
    command = ["vectorize", str(make_raster("map.tif", patchwork())), str(tmp_path / "p.gpkg"), "--format", "dwg"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "'dwg' is not one of 'gpkg', 'shp', 'fgb'" in result.stderr


def test_several_maps_give_a_folder_of_layers(cwsam: Cwsam, make_raster: Any) -> None:
    for seed, name in enumerate("ab"):
        make_raster(f"maps/{name}.tif", patchwork(10, 10, seed), nodata=255)
    told = json.loads(cwsam("vectorize", "maps", "-o", "layers", "--format", "fgb", "--json").stdout)
    assert [Path(layer["path"]).name for layer in told["layers"]] == ["a.fgb", "b.fgb"]
    shown = cwsam("vectorize", "maps/*.tif", "-o", "layers", "--format", "fgb").stdout
    assert shown.splitlines() == ["layers/a.fgb: there already", "layers/b.fgb: there already"]
    cwsam("vectorize", "maps/a.tif", "-o", "one.gpkg")
    assert Path("one.gpkg").is_file()


def test_several_maps_need_a_folder_and_a_scheduler_needs_several_maps(refused: Any, make_raster: Any) -> None:
    maps = [make_raster(f"{name}.tif", patchwork(10, 10)) for name in "abc"]
    refused(2, "vectorize", *maps, names="no output is given")
    refused(2, "vectorize", maps[0], "-o", "a.gpkg", "--scheduler", "local", names="--scheduler is for several maps")
