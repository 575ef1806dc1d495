"""`cwsam sample --unit 3x3` and `eval` of blocks: shares of classes within a block count as areas."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import rasterio
from numpy.typing import NDArray
from typer.testing import Result

from cwsam_cli.maps.strips import open_classes
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.survey.samplefile import read_sample, write_sample
from cwsam_cli.taxonomy import from_names
from cwsam_cli.verify.lookup import look_up
from tests.cli.conftest import write

Cwsam = Callable[..., Result]
Refused = Callable[..., str]
TABLE = from_names(["Water", "Forest, open", "Town"], first=1)
HEIGHT, WIDTH = 301, 400


@pytest.fixture
def truth() -> NDArray[np.uint8]:
    """Patches of 8 × 8 pixels, which blocks of 3 × 3 cut."""
    rng = np.random.default_rng(1)
    patches = rng.choice(np.array([1, 2, 3], np.uint8), (38, 50), p=[0.3, 0.6, 0.1])
    return np.kron(patches, np.ones((8, 8), np.uint8))[:HEIGHT, :WIDTH]


@pytest.fixture
def map_path(tmp_path: Path, truth: NDArray[np.uint8]) -> Path:
    """The truth, one pixel to the right, with a corner that has no data."""
    codes = np.roll(truth, 1, axis=1)
    codes[:40, :40] = 255
    path = write(tmp_path / "map.tif", codes, nodata=255, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TABLE)
    return path


def blocks_of(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[top : top + 3, left : left + 3] for top in range(0, HEIGHT, 3) for left in range(0, WIDTH, 3)]


def interpret(path: Path, truth: NDArray[np.uint8]) -> None:
    """Write each block's largest class into `reference`, and the others with their per cent into the shares."""
    sample = read_sample(path)
    assert sample.design is not None
    frame = sample.frame
    for place, (left, low, right, high) in enumerate(frame.geometry.bounds.to_numpy()):
        columns = slice(round((left - 600_000) / 30), round((right - 600_000) / 30))
        rows = slice(round((4_000_000 - high) / 30), round((4_000_000 - low) / 30))
        counts = np.bincount(truth[rows, columns].ravel(), minlength=4)
        main = int(counts.argmax())
        others = [(TABLE.names[k - 1], 100 * counts[k] / counts.sum()) for k in (1, 2, 3) if k != main and counts[k]]
        frame.loc[place, "reference"] = main
        frame.loc[place, "reference_shares"] = ", ".join(f"{name} {share:.4f}" for name, share in others) or None
    write_sample(path, frame, sample.design, overwrite=True)


