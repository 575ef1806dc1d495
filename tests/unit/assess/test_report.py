"""One result in three shapes: a table, JSON, CSV."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cwsam_cli.assess.evaluation import Evaluation
from cwsam_cli.assess.report import Origin, as_dict, as_table, write_report
from cwsam_cli.metrics.confusion import compute_metrics
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from tests.unit.assess.counted import evaluation

NAMES = ["水体", 'roads, "paved"', "林地"]
TAXONOMY = Taxonomy(
    classes=tuple(
        LandCoverClass(code=code, name=name, color="#336699") for code, name in zip((40, 7, 9), NAMES, strict=True)
    )
)
FILES = [
    "classes.csv",
    "confusion_matrix.csv",
    "metrics.json",
    "reliability.csv",
    "report.html",
    "scenes.csv",
    "tiles.csv",
]
ORIGIN = Origin(checkpoint=Path("模型.pth"), checkpoint_sha256="0" * 64, data="dataset", split="test")
MATRIX = np.array([[1_200_000, 300_000, 0], [100_000, 900_000, 0], [0, 0, 0]], np.int64)


def _no_constant(text: str) -> Any:
    pytest.fail(f"{text} is no JSON")


def _of(matrix: Any, *, blocks: int = 1) -> Evaluation:
    """An evaluation of equal blocks."""
    return evaluation(np.stack([matrix] * blocks), TAXONOMY)


def _lines(scores: Evaluation) -> dict[str, str]:
    """The table's lines by the class or figure they begin with."""
    starts = [*NAMES, "mean IoU", "mean F1", "overall accuracy", "frequency-weighted IoU"]
    lines = as_table(scores).splitlines()
    return {start: line for line in lines for start in starts if line.startswith(start)}


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "报告"
    write_report(_of(MATRIX), folder, ORIGIN)
    return folder


def test_json_parses_and_holds_every_figure(report: Path) -> None:
    told = json.loads((report / "metrics.json").read_text(encoding="utf-8"), parse_constant=_no_constant)
    scores = compute_metrics(MATRIX)
    assert (told["checkpoint"], told["split"]) == ("模型.pth", "test")
    assert (told["mean_iou"], told["mean_f1"], told["accuracy"]) == (scores.mean_iou, scores.mean_f1, scores.accuracy)
    assert (told["frequency_weighted_iou"], told["pixels"]) == (scores.frequency_weighted_iou, 2_500_000)
    known = told["classes"][0]
    assert known["blocks"] == 1 and known["boundary_f1"] == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert {name: value for name, value in known.items() if name not in ("blocks", "boundary_f1", "intervals")} == {
        "code": 40,
        "name": "水体",
        "absent": False,
        "iou": 0.75,
        "precision": 12 / 13,
        "recall": 0.8,
        "f1": 24 / 28,
        "support": 1_500_000,
        "predicted": 1_300_000,
    }


def test_json_marks_an_absent_class_and_gives_it_null(report: Path) -> None:
    told = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    absent = told["classes"][2]
    assert (absent["name"], absent["absent"], absent["iou"], absent["recall"]) == ("林地", True, None, None)


def test_parts_of_the_ground_are_in_the_table_in_json_and_in_csv(tmp_path: Path) -> None:
    result = evaluation(np.stack([MATRIX] * 4), TAXONOMY, groups=2, distances_m=np.array([0.0, 0.0, 800.0, 2500.0]))
    write_report(result, tmp_path / "parts", ORIGIN)
    told = json.loads((tmp_path / "parts" / "metrics.json").read_text(encoding="utf-8"), parse_constant=_no_constant)
    assert [(part["part"], part["pixels"]) for part in told["expert_groups"]] == [
        ("group 0", 10_000_000),
        ("group 1", 0),
    ]
    assert told["expert_groups"][1]["accuracy"] is None
    assert [part["part"] for part in told["distances_from_training"]] == ["0 m", "800 m", "2.5 km"]
    table = as_table(result)
    for name, key in (("expert_groups", "group 0"), ("distances_from_training", "800 m")):
        text = (tmp_path / "parts" / f"{name}.csv").read_text(encoding="utf-8")
        assert key in text and key in table


def test_json_is_readable_in_chinese(report: Path) -> None:
    assert "水体" in (report / "metrics.json").read_text(encoding="utf-8")


