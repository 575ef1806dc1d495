"""`cwsam eval --map --reference`: any map against a raster, polygons or points, also of another legend."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.transform import from_origin
from sklearn.metrics import confusion_matrix
from typer.testing import Result

from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import from_names
from cwsam_cli.verify.mapped import assess_map, count_pairs
from tests.cli.conftest import write

Cwsam = Callable[..., Result]
Refused = Callable[..., str]
Codes = NDArray[np.uint8]
TABLE = from_names(["Water", "Forest", "Town"], first=1)


def named(path: Path) -> Path:
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TABLE)
    return path


@pytest.fixture
def codes() -> Codes:
    codes = np.random.default_rng(0).integers(1, 4, (60, 80)).astype(np.uint8)
    codes[:5, :5] = 255
    return codes


@pytest.fixture
def truth(codes: Codes) -> Codes:
    """The map's codes, half of them drawn anew. The last rows have no label."""
    rng = np.random.default_rng(1)
    truth = np.where(rng.random(codes.shape) < 0.5, rng.integers(1, 4, codes.shape), codes).astype(np.uint8)
    truth[-5:] = 255
    return truth


@pytest.fixture
def map_path(tmp_path: Path, codes: Codes) -> Path:
    return named(write(tmp_path / "map.tif", codes, nodata=255, tiled=True, blockxsize=16, blockysize=16))