def test_every_block_is_of_its_most_frequent_class(cwsam: Cwsam, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 200, "--unit", "3x3", "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None and sample.design.block_pixels == 3
    with rasterio.open(map_path) as source:
        codes = source.read(1)
    counts = [np.bincount(block[block != 255], minlength=4) for block in blocks_of(codes)]
    best = np.array([count.argmax() for count in counts if count.any()])
    assert sample.design.units.tolist() == np.bincount(best)[1:].tolist()
    pixels = [sum(int(count.sum()) for count in counts if count.argmax() == k and count.any()) for k in (1, 2, 3)]
    assert sample.design.pixels.tolist() == pixels
    assert [stratum.area_m2 for stratum in sample.design.strata] == [900.0 * number for number in pixels]
    assert len({shape.wkb for shape in sample.frame.geometry}) == 200
    for shape, code, ground in zip(sample.frame.geometry, sample.frame["map"], sample.frame["pixel_m2"], strict=True):
        left, low, right, high = shape.bounds
        row, column = round((4_000_000 - high) / 30), round((left - 600_000) / 30)
        assert row % 3 == column % 3 == 0
        block = codes[row : row + 3, column : column + 3]
        assert (right - left, high - low) == (30 * block.shape[1], 30 * block.shape[0])
        own = block[block != 255]
        assert code == np.bincount(own).argmax() and ground == 900 * own.size


def test_areas_from_shares_are_near_the_truth_and_more_blocks_continue_the_design(
    cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]
) -> None:
    cwsam("sample", map_path, "-n", 300, "--unit", "3x3", "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    cwsam("sample", map_path, "--more", 100, "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert len({shape.wkb for shape in sample.frame.geometry}) == 400
    assert set(sample.frame.geometry.geom_type) == {"Polygon"}
    interpret(Path("sample.gpkg"), truth)
    told = json.loads(cwsam("eval", "--sample", "sample.gpkg", "--map", map_path, "-o", "report", "--json").stdout)
    assert "blocks of 3 × 3" in told["method"] and "Accuracies are those of blocks" in " ".join(told["notes"])
    with rasterio.open(map_path) as source:
        inside = source.read(1) != 255
    for entry in told["classes"]:
        share, true = entry["share"], (truth == entry["code"])[inside].mean()
        assert share["low"] < share["value"] < share["high"]
        assert abs(share["value"] - true) < 4 * share["standard_error"]


def test_shares_in_the_csv_are_kept_by_more_blocks(cwsam: Cwsam, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 60, "--unit", "3x3", "-o", "sample.gpkg")
    pandas.read_csv("sample.csv").assign(reference_shares="Town 60, Water 40").to_csv("sample.csv", index=False)
    cwsam("sample", map_path, "--more", 20, "-o", "sample.gpkg")
    assert pandas.read_csv("sample.csv")["reference_shares"].notna().sum() == 60


def test_blocks_with_shares_only_guide_the_allocation_of_more_blocks(
    cwsam: Cwsam, map_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Blocks of Town are wrong in half of their ground, and others are right. A proportional draw adds none to Town."""
    cwsam("sample", map_path, "-n", 90, "--unit", "3x3", "--allocation", "equal", "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    half, names = "Water 50, Town 50", {code: f"{name} 100" for code, name in enumerate(TABLE.names, 1)}
    texts = [half if code == 3 else names[code] for code in sample.frame["map"]]
    write_sample(sample.path, sample.frame.assign(reference_shares=texts), sample.design, overwrite=True)
    cwsam("sample", map_path, "--more", 60, "-o", "sample.gpkg")
    grown = read_sample(Path("sample.gpkg")).design
    assert grown is not None and "interpreted yet" not in caplog.text
    added = grown.points - sample.design.points
    assert added[2] >= 5


def test_a_turned_map_is_drawn_with_its_blocks(cwsam: Cwsam, truth: NDArray[np.uint8], tmp_path: Path) -> None:
    turned = rasterio.Affine.translation(600_000, 4_000_000) @ rasterio.Affine.rotation(20)
    path = write(tmp_path / "turned.tif", truth, transform=turned @ rasterio.Affine.scale(30, -30))
    cwsam("sample", path, "-n", 60, "--unit", "3x3", "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    with open_classes(path) as source:
        assert look_up(sample, source)[0].tolist() == sample.frame["map"].tolist()
    write_sample(sample.path, sample.frame.assign(reference=sample.frame["map"]), sample.design, overwrite=True)
    cwsam("eval", "--sample", "sample.gpkg", "--map", path, "-o", "report")
    assert Path("report/report.html").is_file()


def test_small_patches_do_not_count_as_a_wrong_area_of_the_map(cwsam: Cwsam, tmp_path: Path) -> None:
    """Single pixels of a class vanish from the classes of blocks. The map has them, so its area is not wrong."""
    codes = np.ones((300, 400), np.uint8)
    codes[:60], codes[1::3, 1::3] = 2, 2
    path = write(tmp_path / "map.tif", codes)
    cwsam("sample", path, "-n", 60, "--unit", "3x3", "-o", "sample.gpkg")
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    one = sample.frame["map"] == 1
    filled = sample.frame.assign(reference=sample.frame["map"], reference_shares=np.where(one, "2 11.1", None))
    write_sample(sample.path, filled, sample.design, overwrite=True)
    told = json.loads(cwsam("eval", "--sample", "sample.gpkg", "--map", path, "-o", "report", "--json").stdout)
    assert told["classes"][1]["mapped_share"] < told["classes"][1]["share"]["low"]
    assert "Mapped areas count each block as its class" in " ".join(told["notes"])
    assert "The map shows" not in Path("report/report.html").read_text(encoding="utf-8")


def test_shares_say_more_than_the_largest_class(cwsam: Cwsam, map_path: Path, truth: NDArray[np.uint8]) -> None:
    """With the largest class alone, the error of a proportion is that of points; with shares it is smaller."""
    cwsam("sample", map_path, "-n", 300, "--unit", "3x3", "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    found = [json.loads(cwsam("eval", "--sample", "sample.gpkg", "--json").stdout)]
    sample = read_sample(Path("sample.gpkg"))
    assert sample.design is not None
    write_sample(Path("sample.gpkg"), sample.frame.assign(reference_shares=None), sample.design, overwrite=True)
    found.append(json.loads(cwsam("eval", "--sample", "sample.gpkg", "--json").stdout))
    errors = [told["classes"][0]["share"]["standard_error"] for told in found]
    assert errors[0] < 0.9 * errors[1]


def test_another_map_on_the_same_grid_is_assessed_at_the_same_blocks(
    cwsam: Cwsam, refused: Refused, map_path: Path, truth: NDArray[np.uint8], tmp_path: Path
) -> None:
    cwsam("sample", map_path, "-n", 200, "--unit", "3x3", "-o", "sample.gpkg")
    interpret(Path("sample.gpkg"), truth)
    path = write(tmp_path / "other.tif", truth, nodata=255)
    with rasterio.open(path, "r+") as target:
        tag_classes(target, TABLE)
    told = json.loads(cwsam("eval", "--sample", "sample.gpkg", "--map", "other.tif", "--json").stdout)
    own = json.loads(cwsam("eval", "--sample", "sample.gpkg", "--json").stdout)
    assert told["overall"]["value"] > own["overall"]["value"]  # no pixel is wrong; mixed blocks are in part
    transform = rasterio.transform.from_origin(600_010, 4_000_000, 30, 30)
    moved = write(tmp_path / "moved.tif", truth, nodata=255, transform=transform)
    refused(4, "eval", "--sample", "sample.gpkg", "--map", moved, names="not whole pixels")


@pytest.mark.parametrize(
    ("main", "shares", "names"),
    [
        (1, "Meadow 40", "Meadow"),
        (1, "Town 60, Forest, open 50", "110 %"),
        (None, "Town 60", "60 %"),
        (1, "Town", "not a list"),
    ],
)
def test_shares_that_cannot_be_are_refused(
    cwsam: Cwsam, refused: Refused, map_path: Path, main: int | None, shares: str, names: str
) -> None:
    cwsam("sample", map_path, "-n", 60, "--unit", "3x3", "-o", "sample.gpkg")
    table = pandas.read_csv("sample.csv")
    table["reference"], table["reference_shares"] = 1, ""
    table = table.astype({"reference": object, "reference_shares": object})
    table.loc[3, ["reference", "reference_shares"]] = [main, shares]
    table.to_csv("sample.csv", index=False)
    told = refused(4, "eval", "--sample", "sample.csv", names="reference_shares")
    assert names.casefold() in told.casefold()


def test_a_class_whose_name_has_a_comma_has_shares(cwsam: Cwsam, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 60, "--unit", "3x3", "-o", "sample.gpkg")
    table = pandas.read_csv("sample.csv")
    table["reference"] = "Town"
    table["reference_shares"] = "forest, open 25 %, 1: 25"
    table.to_csv("sample.csv", index=False)
    told = json.loads(cwsam("eval", "--sample", "sample.csv", "--json").stdout)
    assert [entry["share"]["value"] for entry in told["classes"]] == pytest.approx([0.25, 0.25, 0.5])


def test_the_form_shows_outlines_and_asks_for_shares(cwsam: Cwsam, map_path: Path) -> None:
    cwsam("sample", map_path, "-n", 60, "--unit", "3x3", "-o", "sample.gpkg")
    with closing(sqlite3.connect("sample.gpkg")) as package:
        ((text,),) = package.execute("SELECT styleQML FROM layer_styles").fetchall()
    assert 'type="fill"' in text and '<field name="reference_shares"><editWidget type="TextEdit"' in text


def test_chips_outline_the_block(cwsam: Cwsam, map_path: Path, tmp_path: Path) -> None:
    from PIL import Image

    write(tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 255, (3, HEIGHT, WIDTH)).astype(np.uint8))
    cwsam(
        "sample", map_path, "-n", 30, "--unit", "3x3", "--chips", "chips", "--image", "scene.tif", "-o", "sample.gpkg"
    )
    with Image.open("chips/1.png") as chip:
        pixels = np.array(chip)
    rows, columns = np.nonzero((pixels == (255, 235, 59)).all(axis=2))
    assert (np.ptp(rows), np.ptp(columns)) == (3 * 6 + 1, 3 * 6 + 1)
