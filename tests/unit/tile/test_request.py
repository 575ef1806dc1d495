"""A wish that contradicts itself is refused."""

from pathlib import Path
from typing import Any

import pytest

from cwsam_cli.errors import UsageError
from cwsam_cli.tile.lengths import Length
from cwsam_cli.tile.request import TileRequest

SCENE, LABELS = "scene.tif", Path("labels.tif")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"overlap": 512}, "overlap of 512"),
        ({"overlap": -1}, "overlap of -1"),
        ({"shares": (0, 50, 50)}, "--split"),
        ({"shares": (70, -1, 31)}, "--split"),
        ({"shares": (float("nan"), 0, 0)}, "--split"),
        ({"scenes": (SCENE, SCENE)}, "given twice"),
        ({"output": LABELS}, "is an input"),
        ({"preview": Path("dataset/deep/sheet.png")}, "lies inside the dataset"),
        ({"workers": 2, "scheduler": "tcp://host:8786"}, "--workers is for this machine"),
        ({"split_by": "date", "buffer": Length(500, "m")}, "--buffer"),
    ],
)
def test_what_contradicts_itself_is_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        TileRequest(**{"scenes": (SCENE,), "labels": LABELS, "output": Path("dataset")} | values)


def test_paths_for_workers_hold_in_every_folder() -> None:
    request = TileRequest(
        scenes=(SCENE, "https://example.org/b.tif"),
        labels=Path("labels/{stem}.tif"),
        labels_for=((SCENE, LABELS), ("b", LABELS)),
        output=Path("dataset"),
    ).for_workers()
    here = Path.cwd()
    assert request.scenes == (str(here / SCENE), "https://example.org/b.tif")
    assert request.labels_for == ((str(here / SCENE), here / LABELS), ("b", here / LABELS))
    assert (request.labels, request.output) == (here / "labels/{stem}.tif", here / "dataset")