def assess(cwsam: Cwsam, *arguments: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(cwsam("eval", "--map", "map.tif", "--reference", *arguments, "--json").stdout)
    return told


def matrix_of(folder: str) -> Any:
    with (Path(folder) / "confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        return np.array([row[1:] for row in csv.reader(file)][1:], int)


def test_the_picture_shows_the_whole_map_where_polygons_are_few(
    monkeypatch: pytest.MonkeyPatch, map_path: Path, codes: Codes
) -> None:
    monkeypatch.setattr("cwsam_cli.verify.mapped._STRIP_PIXELS", 800)
    shapes = [shapely.box(600_000, 3_999_800, 601_000, 4_000_000)]
    geopandas.GeoDataFrame({"class": [2]}, geometry=shapes, crs=32617).to_file(map_path.with_name("few.gpkg"))
    picture = assess_map(map_path, map_path.with_name("few.gpkg"), class_field="class").picture
    assert picture is not None and ((picture.predicted != 255) == (codes != 255)).all()


def test_a_reference_raster_gives_sklearns_matrix(
    cwsam: Cwsam, map_path: Path, codes: Codes, truth: Codes, tmp_path: Path
) -> None:
    write(tmp_path / "truth.tif", truth, nodata=255)
    told = assess(cwsam, "truth.tif", "-o", "report")
    known = (codes != 255) & (truth != 255)
    expected = confusion_matrix(truth[known], codes[known])
    assert (matrix_of("report") == expected).all()
    assert told["pixels"] == known.sum() and told["unit"] == "pixels"
    assert told["left_out"] == ((codes == 255) & (truth != 255)).sum() > 0
    assert told["accuracy"] == pytest.approx(np.trace(expected) / expected.sum())
    assert [entry["name"] for entry in told["classes"]] == TABLE.names
    assert json.loads(Path("report/metrics.json").read_text("utf-8")) == told
    assert '"reference": "eN' in Path("report/report.html").read_text("utf-8")  # the picture, compressed
    assert "standard errors" in cwsam("eval", "--map", "map.tif", "--reference", "truth.tif").stdout


def test_a_reference_on_a_coarser_grid_lies_under_the_maps_pixels(
    cwsam: Cwsam, map_path: Path, codes: Codes, tmp_path: Path
) -> None:
    coarse = np.random.default_rng(3).integers(1, 4, (20, 20)).astype(np.uint8)
    write(tmp_path / "truth.tif", coarse, nodata=255, transform=from_origin(600_000, 4_000_000, 120, 90))
    assess(cwsam, "truth.tif", "-o", "report")
    fine, known = coarse.repeat(3, axis=0).repeat(4, axis=1), codes != 255
    assert (matrix_of("report") == confusion_matrix(fine[known], codes[known])).all()


def test_polygons_count_the_pixels_whose_centres_they_hold(
    cwsam: Cwsam, map_path: Path, codes: Codes, tmp_path: Path
) -> None:
    """Forest and town overlap in a column of pixels, which counts for neither."""
    top = 4_000_000
    west = shapely.box(600_000, top - 1800, 600_900, top)
    east = shapely.box(600_870, top - 1800, 601_500, top)
    frame = geopandas.GeoDataFrame({"class": ["Forest", "Town"]}, geometry=[west, east], crs=32617)
    frame.to_crs(4326).to_file(tmp_path / "truth.gpkg")
    told = assess(cwsam, "truth.gpkg", "--class-field", "class", "-o", "report")
    expected = np.zeros((3, 3), int)
    for row, part in ((1, codes[:, :29]), (2, codes[:, 30:50])):
        expected[row] = np.bincount(part[part != 255], minlength=4)[1:]
    assert (matrix_of("report") == expected).all()
    assert told["left_out"] == 60 + 25
    assert told["classes"][0]["absent"]


def test_a_pixel_in_two_classes_is_left_out_whatever_the_order_of_the_polygons(
    cwsam: Cwsam, map_path: Path, codes: Codes, tmp_path: Path
) -> None:
    """A polygon of town lies between two equal ones of forest."""
    forest, town = shapely.box(600_000, 3_999_400, 600_600, 4_000_000), shapely.box(600_000, 3_999_700, 600_300, 4e6)
    frame = geopandas.GeoDataFrame({"class": ["Forest", "Town", "Forest"]}, geometry=[forest, town, forest], crs=32617)
    frame.to_file(tmp_path / "truth.gpkg")
    told = assess(cwsam, "truth.gpkg", "--class-field", "class")
    assert told["left_out"] == 100 and told["pixels"] == 300


def test_points_count_one_each(cwsam: Cwsam, map_path: Path, codes: Codes, truth: Codes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 55, 200), rng.integers(0, 80, 200)
    points = geopandas.points_from_xy(600_000 + 30 * (columns + rng.random(200)), 4_000_000 - 30 * (rows + 0.5))
    frame = geopandas.GeoDataFrame({"code": truth[rows, columns].astype(float)}, geometry=points, crs=32617)
    frame.to_file(tmp_path / "truth.gpkg")
    told = assess(cwsam, "truth.gpkg", "--class-field", "code", "-o", "report")
    known = codes[rows, columns] != 255
    expected = confusion_matrix(truth[rows, columns][known], codes[rows, columns][known])
    assert (matrix_of("report") == expected).all()
    assert (told["unit"], told["left_out"]) == ("points", (~known).sum())


def test_a_crosswalk_joins_classes_on_either_side(
    cwsam: Cwsam, map_path: Path, codes: Codes, truth: Codes, tmp_path: Path
) -> None:
    """Reference 10 and 20 are land, 30 is water, 40 is not compared; the map's forest and town are land."""
    other = np.array([0, 30, 10, 20], np.int32)[np.where(truth == 255, 0, truth)]
    other[20, :40] = 40
    write(tmp_path / "truth.tif", other, nodata=0)
    (tmp_path / "table.csv").write_text(
        "legend,class,target\nreference,10,Land\nreference,20,Land\nreference,30,Water\nreference,40,\n"
        "map,forest,Land\nmap,3,Land\n"
    )
    told = assess(cwsam, "truth.tif", "--crosswalk", "table.csv", "-o", "report")
    known = (codes != 255) & (other != 0) & (other != 40)
    expected = confusion_matrix(other[known] != 30, codes[known] != 1)
    assert [entry["name"] for entry in told["classes"]] == ["Water", "Land"]
    assert (matrix_of("report") == expected).all()
    assert told["left_out"] == 40 + ((codes == 255) & (other != 0)).sum()


def test_a_crosswalk_names_the_codes_of_points_not_their_places_in_the_list(
    cwsam: Cwsam, map_path: Path, codes: Codes, truth: Codes, tmp_path: Path
) -> None:
    """Code 1 is joined with town. Code 2 is second in the list of codes, and stays forest."""
    rows, columns = np.nonzero(truth[5:50:3, 5::3] != 255)
    rows, columns = 3 * rows + 5, 3 * columns + 5
    points = geopandas.points_from_xy(600_015 + 30 * columns, 3_999_985 - 30 * rows)
    frame = geopandas.GeoDataFrame({"code": truth[rows, columns]}, geometry=points, crs=32617)
    frame.to_file(tmp_path / "truth.gpkg")
    (tmp_path / "table.csv").write_text("legend,class,target\nreference,1,Town\n")
    assess(cwsam, "truth.gpkg", "--class-field", "code", "--crosswalk", "table.csv", "-o", "report")
    real = np.array([0, 3, 2, 3])[truth[rows, columns]]
    assert (matrix_of("report") == confusion_matrix(real, codes[rows, columns], labels=[1, 2, 3])).all()


def test_a_crosswalk_may_name_codes_of_a_raster_that_has_names(
    cwsam: Cwsam, map_path: Path, codes: Codes, truth: Codes, tmp_path: Path
) -> None:
    write(tmp_path / "truth.tif", truth, nodata=255)
    with rasterio.open(tmp_path / "truth.tif", "r+") as target:
        tag_classes(target, from_names(["Lake", "Wood", "City"], first=1))
    (tmp_path / "table.csv").write_text(
        "legend,class,target\nreference,1,Water\nreference,2,Forest\nreference,city,Town\n"
    )
    assess(cwsam, "truth.tif", "--crosswalk", "table.csv", "-o", "report")
    known = (codes != 255) & (truth != 255)
    assert (matrix_of("report") == confusion_matrix(truth[known], codes[known])).all()


def test_names_decide_where_both_legends_have_them(
    cwsam: Cwsam, map_path: Path, codes: Codes, truth: Codes, tmp_path: Path
) -> None:
    """The reference's codes are reversed, and its names are in capitals."""
    write(tmp_path / "truth.tif", np.where(truth == 255, 255, 4 - truth).astype(np.uint8), nodata=255)
    with rasterio.open(tmp_path / "truth.tif", "r+") as target:
        tag_classes(target, from_names(["TOWN", "FOREST", "WATER"], first=1))
    assess(cwsam, "truth.tif", "-o", "report")
    known = (codes != 255) & (truth != 255)
    assert (matrix_of("report") == confusion_matrix(truth[known], codes[known])).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_pairs_are_counted_whatever_the_size_of_the_codes(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    values = np.array([3, 7, 200]) if dtype == np.uint8 else np.array([-5, 70_000, 2_000_000_000])
    one, other = (rng.choice(values, 2_500_000).astype(dtype) for _ in range(2))
    pairs = count_pairs(one, other)
    expected = confusion_matrix(one[::1], other)
    assert [[pairs[a, b] for b in values.tolist()] for a in values.tolist()] == expected.tolist()
    assert sum(pairs.values()) == one.size


def test_what_cannot_be_compared_is_refused(
    cwsam: Cwsam, refused: Refused, map_path: Path, truth: Codes, tmp_path: Path
) -> None:
    common = ("eval", "--map", "map.tif")
    refused(2, *common, names="--reference or --sample")
    refused(4, *common, "--reference", "gone.tif", names="gone.tif")
    write(tmp_path / "other.tif", truth + np.uint8(100), nodata=99)
    refused(4, *common, "--reference", "other.tif", names="`101`")
    write(tmp_path / "far.tif", truth, nodata=255, transform=from_origin(700_000, 5_000_000, 30, 30))
    refused(4, *common, "--reference", "far.tif", names="far.tif")
    write(tmp_path / "float.tif", truth + np.float32(0.5))
    refused(4, *common, "--reference", "float.tif", names="float.tif")
    write(tmp_path / "large.tif", truth.astype(np.int32) + 2**24)
    refused(4, *common, "--reference", "large.tif", names="16,777,216")
    frame = geopandas.GeoDataFrame({"code": [1]}, geometry=[shapely.Point(600_100, 3_999_900)], crs=32617)
    frame.to_file(tmp_path / "points.gpkg")
    refused(2, *common, "--reference", "points.gpkg", names="--class-field")
    refused(4, *common, "--reference", "points.gpkg", "--class-field", "klass", names="klass")
    write(tmp_path / "truth.tif", truth, nodata=255)
    (tmp_path / "table.csv").write_text("from,to\n1,2\n")
    refused(4, *common, "--reference", "truth.tif", "--crosswalk", "table.csv", names="table.csv")
    (tmp_path / "table.csv").write_text("legend,class,target\nmap,1,A\nmap,1,B\n")
    refused(4, *common, "--reference", "truth.tif", "--crosswalk", "table.csv", names="two targets")
    refused(2, "eval", "--sample", "s.gpkg", "-o", "map.tif", names="map.tif")
    refused(2, "eval", "-c", "map.tif", names="no dataset")


def test_a_map_of_one_class_has_a_report_without_kappa(cwsam: Cwsam, tmp_path: Path) -> None:
    write(tmp_path / "map.tif", np.ones((8, 8), np.uint8))
    assert assess(cwsam, "map.tif", "-o", "report")["kappa"] is None
    assert "Overall accuracy 1.00 of 64 pixels." in (tmp_path / "report" / "report.html").read_text("utf-8")


def test_maps_without_names_and_common_ground_are_refused(refused: Refused, tmp_path: Path) -> None:
    write(tmp_path / "map.tif", np.ones((8, 8), np.uint8))
    write(tmp_path / "far.tif", np.ones((8, 8), np.uint8), transform=from_origin(0, 0, 30, 30))
    error = refused(4, "eval", "--map", "map.tif", "--reference", "far.tif", names="far.tif")
    assert "no pixels in common" in error
