"""The page is one file, shows every class in any script, and raises no error in a browser."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cwsam_cli.assess.evaluation import Evaluation
from cwsam_cli.assess.report import Origin, as_dict, write_report
from cwsam_cli.report.pictures import Picture, Pictures
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from tests.browser import needs_chromium, press_everything
from tests.unit.assess.counted import evaluation

NAMES = ["水体", "</script><script>alert(1)</script>", 'forest & "wood"', "absent"]
TAXONOMY = Taxonomy(
    classes=tuple(
        LandCoverClass(code=code, name=name, color=color)
        for code, (name, color) in enumerate(zip(NAMES, ["#0000ff", "#ff0000", "#00ff00", "#123456"], strict=True))
    )
)
HISTORY = [{"epoch": epoch, "train/loss": 2 / epoch, "val/mIoU": epoch / 9, "load": 1.0} for epoch in range(1, 6)]


def result(blocks: int = 12) -> Evaluation:
    matrices = np.random.default_rng(0).integers(1, 50, (blocks, 4, 4))
    matrices[:, 3] = 0
    return evaluation(matrices, TAXONOMY, groups=2, distances_m=np.arange(blocks) * 700.0)


def picture(title: str) -> Picture:
    rng = np.random.default_rng(1)
    index = rng.choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
    return Picture(title, index[::-1], index, rng.integers(0, 255, (20, 30, 4)).astype(np.uint8))


def page(folder: Path, blocks: int = 12, **changes: Any) -> Path:
    origin = {"checkpoint": Path("save/模型.pth"), "checkpoint_sha256": "ab" * 32, "data": "ground"}
    origin |= {"split": "test", "history": HISTORY, "facts": (("command", "cwsam eval <x>"),)}
    origin |= {"configuration": "model: {name: sam_tiny}"}
    pictures = Pictures((picture("scene.tif"),), (picture("tile <1>"),))
    write_report(result(blocks), folder, Origin(**origin | changes), pictures)
    return folder / "report.html"


def data(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_needs_no_network_and_holds_every_figure(tmp_path: Path) -> None:
    text = page(tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(|fetch\(|XMLHttpRequest""", text)
    held, known = data(text), json.loads(json.dumps(as_dict(result())))
    assert {name: held[name] for name in known if name != "classes"} == {
        name: value for name, value in known.items() if name != "classes"
    }
    assert [row["name"] for row in held["classes"]] == NAMES
    assert np.array(held["matrix"]).sum() == held["pixels"]


def test_no_class_name_becomes_markup(tmp_path: Path) -> None:
    text = page(tmp_path).read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "alert(1)</script>" not in text


def test_doubts_about_intervals_stand_beside_the_summary(tmp_path: Path) -> None:
    few, many = (page(tmp_path / str(count), blocks=count).read_text(encoding="utf-8") for count in (3, 12))
    assert 'class="warning"' in few and "not reliable" in few
    assert '<p class="warning"' not in many


@needs_chromium
@pytest.mark.parametrize(("width", "changes"), [(1200, {}), (360, {"history": (), "facts": (), "configuration": ""})])
def test_no_script_error_in_a_browser_also_when_everything_is_pressed(
    tmp_path: Path, width: int, changes: dict[str, Any]
) -> None:
    shown = press_everything(page(tmp_path, **changes), tmp_path / "profile", width)
    assert "水体" in shown and 'forest &amp; "wood"' in shown
    assert shown.count("<canvas") == 4
    assert (">Learning curves<" in shown) == (not changes)
    assert ">group 1<" in shown and "to 7.7 km<" in shown
