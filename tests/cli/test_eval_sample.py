"""`cwsam eval --sample`: from interpreted points to accuracies and areas."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from sklearn.metrics import cohen_kappa_score
from typer.testing import Result

from cwsam_cli.raster.style import tag_classes
from cwsam_cli.survey.design import MapClass
from cwsam_cli.survey.samplefile import Sample, read_sample, write_sample
from cwsam_cli.taxonomy import from_names
from tests.cli.conftest import write

Cwsam = Callable[..., Result]
Refused = Callable[..., str]
TABLE = from_names(["Water", "Forest", "Town"], first=1)


@pytest.fixture
def truth() -> NDArray[np.uint8]:
    """Blocks of 8 pixels: Water 30 %, forest 60 %, town 10 %."""
    rng = np.random.default_rng(1)
    blocks = rng.choice(np.array([1, 2, 3], np.uint8), (38, 50), p=[0.3, 0.6, 0.1])
    return np.kron(blocks, np.ones((8, 8), np.uint8))[:300, :400]


@pytest.fixture
def map_path(tmp_path: Path, truth: NDArray[np.uint8]) -> Path:
    """The truth with every fifth pixel wrong."""
    rng = np.random.default_rng(2)
    wrong = rng.choice(np.array([1, 2, 3], np.uint8), truth.shape, p=[0.1, 0.6, 0.3])
    path = write(tmp_path / "map.tif", np.where(rng.random(truth.shape) < 0.2, wrong, truth), nodata=255)
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TABLE)
    return path


def interpret(path: Path, truth: NDArray[np.uint8], **fields: Any) -> Sample:
    """Fill in the reference of each point from the truth."""
    sample = read_sample(path)
    assert sample.design is not None
    frame = sample.frame
    columns, rows = (frame.geometry.x - 600_000) // 30, (4_000_000 - frame.geometry.y) // 30
    frame["reference"] = truth[rows.astype(int), columns.astype(int)].astype(float)
    for name, values in fields.items():
        frame[name] = values(frame) if callable(values) else values
    write_sample(path, frame, sample.design, overwrite=True)
    return read_sample(path)


def assess(cwsam: Cwsam, *arguments: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(cwsam("eval", "--sample", "sample.gpkg", *arguments, "--json").stdout)
    return told


def is_near(estimate: dict[str, float], true: float) -> bool:
    """Whether an estimate lies within its interval, and within four standard errors of the truth."""
    inside = estimate["low"] < estimate["value"] < estimate["high"]
    return inside and bool(abs(estimate["value"] - true) < 4 * estimate["standard_error"])


def test_areas_and_accuracies_are_near_the_truth(cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]) -> None:
    cwsam("sample", map_path, "-n", 600, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    told = assess(cwsam, "--map", map_path)
    with rasterio.open(map_path) as source:
        codes = source.read(1)
    assert is_near(told["overall"], (codes == truth).mean())
    assert told["interpreted"] == 600 and told["notes"] == []
    assert "Olofsson" in told["method"]
    for entry in told["classes"]:
        code = entry["code"]
        assert entry["name"] == TABLE.names[code - 1]
        assert is_near(entry["area_ha"], (truth == code).sum() * 0.09)
        assert is_near(entry["users"], (truth == code)[codes == code].mean())
        assert is_near(entry["producers"], (codes == code)[truth == code].mean())
        assert entry["mapped_ha"] == pytest.approx((codes == code).sum() * 0.09)
    assert sum(entry["area_ha"]["value"] for entry in told["classes"]) == pytest.approx(truth.size * 0.09)


def test_equal_allocation_says_that_areas_of_rare_classes_have_wide_intervals(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]
) -> None:
    cwsam("sample", map_path, "-n", 90, "--allocation", "equal", "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    assert "wider than needed" in " ".join(assess(cwsam)["notes"])


def test_without_a_map_the_sample_knows_what_its_own_map_said(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]
) -> None:
    cwsam("sample", map_path, "-n", 200, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    with_map, without = assess(cwsam, "--map", map_path), assess(cwsam)
    assert without["map"] == "map.tif"
    assert without["classes"] == with_map["classes"]


def test_another_map_is_assessed_with_the_samples_own_strata(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The reference itself as a map has no error, whatever its strata are."""
    cwsam("sample", map_path, "-n", 300, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    own = assess(cwsam)
    write(tmp_path / "other.tif", truth, nodata=255)
    with rasterio.open(tmp_path / "other.tif", "r+") as target:
        tag_classes(target, TABLE)
    other = assess(cwsam, "--map", "other.tif")
    assert other["overall"]["value"] == pytest.approx(1)
    assert "Stehman" in other["method"] and "other.tif" in other["notes"][0]
    for mine, theirs in zip(own["classes"], other["classes"], strict=True):
        assert theirs["share"] == pytest.approx(mine["share"])
        assert theirs["mapped_share"] == pytest.approx(mine["share"]["value"])


def test_regions_as_strata_use_stehmans_estimators(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    transform = from_origin(600_000, 4_000_000, 3_000, 9_000)
    write(tmp_path / "zones.tif", np.array([[1, 2, 3, 4]], np.uint8), transform=transform)
    cwsam("sample", map_path, "-n", 600, "--strata", "zones.tif", "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    told = assess(cwsam)
    assert "Stehman" in told["method"] and "mapped areas are estimates" in told["notes"][0]
    for entry in told["classes"]:
        assert is_near(entry["share"], (truth == entry["code"]).mean())


def test_pixels_in_degrees_count_by_their_area(cwsam: Cwsam, tmp_path: Path) -> None:
    """The northern half holds 40 % of the ground. Half of the points lie there."""
    codes = np.ones((120, 40), np.uint8)
    path = write(tmp_path / "map.tif", codes, crs="EPSG:4326", transform=from_origin(10, 80, 0.25, 0.25))
    cwsam("sample", path, "-n", 4800, "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    sample.frame["reference"] = np.where(sample.frame.geometry.y > 65, 1, 2)
    south = MapClass(code=2, name="south", color="#000000")
    design = dataclasses.replace(sample.design, classes=(*sample.design.classes, south))
    write_sample(Path("sample.gpkg"), sample.frame, design, overwrite=True)
    told = assess(cwsam)
    edges = np.sin(np.radians([80, 65, 50]))
    expected = (edges[0] - edges[1]) / (edges[0] - edges[2])
    assert told["classes"][0]["share"]["value"] == pytest.approx(expected, rel=0.005)
    assert told["classes"][0]["share"]["standard_error"] == pytest.approx(0, abs=1e-9)


def test_two_interpreters_are_compared(cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]) -> None:
    cwsam("sample", map_path, "-n", 100, "-o", "sample.gpkg")
    rng = np.random.default_rng(0)

    def second(frame: geopandas.GeoDataFrame) -> Any:
        values = np.where(rng.random(len(frame)) < 0.2, 2, frame["reference"]).astype(object)
        values[:10] = None
        return values

    sample = interpret(Path("sample.gpkg"), truth, reference_2=second)
    (agreement,) = assess(cwsam)["agreements"]
    both = sample.frame[10:]
    one, other = (both[name].astype(float).astype(int) for name in ("reference", "reference_2"))
    assert (agreement["first"], agreement["second"], agreement["points"]) == ("reference", "reference_2", 90)
    assert agreement["agreement"] == pytest.approx((one == other).mean())
    assert agreement["kappa"] == pytest.approx(cohen_kappa_score(one, other))
    assert "kappa" in cwsam("eval", "--sample", "sample.gpkg").stdout


def test_the_csv_may_be_filled_in_with_names(cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]) -> None:
    cwsam("sample", map_path, "-n", 100, "-o", "sample.gpkg")
    table = pandas.read_csv("sample.csv")
    columns, rows = ((table["x"] - 600_000) // 30).astype(int), ((4_000_000 - table["y"]) // 30).astype(int)
    table["reference"] = [TABLE.names[code - 1].lower() for code in truth[rows, columns]]
    table.to_csv("sample.csv", index=False)
    from_csv = json.loads(cwsam("eval", "--sample", "sample.csv", "--json").stdout)
    interpret(Path("sample.gpkg"), truth)
    assert from_csv["classes"] == assess(cwsam)["classes"]


def test_a_csv_whose_ids_were_changed_is_refused(cwsam: Cwsam, refused: Refused, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 100, "-o", "sample.gpkg")
    table = pandas.read_csv("sample.csv")
    table.assign(id=table["id"] + 1, reference=1).to_csv("sample.csv", index=False)
    refused(4, "eval", "--sample", "sample.csv", names="sample.csv")
    table.drop(columns="id").assign(reference=1).to_csv("sample.csv", index=False)
    refused(4, "eval", "--sample", "sample.csv", names="`id`")


def test_the_map_may_be_one_of_several_bands(
    cwsam: Cwsam, refused: Refused, map_path: Path, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    with rasterio.open(map_path) as source:
        write(tmp_path / "both.tif", np.stack([truth, source.read(1)]))
    cwsam("sample", "both.tif", "--band", 2, "-n", 100, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    refused(4, "eval", "--sample", "sample.gpkg", "--map", "both.tif", names="2 bands")
    told = assess(cwsam, "--map", "both.tif", "--band", 2)
    assert told["classes"] == assess(cwsam)["classes"] and "Olofsson" in told["method"]
    write(tmp_path / "truth.tif", truth)
    against = ("eval", "--map", "both.tif", "--reference", "truth.tif", "--band", 1, "--json")
    assert json.loads(cwsam(*against).stdout)["accuracy"] == 1


def test_two_maps_are_compared_at_the_same_points(
    cwsam: Cwsam, refused: Refused, map_path: Path, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The second map is the truth, so it is right at every point. Of the first, every seventh pixel or so is wrong."""
    cwsam("sample", map_path, "-n", 300, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    write(tmp_path / "other.tif", truth, nodata=255)
    with rasterio.open(tmp_path / "other.tif", "r+") as target:
        tag_classes(target, TABLE)
    common = ("eval", "--sample", "sample.gpkg", "--map", map_path, "--compare", "other.tif")
    told = json.loads(cwsam(*common, "-o", "compared", "--json").stdout)
    assert json.loads(Path("compared/comparison.json").read_text("utf-8")) == told
    own, other = assess(cwsam, "--map", map_path), assess(cwsam, "--map", "other.tif")
    overall, *rows = told["figures"]
    assert (overall["first"], overall["second"]) == (own["overall"]["value"], other["overall"]["value"])
    with rasterio.open(map_path) as source:
        codes = source.read(1)
    assert overall["low"] < (codes == truth).mean() - 1 < overall["high"] < 0
    assert told["better_points"] == 0 and told["p_value"] < 0.001
    assert {row["figure"] for row in rows} == {"users", "producers", "mapped_ha"} and len(rows) == 9
    areas = [row["difference"] for row in rows if row["figure"] == "mapped_ha"]
    assert areas == pytest.approx([((codes == k).sum() - (truth == k).sum()) * 0.09 for k in (1, 2, 3)])
    assert "is more than chance explains" in cwsam(*common).stdout
    same = json.loads(cwsam("eval", "--sample", "sample.gpkg", "--compare", map_path, "--json").stdout)
    assert same["p_value"] == 1 and all(row["difference"] in (0, None) for row in same["figures"])
    refused(2, *common[:3], "--compare", "other.tif", "--assume-random", names="--compare")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None and told["notes"] == []
    sample.frame.loc[:4, "reference"] = None
    write_sample(sample.path, sample.frame, sample.design, overwrite=True)
    assert "5 of 300 points have no reference" in cwsam(*common).stdout


def test_options_that_would_change_nothing_are_refused(cwsam: Cwsam, refused: Refused) -> None:
    sample, map_ = ("eval", "--sample", "s.gpkg"), ("eval", "--map", "map.tif")
    refused(2, *sample, "--map", "map.tif", "--calibrate", names="--calibrate")
    refused(2, *sample, "--reference", "truth.tif", names="--reference")
    refused(2, *sample, "--band", 2, names="--band")
    refused(2, *map_, "--reference", "truth.tif", "-c", "a.pth", names="--checkpoint")
    refused(2, *map_, "--reference", "truth.tif", "--assume-random", names="--assume-random")
    refused(2, "eval", "-c", "a.pth", "--crosswalk", "table.csv", names="--crosswalk")


def test_a_class_with_too_few_points_says_so(cwsam: Cwsam, tmp_path: Path) -> None:
    codes = np.ones((100, 100), np.uint8)
    codes[:, :50] = 2
    path = write(tmp_path / "map.tif", codes)
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TABLE)
    cwsam("sample", path, "-n", 50, "-o", "sample.gpkg")
    references = np.array([1] * 25 + [2] * 24 + [3])
    sample = read_sample(tmp_path / "sample.gpkg")
    assert sample.design is not None
    frame = sample.frame.sort_values("map")
    frame["reference"] = references
    write_sample(tmp_path / "sample.gpkg", frame, sample.design, overwrite=True)
    town = assess(cwsam)["classes"][2]
    assert town["name"] == "Town" and town["points_in_reference"] == 1
    assert town["area_ha"]["standard_error"] is None and town["area_ha"]["high"] > 2 * town["area_ha"]["value"]
    assert town["users"] is None and town["producers"]["low"] is None
    assert "1 point in the reference" in town["note"]
    assert "1 point in the reference" in cwsam("eval", "--sample", "sample.gpkg").stdout


def test_intervals_of_a_class_with_few_points_are_marked(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]
) -> None:
    cwsam("sample", map_path, "-n", 40, "--min-per-class", 5, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    told = assess(cwsam)
    for entry in told["classes"]:
        few = min(entry["points_in_map"], entry["points_in_reference"]) < 10
        assert ("unreliable" in entry["note"]) == few
    assert "unreliable" in told["classes"][2]["note"]


def test_points_that_are_not_interpreted_yet_are_named(cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]) -> None:
    cwsam("sample", map_path, "-n", 100, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    sample.frame.loc[:9, "reference"] = None
    write_sample(Path("sample.gpkg"), sample.frame, sample.design, overwrite=True)
    told = assess(cwsam)
    assert (told["points"], told["interpreted"]) == (100, 90)
    assert "10 of 100 points" in told["notes"][0]


def test_the_report_has_the_figures_as_files(cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]) -> None:
    cwsam("sample", map_path, "-n", 200, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    told = assess(cwsam, "--map", map_path, "-o", "report")
    assert sorted(path.name for path in Path("report").iterdir()) == [
        "areas.csv",
        "confusion_matrix.csv",
        "metrics.json",
        "report.html",
        "strata.csv",
    ]
    page = Path("report/report.html").read_text("utf-8")
    assert '"points": [[' in page and "Overall accuracy" in page
    assert json.loads(Path("report/metrics.json").read_text("utf-8")) == told
    with Path("report/areas.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == TABLE.names
    assert [float(row["area_ha_value"]) for row in rows] == [entry["area_ha"]["value"] for entry in told["classes"]]
    with Path("report/confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        matrix = [row[1:] for row in csv.reader(file)][1:]
    assert np.array(matrix, float).sum() == pytest.approx(1)


def test_points_without_a_design_need_a_word(
    cwsam: Cwsam, refused: Refused, map_path: Path, truth: NDArray[np.uint8]
) -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 300, 500), rng.integers(0, 400, 500)
    points = geopandas.points_from_xy(600_000 + 30 * columns + 15, 4_000_000 - 30 * rows - 15)
    frame = geopandas.GeoDataFrame({"reference": truth[rows, columns]}, geometry=points, crs=32617)
    frame.to_crs(4326).to_file("sample.gpkg")
    refused(4, "eval", "--sample", "sample.gpkg", "--map", map_path, names="no design")
    refused(2, "eval", "--sample", "sample.gpkg", "--assume-random", names="the map")
    told = assess(cwsam, "--map", map_path, "--assume-random")
    assert "assumed" in told["method"]
    for entry in told["classes"]:
        assert is_near(entry["share"], (truth == entry["code"]).mean())


def test_a_sample_that_cannot_be_assessed_is_refused(
    cwsam: Cwsam, refused: Refused, map_path: Path, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    cwsam("sample", map_path, "-n", 100, "-o", "sample.gpkg")
    refused(4, "eval", "--sample", "sample.gpkg", names="no interpreted point")
    refused(4, "eval", "--sample", "gone.gpkg", names="gone.gpkg")
    interpret(Path("sample.gpkg"), truth, reference="Meadow")
    refused(4, "eval", "--sample", "sample.gpkg", names="`meadow`")
    sample = interpret(Path("sample.gpkg"), truth)
    refused(2, "eval", "--sample", "sample.gpkg", "--map", map_path, "--assume-random", names="has a design")
    write(tmp_path / "small.tif", truth[:100, :100])
    refused(4, "eval", "--sample", "sample.gpkg", "--map", "small.tif", names="small.tif")
    assert sample.design is not None
    write_sample(tmp_path / "sample.gpkg", sample.frame.iloc[:-1], sample.design, overwrite=True)
    refused(4, "eval", "--sample", "sample.gpkg", names="99 points")


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_map_without_a_crs_has_shares_but_no_areas(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    cwsam("sample", map_path, "-n", 200, "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    placed = assess(cwsam)
    with rasterio.open(map_path) as source:
        write(tmp_path / "bare.tif", source.read(1), nodata=255, crs=None)
    cwsam("sample", "bare.tif", "-n", 200, "-o", "sample.gpkg", "--overwrite")
    interpret(Path("sample.gpkg"), truth)
    bare = assess(cwsam)
    assert [entry["share"] for entry in bare["classes"]] == [
        pytest.approx(entry["share"]) for entry in placed["classes"]
    ]
    assert all(entry["area_ha"] is None for entry in bare["classes"])
    assert "share, %" in cwsam("eval", "--sample", "sample.gpkg").stdout
