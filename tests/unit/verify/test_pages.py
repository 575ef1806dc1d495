"""The reports of maps: every figure is on the page, and a browser finds no error in it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cwsam_cli.metrics.confusion import compute_metrics
from cwsam_cli.report.pictures import Picture
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from cwsam_cli.verify.mapped import MapAssessment
from cwsam_cli.verify.pages import write_map_page, write_sample_page
from tests.browser import needs_chromium, press_everything
from tests.unit.verify.assessed import COLORS, NAMES, assessment


def picture(**layers: Any) -> Picture:
    index = np.random.default_rng(0).choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
    points = ((3.5, 4.5, True), (20.0, 10.0, False))
    return Picture("map.tif", index, points=points) if not layers else Picture("map.tif", index, **layers)


def sample_page(folder: Path, shown: Picture | None) -> Path:
    write_sample_page(assessment(), folder, shown)
    return folder / "report.html"


def map_page(folder: Path) -> Path:
    classes = zip(NAMES, COLORS, strict=True)
    taxonomy = Taxonomy(
        classes=tuple(LandCoverClass(code=code, name=name, color=color) for code, (name, color) in enumerate(classes))
    )
    matrix = np.array([[50, 3, 0], [4, 60, 0], [0, 0, 0]])
    reference = np.zeros((20, 30), np.uint8)
    shown = picture(reference=reference)
    write_map_page(
        MapAssessment("map.tif", "truth.tif", taxonomy, matrix, compute_metrics(matrix), "pixels", 7, shown), folder
    )
    return folder / "report.html"


def held(path: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_of_a_sample_holds_areas_with_intervals_and_the_design(tmp_path: Path) -> None:
    told, result = held(sample_page(tmp_path, None)), assessment()
    for entry, own in zip(told["classes"], result.classes, strict=True):
        assert own.area_ha is not None
        assert entry["area_ha"] == own.area_ha.value
        assert entry["intervals"]["area_ha"] == [own.area_ha.low, own.area_ha.high]
    assert told["matrix"] == [list(row) for row in result.matrix]
    assert [row["points"] for row in told["design"]["strata"]] == [50, 70, 80]
    assert told["picture"] is None


def test_the_summary_names_the_class_whose_mapped_area_is_wrong(tmp_path: Path) -> None:
    """The map shows 18,000 ha of the first class. The estimate is 14,400 ha, and its interval ends below 18,000."""
    text = sample_page(tmp_path, None).read_text("utf-8")
    assert "The map shows more 水体 than there is: 18,000 ha, but the estimate is 14,400 ha" in text
    assert 'class="warning">10 of 210 points' in text


def test_no_class_name_becomes_markup(tmp_path: Path) -> None:
    for path in (sample_page(tmp_path, picture()), map_page(tmp_path)):
        text = path.read_text("utf-8")
        assert text.count("</script>") == 2 and "alert(1)</script>" not in text


@needs_chromium
@pytest.mark.parametrize("width", [1200, 360])
def test_a_browser_shows_the_page_of_a_sample_without_error(tmp_path: Path, width: int) -> None:
    shown = press_everything(sample_page(tmp_path, picture()), tmp_path / "profile", width)
    titles = ["Areas", "Areas with the model’s help", "Accuracy by class", "Confusions", "Map and points"]
    for title in (*titles, "Agreement of interpreters", "Strata"):
        assert f">{title}<" in shown
    assert shown.count("<canvas") == 1 and shown.count('class="wrong"') == 1
    assert "水体" in shown and "14,400" in shown


@needs_chromium
def test_a_browser_shows_the_page_of_a_comparison_without_error(tmp_path: Path) -> None:
    shown = press_everything(map_page(tmp_path), tmp_path / "profile", 1200)
    assert shown.count("<canvas") == 2 and "7 pixels of the reference are left out" in shown
