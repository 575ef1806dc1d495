"""`cwsam sample`: points of a known design, in a file that an interpreter can fill in."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.transform import from_origin
from typer.testing import Result

from cwsam_cli.maps.strips import open_classes
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.survey.population import classes_as_strata, count_population, hash_of
from cwsam_cli.survey.samplefile import read_sample, write_sample
from cwsam_cli.taxonomy import from_names
from tests.cli.conftest import write

Cwsam = Callable[..., Result]

TABLE = from_names(["Water", "Wald & Wiese", "城市"], first=1)
Refused = Callable[..., str]


@pytest.fixture
def map_path(tmp_path: Path) -> Path:
    """300 × 400 pixels: Water 20 %, forest 75 %, town 5 %; a corner has no data."""
    rng = np.random.default_rng(0)
    codes = rng.choice(np.array([1, 2, 3], np.uint8), (300, 400), p=[0.2, 0.75, 0.05])
    codes[:40, :40] = 255
    path = write(tmp_path / "map.tif", codes, nodata=255, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TABLE)
    return path


def codes_at(frame: geopandas.GeoDataFrame, path: Path) -> list[int]:
    with rasterio.open(path) as source:
        return [int(value[0]) for value in source.sample(zip(frame.geometry.x, frame.geometry.y, strict=True))]


def test_each_class_gets_its_points_at_pixel_centres(cwsam: Cwsam, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 200, "-o", "sample.gpkg")
    frame = geopandas.read_file("sample.gpkg", layer="sample")
    assert codes_at(frame, map_path) == frame["map"].tolist()
    with rasterio.open(map_path) as source:
        counts = np.bincount(source.read(1).ravel())[1:4]
        columns, rows = ~source.transform @ (frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy())
        assert frame.crs == source.crs
    assert np.allclose(columns % 1, 0.5) and np.allclose(rows % 1, 0.5)
    assert len({*zip(columns.tolist(), rows.tolist(), strict=True)}) == 200
    points = frame["stratum"].value_counts().sort_index()
    assert points.tolist() == pytest.approx((counts / counts.sum() * 200).tolist(), abs=1)
    for number, group in frame.groupby("stratum"):
        assert set(group["map"]) == {number}
        assert group["weight"].tolist() == pytest.approx([counts[number - 1] / len(group)] * len(group))
    assert frame["weight"].sum() == pytest.approx(counts.sum())
    assert frame["reference"].isna().all()
    assert frame["pixel_m2"].tolist() == [900.0] * 200


def test_the_same_seed_draws_the_same_points(cwsam: Cwsam, map_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        cwsam("sample", map_path, "-n", 60, "--seed", seed, "-o", f"{name}.gpkg")
    one, two, three = (geopandas.read_file(f"{name}.gpkg", layer="sample").geometry for name in ("one", "two", "three"))
    assert one.equals(two)
    assert not one.equals(three)


def test_the_design_is_in_the_file(cwsam: Cwsam, map_path: Path) -> None:
    told = json.loads(cwsam("sample", map_path, "-n", 100, "-o", "sample.gpkg", "--json").stdout)
    design = read_sample(Path("sample.gpkg")).design
    assert design is not None
    assert [stratum.name for stratum in design.strata] == TABLE.names
    assert [stratum.code for stratum in design.strata] == [1, 2, 3]
    with rasterio.open(map_path) as source:
        counts = np.bincount(source.read(1).ravel())[1:4].tolist()
    assert design.pixels.tolist() == counts
    assert [stratum.area_m2 for stratum in design.strata] == [900.0 * count for count in counts]
    assert (design.seed, design.map, design.strata_from) == (0, "map.tif", "")
    assert told["points"] == 100 and [row["points"] for row in told["strata"]] == design.points.tolist()


def test_the_hash_is_that_of_the_pixels_and_not_of_the_file(cwsam: Cwsam, map_path: Path, tmp_path: Path) -> None:
    with rasterio.open(map_path) as source:
        codes = source.read(1)
    write(tmp_path / "packed.tif", codes, nodata=255, compress="deflate")
    codes[100, 100] = 3 if codes[100, 100] != 3 else 2
    write(tmp_path / "other.tif", codes, nodata=255)
    hashes = []
    for path in (map_path, tmp_path / "packed.tif", tmp_path / "other.tif"):
        cwsam("sample", path, "-n", 60, "-o", "sample.gpkg", "--overwrite")
        design = read_sample(Path("sample.gpkg")).design
        assert design is not None
        hashes.append(design.map_sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_hash_of_a_map_with_a_mask_band_does_not_depend_on_its_blocks(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(1, 4, (300, 333)).astype(np.uint8)
    hashes = []
    for name, blocks in (("tiles", {"tiled": True, "blockxsize": 64, "blockysize": 64}), ("strips", {"blockysize": 7})):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            path = write(tmp_path / f"{name}.tif", codes, **blocks)
            with rasterio.open(path, "r+") as target:
                target.write_mask(codes != 2)
        with open_classes(path) as source:
            hashes.append((hash_of(source), count_population(source, classes_as_strata, 3).sha256))
    assert len({*hashes[0], *hashes[1]}) == 1


def test_the_form_offers_the_classes_and_hides_the_map(cwsam: Cwsam, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 60, "-o", "sample.gpkg")
    with closing(sqlite3.connect("sample.gpkg")) as package:
        ((text, default),) = package.execute("SELECT styleQML, useAsDefault FROM layer_styles").fetchall()
    assert default == 1
    root = ElementTree.fromstring(text)
    widgets = {field.get("name"): field.find("editWidget") for field in root.iter("field") if field.find("editWidget")}
    kinds = {
        field.get("name"): field.find("editWidget").get("type")  # type: ignore[union-attr]
        for field in root.findall("fieldConfiguration/field")
    }
    assert kinds == {
        "id": "TextEdit",
        "stratum": "Hidden",
        "weight": "Hidden",
        "map": "Hidden",
        "pixel_m2": "Hidden",
        "reference": "ValueMap",
    }
    widget = widgets["reference"]
    assert widget is not None
    choices = {option.get("name"): option.get("value") for option in widget.iter("Option") if option.get("value")}
    assert choices == {"Water": "1", "Wald & Wiese": "2", "城市": "3"}
    hidden = {column.get("name") for column in root.iter("column") if column.get("hidden") == "1"}
    assert hidden == {"stratum", "weight", "map", "pixel_m2"}


def test_the_csv_has_the_points_and_nothing_that_tells_the_maps_classes(cwsam: Cwsam, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 60, "-o", "sample.gpkg")
    table = pandas.read_csv("sample.csv")
    frame = geopandas.read_file("sample.gpkg", layer="sample")
    assert list(table.columns) == ["id", "x", "y", "lon", "lat", "reference"]
    assert np.allclose(table["x"], frame.geometry.x)
    degrees = frame.geometry.to_crs(4326)
    assert np.allclose(table["lon"], degrees.x) and np.allclose(table["lat"], degrees.y)


def test_neyman_gives_more_points_where_more_errors_are_expected(cwsam: Cwsam, map_path: Path) -> None:
    expected = "0.95,Water=0.6"
    cwsam("sample", map_path, "-n", 200, "--allocation", "neyman", "--expected-ua", expected, "-o", "sample.gpkg")
    design = read_sample(Path("sample.gpkg")).design
    assert design is not None
    share = design.points / design.pixels
    assert share[0] / share[1] == pytest.approx((0.6 * 0.4 / (0.95 * 0.05)) ** 0.5, rel=0.05)


def test_a_target_error_decides_the_number_of_points(cwsam: Cwsam, map_path: Path) -> None:
    common = ("sample", map_path, "--expected-ua", 0.8, "--json", "--overwrite", "-o", "sample.gpkg")
    told = json.loads(cwsam(*common, "--target-se", 0.02).stdout)
    assert told["expected_se"] == pytest.approx(0.02, rel=0.01)
    assert told["points"] == pytest.approx(0.8 * 0.2 / 0.02**2, rel=0.02)
    assert json.loads(cwsam(*common, "--target-area-se", 0.02).stdout)["points"] > told["points"] * 0.5


def test_strata_may_be_polygons(cwsam: Cwsam, map_path: Path, tmp_path: Path) -> None:
    west = shapely.box(600_000, 3_991_000, 606_000, 4_000_000)
    east = shapely.box(606_000, 3_991_000, 612_000, 4_000_000)
    south = shapely.box(600_000, 3_900_000, 612_000, 3_991_000)
    regions = geopandas.GeoDataFrame({"name": ["west", "east", "west"]}, geometry=[west, east, south], crs=32617)
    regions.to_crs(4326).to_file(tmp_path / "regions.gpkg")
    strata = ("--strata", "regions.gpkg", "--strata-field", "name")
    cwsam("sample", map_path, "-n", 80, *strata, "--allocation", "equal", "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    assert [(stratum.name, stratum.code, stratum.points) for stratum in sample.design.strata] == [
        ("east", None, 40),
        ("west", None, 40),
    ]
    assert sample.design.pixels.sum() == 300 * 400 - 40 * 40
    assert ((sample.frame.geometry.x < 606_000) == (sample.frame["stratum"] == 2)).all()
    assert "stratum" in pandas.read_csv("sample.csv").columns  # a region tells no class


def test_ground_outside_the_strata_is_told(cwsam: Cwsam, map_path: Path, tmp_path: Path) -> None:
    west = shapely.box(600_000, 3_991_000, 606_000, 4_000_000)
    geopandas.GeoDataFrame(geometry=[west], crs=32617).to_file(tmp_path / "regions.gpkg")
    told = cwsam("sample", map_path, "-n", 80, "--strata", "regions.gpkg", "-o", "sample.gpkg").stderr
    assert "60,000 pixels of the map (50.7%) lie in no stratum" in told
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None and sample.design.outside_pixels == 60_000
    sample.frame["reference"] = sample.frame["map"]
    write_sample(Path("sample.gpkg"), sample.frame, sample.design, overwrite=True)
    notes = json.loads(cwsam("eval", "--sample", "sample.gpkg", "--json").stdout)["notes"]
    assert any("60,000 pixels of the map" in note for note in notes)


def test_strata_may_be_a_raster_on_another_grid(cwsam: Cwsam, map_path: Path, tmp_path: Path) -> None:
    zones = np.repeat(np.array([[7, 9]], np.int32), 15, axis=0)
    transform = from_origin(600_000, 4_000_000, 6_000, 600)
    write(tmp_path / "zones.tif", zones, transform=transform, nodata=0)
    cwsam("sample", map_path, "-n", 80, "--strata", "zones.tif", "--allocation", "equal", "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    assert [stratum.name for stratum in sample.design.strata] == ["stratum 7", "stratum 9"]
    assert sample.design.pixels.tolist() == [300 * 200 - 1600, 300 * 200]
    assert ((sample.frame.geometry.x < 606_000) == (sample.frame["stratum"] == 1)).all()


def test_a_class_with_few_pixels_gives_all_of_them(cwsam: Cwsam, tmp_path: Path) -> None:
    codes = np.ones((50, 50), np.uint8)
    codes[7, 7:11] = 2
    cwsam("sample", write(tmp_path / "map.tif", codes), "-n", 50, "-o", "sample.gpkg")
    frame = read_sample(Path("sample.gpkg")).frame
    assert (frame["map"] == 2).sum() == 4
    assert frame.loc[frame["map"] == 2, "weight"].tolist() == [1.0] * 4


def test_codes_of_any_size_are_classes(cwsam: Cwsam, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).choice(np.array([-3, 512, 2_000_000], np.int32), (60, 60))
    cwsam("sample", write(tmp_path / "map.tif", codes, nodata=0), "-n", 60, "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    assert [stratum.code for stratum in sample.design.strata] == [-3, 512, 2_000_000]
    assert codes_at(sample.frame, tmp_path / "map.tif") == sample.frame["map"].tolist()


def test_pixels_in_degrees_have_the_size_of_their_latitude(cwsam: Cwsam, tmp_path: Path) -> None:
    codes = np.repeat([1, 2], 60)[:, None].repeat(40, axis=1).astype(np.uint8)
    path = write(tmp_path / "map.tif", codes, crs="EPSG:4326", transform=from_origin(10, 70, 0.1, 0.1))
    cwsam("sample", path, "-n", 60, "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None and sample.design.areas_m2 is not None
    north, south = sample.design.areas_m2
    assert south / north == pytest.approx(
        (np.sin(np.radians(64)) - np.sin(np.radians(58))) / (np.sin(np.radians(70)) - np.sin(np.radians(64))), rel=0.01
    )
    cosine = np.cos(np.radians(sample.frame.geometry.y))
    assert (sample.frame["pixel_m2"] / cosine).std() < 0.01 * (sample.frame["pixel_m2"] / cosine).mean()


def test_more_points_continue_the_design(cwsam: Cwsam, map_path: Path) -> None:
    """Water was wrong half of the time, so it gets most of the further points."""
    cwsam("sample", map_path, "-n", 90, "--allocation", "equal", "-o", "sample.gpkg")
    old = geopandas.read_file("sample.gpkg", layer="sample")
    old["reference"] = np.where((old["map"] == 1) & (old["id"] % 2 == 0), 3, old["map"])
    old["note"] = "seen"
    before = read_sample(Path("sample.gpkg")).design
    assert before is not None
    old.to_file("sample.gpkg", layer="sample", layer_metadata={"CWSAM_DESIGN": before.as_json()})
    cwsam("sample", map_path, "--more", 60, "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    new, design = sample.frame, sample.design
    assert design is not None and design.rounds == 2
    assert len(new) == 150 and new["id"].is_unique and not new.geometry.duplicated().any()
    kept = new[new["id"].isin(old["id"])]
    assert kept["reference"].tolist() == old["reference"].tolist() and set(kept["note"]) == {"seen"}
    added = design.points - before.points
    assert added.sum() == 60 and added[0] > added[2]
    assert new["weight"].sum() == pytest.approx(design.pixels.sum())
    assert new["reference"].isna().sum() == 60


def test_references_in_the_csv_are_kept_by_more_points(cwsam: Cwsam, refused: Refused, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 60, "-o", "sample.gpkg")
    table = pandas.read_csv("sample.csv")
    table["reference"] = "Water"
    table.to_csv("sample.csv", index=False)
    cwsam("sample", map_path, "--more", 20, "-o", "sample.gpkg")
    sample, written = read_sample(Path("sample.gpkg")), pandas.read_csv("sample.csv")
    for found in (sample.frame["reference"], written["reference"]):
        assert (found.dropna() == 1).all() and found.notna().sum() == 60
    written["reference"] = "城市"
    written.to_csv("sample.csv", index=False)
    refused(4, "sample", map_path, "--more", 20, "-o", "sample.gpkg", names="different values")


def test_references_of_both_files_are_kept_by_more_points(cwsam: Cwsam, map_path: Path) -> None:
    """One interpreter fills in the GeoPackage, another one the CSV."""
    cwsam("sample", map_path, "-n", 60, "-o", "sample.gpkg")
    sample, table = read_sample(Path("sample.gpkg")), pandas.read_csv("sample.csv")
    assert sample.design is not None
    write_sample(sample.path, sample.frame.assign(reference=1), sample.design, overwrite=True)
    table.assign(reference_2="城市", remark="seen").to_csv("sample.csv", index=False)
    cwsam("sample", map_path, "--more", 20, "-o", "sample.gpkg")
    for found in (read_sample(Path("sample.gpkg")).frame, pandas.read_csv("sample.csv")):
        columns = [found[name].dropna().tolist() for name in ("reference", "reference_2", "remark")]
        assert columns == [[1] * 60, [3] * 60, ["seen"] * 60]


def test_chips_show_the_ground_around_each_point(cwsam: Cwsam, map_path: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 300, 400)).astype(np.uint8)
    write(tmp_path / "scene.tif", image)
    cwsam("sample", map_path, "-n", 30, "--chips", "chips", "--image", "scene.tif", "-o", "sample.gpkg")
    assert {path.name for path in (tmp_path / "chips").iterdir()} == {f"{number}.png" for number in range(1, 31)}
    with Image.open("chips/1.png") as chip:
        assert chip.size[0] == chip.size[1]
        assert chip.getpixel((chip.size[0] // 2 - 4, chip.size[1] // 2 - 4)) == (255, 235, 59)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), "--target-se"),
        (("-n", 50, "--target-se", 0.1), "--target-se"),
        (("--target-se", 0.1), "accuracies that you expect"),
        (("-n", 50, "--allocation", "neyman"), "accuracies that you expect"),
        (("-n", 50, "--expected-ua", "eighty"), "eighty"),
        (("-n", 50, "--expected-ua", "0.8,Wasser=0.9"), "Wasser"),
        (("-n", 50, "--expected-ua", "Water=0.9"), "Wald & Wiese"),
        (("-n", 20), "too few"),
        (("-n", 50, "--strata-field", "name"), "--strata-field"),
        (("-n", 50, "--chips", "chips"), "--image"),
        (("--more", 50), "no sample"),
        (("--more", 50, "--allocation", "equal"), "--allocation"),
        (("--more", 50, "--expected-ua", 0.8), "--expected-ua"),
        (("--more", 50, "--min-per-class", 10), "--min-per-class"),
        (("--more", 50, "--seed", 0), "--seed"),
        (("--more", 50, "--unit", "3x3"), "--unit"),
        (("--more", 50, "--overwrite"), "--overwrite"),
        (("-n", 50, "--unit", "3x4"), "3x4"),
        (("-n", 50, "--unit", "block"), "`block`"),
        (("-n", 50, "--unit", "1000x1000"), "64x64"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(
    refused: Refused, map_path: Path, options: tuple[object, ...], names: str
) -> None:
    refused(2, "sample", map_path, *options, "-o", "sample.gpkg", names=names)


def test_more_points_than_pixels_are_refused(refused: Refused, tmp_path: Path) -> None:
    write(tmp_path / "map.tif", np.ones((5, 5), np.uint8))
    refused(4, "sample", "map.tif", "-n", 26, "-o", "sample.gpkg", names="25 pixels")


def test_points_are_no_strata(refused: Refused, map_path: Path, tmp_path: Path) -> None:
    points = geopandas.GeoSeries.from_xy([600_100.0], [3_999_900.0], crs=32617)
    points.to_file(tmp_path / "points.gpkg")
    refused(4, "sample", map_path, "-n", 50, "--strata", "points.gpkg", "-o", "sample.gpkg", names="holds Point")


def test_a_sample_of_another_map_is_not_continued(cwsam: Cwsam, refused: Refused, tmp_path: Path) -> None:
    for name, code in (("map.tif", 1), ("other.tif", 2)):
        write(tmp_path / name, np.full((20, 20), code, np.uint8))
    cwsam("sample", "map.tif", "-n", 20, "-o", "sample.gpkg")
    refused(4, "sample", "other.tif", "--more", 5, "-o", "sample.gpkg", names="other.tif")


def test_an_existing_sample_is_kept(cwsam: Cwsam, refused: Refused, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 60, "-o", "sample.gpkg")
    refused(2, "sample", map_path, "-n", 60, "-o", "sample.gpkg", names="sample.gpkg")


def test_classes_that_only_further_points_show_can_be_references(cwsam: Cwsam, tmp_path: Path) -> None:
    """A map without legend, whose classes are no strata. The first two points show the same class."""
    codes = np.ones((60, 60), np.uint8)
    codes[::3] = 7
    write(tmp_path / "plain.tif", codes)
    write(tmp_path / "zones.tif", np.full((60, 60), 5, np.uint8))
    strata = ("--strata", "zones.tif", "-o", "sample.gpkg")
    for seed in range(9):
        again = ("--min-per-class", 2, "--seed", seed, "--overwrite")
        cwsam("sample", tmp_path / "plain.tif", "-n", 2, *strata, *again)
        if set(read_sample(Path("sample.gpkg")).frame["map"]) == {1}:
            break
    cwsam("sample", tmp_path / "plain.tif", "--more", 40, *strata)
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    assert [(entry.code, entry.name) for entry in sample.design.classes] == [(1, "class 1"), (7, "class 7")]