def test_csv_has_one_row_a_reference_class_and_one_column_a_mapped_one(report: Path) -> None:
    with (report / "confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head[1:] == NAMES
    assert [row[0] for row in rows] == NAMES
    assert [[int(count) for count in row[1:]] for row in rows] == MATRIX.tolist()


def test_a_report_replaces_an_older_one_and_leaves_only_its_files(report: Path) -> None:
    write_report(_of(MATRIX * 2), report, ORIGIN)
    assert json.loads((report / "metrics.json").read_text(encoding="utf-8"))["pixels"] == 5_000_000
    assert sorted(entry.name for entry in report.iterdir()) == FILES


def test_plain_values_stay_in_the_order_of_the_class_table() -> None:
    told = as_dict(_of(MATRIX))
    assert [(entry["code"], entry["name"]) for entry in told["classes"]] == list(zip((40, 7, 9), NAMES, strict=True))


def test_the_table_shows_each_class_with_its_figures() -> None:
    line = _lines(_of(MATRIX))["水体"]
    assert line.split()[1:] == ["0.750", "-", "0.923", "0.800", "0.857", "0.444", "1,500,000"]


def test_the_table_says_which_class_is_absent_and_shows_no_figure_for_it() -> None:
    lines = _lines(_of(MATRIX))
    assert lines["林地"].split()[1:6] == ["-", "-", "-", "-", "-"]
    assert lines["林地"].endswith("absent from the reference")
    assert sum("absent" in line for line in lines.values()) == 1


def test_the_table_ends_with_the_overall_figures() -> None:
    lines = _lines(_of(MATRIX))
    assert lines["mean IoU"].split()[-2] == f"{(0.75 + 9 / 13) / 2:.3f}"
    assert lines["overall accuracy"].split()[-2] == "0.840"
    assert {"mean F1", "frequency-weighted IoU"} <= set(lines)


def test_a_table_of_nothing_has_no_figures() -> None:
    lines = _lines(_of(np.zeros((3, 3), np.int64)))
    assert lines["mean IoU"].split()[-1] == lines["overall accuracy"].split()[-1] == "-"
    assert all("absent from the reference" in lines[name] for name in NAMES)


def test_a_class_name_is_never_a_formula(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-2", "@sum", "plain = fine"]
    table = Taxonomy(
        classes=tuple(LandCoverClass(code=code, name=name, color="#336699") for code, name in enumerate(names))
    )
    matrix = np.eye(5, dtype=np.int64)
    write_report(evaluation(matrix[None], table), tmp_path, ORIGIN)
    rows = list(csv.reader((tmp_path / "confusion_matrix.csv").read_text("utf-8").splitlines()))
    safe = [*(f"'{name}" for name in names[:4]), names[4]]
    assert rows[0][1:] == [row[0] for row in rows[1:]] == safe


def test_json_says_its_version_and_how_many_blocks_the_intervals_rest_on() -> None:
    told = as_dict(_of(MATRIX, blocks=12))
    assert told["blocks"] == {"count": 12, "are_tiles": False, "is_reliable": True}
    assert told["intervals"]["accuracy"] == pytest.approx((0.84, 0.84))
    assert told["classes"][0]["intervals"]["iou"] == pytest.approx((0.75, 0.75))
    assert told["classes"][2]["intervals"]["iou"] is None


def test_the_table_shows_intervals_and_says_when_they_are_not_reliable() -> None:
    many, few, one = (as_table(_of(MATRIX, blocks=count)) for count in (12, 4, 1))
    assert "0.840 to 0.840" in many and "bootstrap of 12 blocks" in many and "not reliable" not in many
    assert "bootstrap of 4 blocks" in few and "not reliable" in few
    assert "1 block only" in one and " to " not in one


def test_a_class_has_a_row_in_a_table_for_spreadsheets(report: Path) -> None:
    with (report / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert float(rows[0]["iou"]) == 0.75 and rows[0]["iou_low"] == "" and rows[2]["iou"] == ""


def test_bins_of_confidence_hold_every_pixel(report: Path) -> None:
    told = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    assert sum(row["pixels"] for row in told["reliability"]) == told["pixels"]
    known = [row for row in told["reliability"] if row["pixels"]]
    assert [(row["accuracy"], row["confidence"]) for row in known] == [(pytest.approx(0.84), pytest.approx(0.62))]
    assert told["calibration_error"] == pytest.approx(0.22)
