"""A mosaic shows each map's classes at their place, says how far maps agree, and explains itself."""

import csv
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from rasterio.transform import from_origin
from typer.testing import Result

from cwsam_cli.mosaic import change, sources, work
from cwsam_cli.raster.style import band_names, tag_classes, write_sidecar
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

Cwsam = Callable[..., Result]
Refused = Callable[..., str]
Codes = NDArray[np.uint8]

WEST, NORTH, PIXEL = 600_000, 4_000_000, 30
NAMES = ("water", "forest & <scrub>", "город")


def table(**codes: int) -> Taxonomy:
    """A class table; without arguments 1 is water, 2 forest, 3 town."""
    named = codes or dict(zip(NAMES, (1, 2, 3), strict=True))
    classes = [
        LandCoverClass(code=code, name=name, color=f"#{40 * i:02x}40{255 - 40 * i:02x}")
        for i, (name, code) in enumerate(named.items())
    ]
    return Taxonomy(name="test", classes=tuple(classes))


def write_map(
    path: str, codes: Codes, row: int = 0, column: int = 0, classes: Taxonomy | None = None, **profile: Any
) -> str:
    """A map whose upper left pixel is in a row and a column of the tests' common grid."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    place = from_origin(WEST + column * PIXEL, NORTH - row * PIXEL, PIXEL, PIXEL)
    shape = {"height": codes.shape[0], "width": codes.shape[1], "count": 1, "dtype": codes.dtype}
    defaults = {"crs": "EPSG:32617", "transform": place, "nodata": 255}
    with rasterio.open(path, "w", driver="GTiff", **shape, **defaults | profile) as target:
        target.write(codes, 1)
        tag_classes(target, classes or table())
    return path


def read(path: str | Path) -> Codes:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def patches(height: int, width: int, seed: int = 0, grain: int = 5) -> Codes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 4, (height // grain + 1, width // grain + 1))
    return coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width].astype(np.uint8)


@pytest.mark.parametrize("rule", ["first", "last", "date", "vote", "confidence"])
def test_one_map_needs_neither_dates_nor_confidence(cwsam: Cwsam, rule: str) -> None:
    codes = patches(20, 30)
    cwsam("mosaic", write_map("a.tif", codes), "-o", "one.tif", "--by", rule)
    assert (read("one.tif") == codes).all()


def test_parts_of_a_map_give_the_map_back_with_all_that_explains_it(cwsam: Cwsam, tmp_path: Path) -> None:
    whole = patches(90, 120)
    whole[40:50, 30:70] = 255
    write_map("maps/a.tif", whole[:60, :70])
    write_map("maps/b.tif", whole[:60, 50:], column=50)
    write_map("maps/c.tif", whole[45:], row=45)
    told = json.loads(cwsam("mosaic", "maps", "-o", "region.tif", "--json").stdout)
    np.testing.assert_array_equal(read("region.tif"), whole)
    with rasterio.open("region.tif") as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.nodata == 255
        assert dataset.transform == from_origin(WEST, NORTH, PIXEL, PIXEL)
        assert dataset.colormap(1)[2] == (40, 64, 215, 255)
        assert band_names(dataset)[3] == "город"
        assert "CWSAM_CLASSES" in dataset.tags()
    assert Path("region.qml").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "maps",
        "region.qml",
        "region.tif",
        "region.tif.aux.xml",
    ]
    assert told["maps"] == 3 and told["agreement"] == 1.0
    assert {entry["name"]: entry["pixels"] for entry in told["classes"]} == {
        name: int((whole == code).sum()) for code, name in enumerate(NAMES, start=1)
    }
    assert told["classes"][0]["area_ha"] == pytest.approx((whole == 1).sum() * 0.09)
    seen = np.zeros(whole.shape, int)
    for rows, columns in ((slice(60), slice(70)), (slice(60), slice(50, None)), (slice(45, None), slice(None))):
        seen[rows, columns] += whole[rows, columns] != 255
    assert told["overlap_pixels"] == (seen > 1).sum()


def one_row(*rows: list[int]) -> list[Codes]:
    return [np.array([row], np.uint8) for row in rows]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("first", [1, 1, 3, 3, 255]),
        ("last", [1, 2, 2, 2, 255]),
        ("date", [1, 3, 3, 3, 255]),
        ("vote", [1, 2, 2, 3, 255]),
        ("confidence", [1, 3, 2, 3, 255]),
    ],
)
def test_rules_choose_where_maps_overlap(cwsam: Cwsam, by: str, expected: list[int]) -> None:
    shown = one_row([1, 1, 255, 3, 255], [255, 3, 3, 3, 255], [1, 2, 2, 2, 255], [255, 2, 2, 255, 255])
    sure = one_row([50, 50, 0, 70, 0], [0, 80, 10, 60, 0], [40, 70, 90, 50, 0], [0, 1, 1, 1, 0])
    names = ["a_2020-01-01.tif", "b_20240531T101112.tif", "c_2019-12-31.tif", "d_2019_12_31.tif"]
    for name, codes, percent in zip(names, shown, sure, strict=True):
        write_map(name, codes)
        write_map(name.replace(".tif", ".confidence.tif"), percent)
    told = json.loads(cwsam("mosaic", *names, "-o", "region.tif", "--by", by, "--json").stdout)
    np.testing.assert_array_equal(read("region.tif")[0], expected)
    assert told["overlap_pixels"] == 4
    assert told["agreement"] == 0.25  # only the first column


def test_layers_beside_maps_are_left_out(cwsam: Cwsam) -> None:
    codes = patches(20, 30)
    for name in ("map.tif", "map.confidence.tif", "map.entropy.tif"):
        write_map(f"maps/{name}", codes)
    assert json.loads(cwsam("mosaic", "maps", "-o", "region.tif", "--json").stdout)["maps"] == 1


def test_a_date_may_stand_in_the_tags(cwsam: Cwsam) -> None:
    for name, code, day in (("a.tif", 1, "2024:02:01 10:00:00"), ("b.tif", 2, "2023:01:01 00:00:00")):
        with rasterio.open(write_map(name, np.full((4, 4), code, np.uint8)), "r+") as dataset:
            dataset.update_tags(TIFFTAG_DATETIME=day)
    cwsam("mosaic", "a.tif", "b.tif", "-o", "region.tif", "--by", "date")
    assert (read("region.tif") == 1).all()


def test_tables_with_other_codes_are_matched_by_name_and_new_classes_are_added(cwsam: Cwsam) -> None:
    write_map("a.tif", np.array([[1, 2, 3]], np.uint8))
    write_map("b.tif", np.array([[9, 1, 4]], np.uint8), column=3, classes=table(**{"Город": 9, "water": 1, "ice": 4}))
    told = json.loads(cwsam("mosaic", "a.tif", "b.tif", "-o", "region.tif", "--json").stdout)
    np.testing.assert_array_equal(read("region.tif"), [[1, 2, 3, 3, 1, 4]])
    assert [entry["name"] for entry in told["classes"]] == [*NAMES, "ice"]


def test_maps_of_other_crs_show_the_nearest_pixel(cwsam: Cwsam) -> None:
    codes = patches(80, 90)
    write_map("a.tif", codes)
    other = from_origin(-79.95, 36.16, 0.0003, 0.0003)
    write_map("b.tif", patches(70, 100, seed=1), crs="EPSG:4326", transform=other)
    cwsam("mosaic", "a.tif", "b.tif", "-o", "region.tif", "--by", "last")
    with rasterio.open("region.tif") as region:
        shown, transform = region.read(1), region.transform
    rows, columns = np.indices(shown.shape)
    x, y = transform @ np.stack([columns + 0.5, rows + 0.5])
    expected = np.full(shown.shape, 255, np.uint8)
    is_between = np.zeros(shown.shape, bool)
    for name, crs in (("a.tif", "EPSG:32617"), ("b.tif", "EPSG:4326")):
        with rasterio.open(name) as dataset:
            place = Transformer.from_crs("EPSG:32617", crs, always_xy=True).transform(x, y)
            places = ~dataset.transform @ np.stack(place)
            is_between |= (np.abs(places - np.round(places)) < 0.002).any(axis=0)
            column, row = np.floor(places).astype(int)
            inside = (column >= 0) & (row >= 0) & (column < dataset.width) & (row < dataset.height)
            expected[inside] = dataset.read(1)[row[inside], column[inside]]
    np.testing.assert_array_equal(shown[~is_between], expected[~is_between])
    assert (expected[~is_between] != 255).sum() > 7000


def test_the_mosaic_may_have_another_crs_and_pixel_size(cwsam: Cwsam) -> None:
    write_map("a.tif", patches(80, 90, grain=20))
    cwsam("mosaic", "a.tif", "-o", "region.tif", "--crs", "EPSG:3035", "--res", "60m")
    with rasterio.open("region.tif") as dataset:
        assert dataset.crs.to_epsg() == 3035
        assert dataset.res == (60, 60)
        assert dataset.transform.c % 60 == 0 and dataset.transform.f % 60 == 0
        area = (dataset.read(1) != 255).sum() * 3600
    assert area == pytest.approx(80 * 90 * 900, rel=0.5)  # the far side of this projection is stretched


def test_maps_between_pixels_move_by_less_than_half_a_pixel(cwsam: Cwsam) -> None:
    codes = patches(30, 30)
    write_map("a.tif", codes)
    write_map("b.tif", codes, transform=from_origin(WEST + 30.4 * PIXEL, NORTH, PIXEL, PIXEL))
    cwsam("mosaic", "a.tif", "b.tif", "-o", "region.tif")
    np.testing.assert_array_equal(read("region.tif")[:, 30:60], codes)


def test_a_south_up_map_is_turned(cwsam: Cwsam) -> None:
    codes = patches(30, 40)
    write_map("a.tif", codes[::-1], transform=rasterio.Affine(PIXEL, 0, WEST, 0, PIXEL, NORTH - 30 * PIXEL))
    cwsam("mosaic", "a.tif", "-o", "region.tif")
    np.testing.assert_array_equal(read("region.tif"), codes)


def test_a_cutline_leaves_the_ground_inside(cwsam: Cwsam) -> None:
    write_map("a.tif", patches(60, 60))
    write_map("b.tif", patches(60, 60, seed=3), column=40)
    box = shapely.box(WEST + 10 * PIXEL, NORTH - 30 * PIXEL, WEST + 50 * PIXEL, NORTH - 5 * PIXEL)
    gpd.GeoDataFrame(geometry=[box], crs="EPSG:32617").to_crs("EPSG:4326").to_file("region.gpkg")
    told = json.loads(
        cwsam("mosaic", "a.tif", "b.tif", "-o", "region.tif", "--cutline", "region.gpkg", "--json").stdout
    )
    shown = read("region.tif")
    inside = shown != 255
    assert inside.sum() == 25 * 40
    np.testing.assert_array_equal(shown[inside].reshape(25, 40), patches(60, 60)[5:30, 10:50])
    assert told["overlap_pixels"] == 25 * 10


def test_tiles_and_their_vrt_show_what_one_file_shows(cwsam: Cwsam) -> None:
    write_map("a.tif", patches(100, 100))
    write_map("b.tif", patches(50, 60, seed=2), row=180, column=150)
    cwsam("mosaic", "a.tif", "b.tif", "-o", "region.tif")
    told = json.loads(cwsam("mosaic", "a.tif", "b.tif", "-o", "tiles", "--by-tile", "2km", "--json").stdout)
    np.testing.assert_array_equal(read("tiles/mosaic.vrt"), read("region.tif"))
    names = sorted(entry.name for entry in Path("tiles").glob("*.tif"))
    assert told["files"] == len(names) < 16
    assert "x600km_y3998km.tif" in names
    for name in names:
        with rasterio.open(f"tiles/{name}") as tile:
            assert (tile.read(1) != 255).any()
            west = 1000 * int(name[1:4])
            assert tile.bounds.left >= west - PIXEL / 2 and tile.bounds.right <= west + 2000 + PIXEL / 2
            assert band_names(tile)[3] == "город"
    with rasterio.open("tiles/mosaic.vrt") as index, rasterio.open("region.tif") as region:
        assert index.crs == region.crs and index.transform == region.transform
        assert [index.colormap(1)[code] == region.colormap(1)[code] for code in (1, 2, 3)] == [True] * 3
        assert band_names(index)[2] == NAMES[1]
        assert "CWSAM_CLASSES" in index.tags()
    cwsam("mosaic", "a.tif", "-o", "tiles", "--by-tile", "2km", "--overwrite")
    assert len(list(Path("tiles").glob("*.tif"))) < len(names)


def test_tiles_in_degrees(cwsam: Cwsam) -> None:
    place = from_origin(9.95, 50.02, 0.001, 0.001)
    write_map("a.tif", patches(60, 120), crs="EPSG:4326", transform=place)
    cwsam("mosaic", "a.tif", "-o", "tiles", "--by-tile", "0.05deg")
    np.testing.assert_array_equal(read("tiles/mosaic.vrt"), read("a.tif"))
    assert {entry.name for entry in Path("tiles").glob("*.tif")} == {
        f"x{x}deg_y{y}deg.tif" for x in ("9.95", "10", "10.05") for y in ("50", "49.95")
    }


@pytest.mark.parametrize("arguments", [("--min-area", "9px"), ("--min-area", "0.81ha")])
def test_small_regions_join_across_strips_as_vectorize_joins_them(
    cwsam: Cwsam, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]
) -> None:
    monkeypatch.setattr(work, "BLOCK", 16)
    monkeypatch.setattr(work, "_STRIP_PIXELS", 0)
    rng = np.random.default_rng(0)
    codes = patches(70, 60, grain=4)
    noise = rng.random(codes.shape) < 0.2
    codes[noise] = rng.integers(1, 4, noise.sum())
    codes[30:34, 10:30] = 255
    write_map("map.tif", codes)
    cwsam("mosaic", "map.tif", "-o", "sieved.tif", *arguments)
    cwsam("vectorize", "map.tif", "polygons.gpkg", *arguments)
    polygons = gpd.read_file("polygons.gpkg")
    burnt = rasterio.features.rasterize(
        zip(polygons.geometry, polygons["code"], strict=True),
        out_shape=codes.shape,
        transform=from_origin(WEST, NORTH, PIXEL, PIXEL),
        fill=255,
        dtype="uint8",
    )
    np.testing.assert_array_equal(read("sieved.tif"), burnt)
    assert (burnt != codes).sum() > 100


def test_strips_and_closed_files_do_not_change_the_mosaic(cwsam: Cwsam, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    names = []
    for number in range(9):
        row, column = rng.integers(0, 300, 2).tolist()
        names.append(write_map(f"maps/{number}.tif", patches(200, 200, seed=number), row, column))
    cwsam("mosaic", *names, "-o", "one.tif", "--by", "vote")
    monkeypatch.setattr(work, "BLOCK", 16)
    monkeypatch.setattr(work, "_STRIP_PIXELS", 0)
    monkeypatch.setattr(sources, "MOST_OPEN", 2)
    cwsam("mosaic", *names, "-o", "two.tif", "--by", "vote")
    np.testing.assert_array_equal(read("one.tif"), read("two.tif"))


def test_many_maps_need_few_open_files(tmp_path: Path) -> None:
    for number in range(200):
        write_map(str(tmp_path / f"maps/{number:03}.tif"), np.full((8, 8), 1 + number % 3, np.uint8), column=4 * number)
        write_map(
            str(tmp_path / f"maps/{number:03}.confidence.tif"),
            np.full((8, 8), number % 100, np.uint8),
            column=4 * number,
        )
    done = subprocess.run(
        [sys.executable, "-m", "cwsam_cli", "mosaic", "maps", "-o", "region.tif", "--by", "confidence", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["maps"] == 200
    assert read(tmp_path / "region.tif").shape == (8, 4 * 200 + 4)


def test_changes_are_counted_where_both_maps_show_a_class(cwsam: Cwsam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "BLOCK", 16)
    old, new = patches(60, 80), patches(60, 80, seed=1)
    old[5:9, 20:40] = 255
    write_map("old.tif", old)
    new[new == 3] = 5
    recode = np.array([0, 3, 1, 0, 0, 2], np.uint8)
    write_map("new.tif", new[10:, 30:], row=10, column=30, classes=table(**{"город": 1, "water": 2, NAMES[1]: 5}))
    told = json.loads(cwsam("mosaic", "--change", "old.tif", "new.tif", "-o", "change.csv", "--json").stdout)
    before, after = old[10:, 30:], recode[new[10:, 30:]]
    pairs = Counter(zip(before.ravel().tolist(), after.ravel().tolist(), strict=True))
    assert {(one["from_code"], one["to_code"]): one["pixels"] for one in told["changes"]} == dict(pairs)
    assert all(one["area_ha"] == pytest.approx(0.09 * one["pixels"]) for one in told["changes"])
    assert told["unchanged"] == pytest.approx((before == after).mean())
    assert "not estimates" in told["note"]
    rows = list(csv.DictReader(Path("change.csv").read_text("utf-8").splitlines()))
    assert [row["from_name"] for row in rows] == [one["from_name"] for one in told["changes"]]
    shown = cwsam("mosaic", "--change", "old.tif", "new.tif").stdout
    assert "water → город" in shown and "not estimates" in shown


def test_changes_in_degrees_are_areas_on_the_ground(cwsam: Cwsam) -> None:
    place = {"crs": "EPSG:4326", "transform": from_origin(10, 60.4, 0.001, 0.002)}
    write_map("old.tif", np.full((200, 50), 1, np.uint8), **place)
    write_map("new.tif", np.full((200, 50), 2, np.uint8), **place)
    (one,) = json.loads(cwsam("mosaic", "--change", "old.tif", "new.tif", "--json").stdout)["changes"]
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shapely.box(10, 60, 10.05, 60.4).segmentize(0.001))
    assert one["area_ha"] == pytest.approx(abs(area) / 1e4, rel=1e-5)


def test_changes_inside_a_cutline(cwsam: Cwsam) -> None:
    write_map("old.tif", patches(40, 40))
    write_map("new.tif", patches(40, 40, seed=1))
    box = shapely.box(WEST + 10 * PIXEL, NORTH - 30 * PIXEL, WEST + 50 * PIXEL, NORTH - 5 * PIXEL)
    gpd.GeoDataFrame(geometry=[box], crs="EPSG:32617").to_file("region.gpkg")
    arguments = ("--change", "old.tif", "new.tif", "--cutline", "region.gpkg", "--json")
    assert json.loads(cwsam("mosaic", *arguments).stdout)["pixels"] == 25 * 30


def test_bad_changes_are_refused(refused: Refused) -> None:
    old, new = write_map("old.tif", patches(10, 10)), write_map("new.tif", patches(10, 10), column=10)
    refused(4, "mosaic", "--change", old, new, names="share no pixel")
    refused(2, "mosaic", "--change", old, names="compares two maps, not 1")
    refused(2, "mosaic", "--change", old, new, "-o", "change.tif", names="`change.tif` is not the name of a CSV")
    refused(2, "mosaic", "--change", old, new, "--min-area", "1ha", names="--change excludes")
    refused(2, "mosaic", old, new, names="no output is given")
    Path("there.csv").touch()
    refused(2, "mosaic", "--change", old, new, "-o", "there.csv", names="`there.csv` exists")


def test_bad_maps_are_refused(refused: Refused) -> None:
    good, codes = write_map("good.tif", patches(10, 10)), patches(10, 10)
    mosaic = ("-o", "region.tif")
    place = {"crs": "EPSG:32617", "transform": from_origin(WEST, NORTH, 30, 30)}
    for name, dtype in (("plain.tif", "uint8"), ("wide.tif", "int16")):
        with rasterio.open(name, "w", driver="GTiff", height=10, width=10, count=1, dtype=dtype, **place) as target:
            target.write(codes.astype(dtype), 1)
    refused(4, "mosaic", good, "plain.tif", *mosaic, names="`plain.tif` has no class names")
    refused(4, "mosaic", good, "wide.tif", *mosaic, names="int16")
    refused(4, "mosaic", good, write_map("zero.tif", codes, nodata=0), *mosaic, names="nodata 0")
    refused(4, "mosaic", good, write_map("lost.tif", codes, crs=None), *mosaic, names="`lost.tif` has no coordinate")
    clash = write_map("clash.tif", codes, classes=table(ice=1, water=2))
    refused(4, "mosaic", good, clash, *mosaic, names="code 1 is `ice` in `clash.tif` and `water` in `good.tif`")
    refused(4, "mosaic", good, write_map("odd.tif", codes + np.uint8(4)), *mosaic, names="`odd.tif` holds the code")
    refused(4, "mosaic", good, "gone.tif", *mosaic, names="`gone.tif`")
    refused(4, "mosaic", good, clash, *mosaic, "--by", "confidence", names="`good.tif` has no confidence layer")
    refused(4, "mosaic", good, clash, *mosaic, "--by", "date", names="`good.tif` has no date")
    refused(2, "mosaic", good, good, *mosaic, names="given twice")


def test_bad_options_are_refused(refused: Refused, misused: Callable[..., str]) -> None:
    good = write_map("good.tif", patches(10, 10))
    far = shapely.box(-70, 30, -69, 31)
    gpd.GeoDataFrame(geometry=[far], crs="EPSG:4326").to_file("far.gpkg")
    mosaic = ("mosaic", good, "-o")
    refused(4, *mosaic, "region.tif", "--cutline", "far.gpkg", names="`far.gpkg` lies on the maps")
    refused(2, *mosaic, "good.tif", names="`good.tif` is an input")
    refused(2, *mosaic, "region.png", names="`region.png`")
    refused(2, *mosaic, "region.tif", "--res", "30", names="--res `30`")
    refused(2, *mosaic, "region.tif", "--res", "1deg", names="the mosaic's CRS is in metres")
    refused(2, *mosaic, "region.tif", "--crs", "EPSG:0", names="--crs `EPSG:0`")
    refused(2, *mosaic, "region.tif", "--by-tile", "1km", names="needs a folder")
    refused(2, *mosaic, "tiles", "--by-tile", "1m", names="smaller than a pixel")
    refused(2, *mosaic, "region.tif", "--min-area", "5", names="--min-area `5`")
    write_map("there.tif", patches(5, 5))
    refused(2, *mosaic, "there.tif", names="`there.tif` exists")
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    refused(2, *mosaic, "other", "--by-tile", "1km", "--overwrite", names="`other` is a folder with other files")
    misused(*mosaic, "region.tif", "--by", "newest", names="newest")


def test_names_from_a_sidecar_suffice(cwsam: Cwsam) -> None:
    with rasterio.open(write_map("a.tif", patches(10, 10)), "r+") as dataset:
        dataset.update_tags(CWSAM_CLASSES="")
    write_sidecar(Path("a.tif"), table())
    told = json.loads(cwsam("mosaic", "a.tif", "-o", "region.tif", "--json").stdout)
    assert [entry["name"] for entry in told["classes"]] == list(NAMES)
