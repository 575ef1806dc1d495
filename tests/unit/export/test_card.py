"""The card says what the model knows, and what it does not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cwsam_cli.checkpoints.checkpoint import save_checkpoint
from cwsam_cli.errors import DataError
from cwsam_cli.export.card import write_card
from cwsam_cli.export.ground import TrainingGround
from cwsam_cli.export.scores import Scores, read_scores
from cwsam_cli.files import sha256
from tests.unit.export.test_network import checkpoint

GROUND = TrainingGround(tiles={"train": 1200}, bounds=(-79.0, 35.5, -78.5, 36.0), shares=(0.1, 0.2, 0.695, 0.005))


def report(folder: Path, digest: str, **changes: Any) -> Path:
    """A report with the keys of `metrics.json` that a card needs."""
    rows = [
        {"name": name, "iou": iou, "precision": iou, "recall": iou, "support": support, "intervals": {"iou": ends}}
        for name, iou, support, ends in (
            ("nothing", 0.25, 900, [0.2, 0.3]),
            ("水体", 0.5, 80, [0.4, 0.6]),
            ("forest", 0.75, 70, None),
            ("road", None, 0, None),
        )
    ]
    raw = {
        "checkpoint_sha256": digest,
        "split": "test",
        "accuracy": 0.875,
        "mean_iou": 0.5,
        "intervals": {"accuracy": [0.8, 0.9], "mean_iou": None},
        "classes": rows,
        "summary": "Overall accuracy 0.88.",
        "blocks": {"is_reliable": False},
    }
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(raw | changes), "utf-8")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_checkpoint(checkpoint(), tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.fixture
def scores(model: Path, tmp_path: Path) -> Scores:
    return read_scores(report(tmp_path / "report", sha256(model)), model)


def text(scores: Scores | None = None, ground: TrainingGround = GROUND, **changes: Any) -> str:
    about = dataclasses.replace(checkpoint(), **changes)
    return write_card("first", "model.onnx", "feed", about, ground, scores)


def test_a_card_begins_with_metadata_that_hugging_face_reads(scores: Scores) -> None:
    _, head, _ = text(scores).split("---\n", 2)
    read = yaml.safe_load(head)
    assert read["pipeline_tag"] == "image-segmentation" and "land-cover" in read["tags"]
    (result,) = read["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.875}, {"type": "mean_iou", "value": 0.5}]


def test_a_card_names_classes_bands_and_ground() -> None:
    card = text()
    assert "| 1 | 水体 | `" in card and "| 20.0 % |" in card
    assert "| g | 80 | 100 |" in card
    assert "1,200 train" in card and "west -79.0000, south 35.5000, east -78.5000, north 36.0000" in card
    assert "SHA-256 of the weights: `feed`" in card and "cwsam predict scene.tif -c model.onnx" in card


def test_a_card_has_scores_with_their_intervals(scores: Scores) -> None:
    card = text(scores)
    assert "| accuracy | 0.875 | 0.800 to 0.900 |" in card and "| mean_iou | 0.500 | - |" in card
    assert "| 水体 | 0.500 | 0.400 to 0.600 | 0.500 | 0.500 | 80 |" in card
    assert "| road | - | - | - | - | 0 |" in card


def test_limits_follow_from_what_is_known(scores: Scores) -> None:
    card = text(scores)
    for limit in ("less than 1 % of the training pixels each: road", "not calibrated", "few blocks"):
        assert limit in card
    assert "classes without labelled pixels: road" in card and "too high" not in card
    assert "The accuracy is too high, because the val split" in text(dataclasses.replace(scores, split="val"))
    assert "The class nothing counted as unlabelled" in text(scores, ignore_background=True)


def test_without_dataset_and_report_the_card_says_that_it_does_not_know() -> None:
    card = text(None, TrainingGround(tiles={}), gsd_m=None)
    for words in (
        "Tiles: unknown",
        "bounding box is unknown",
        "Pixel size: unknown",
        "accuracy on test ground is unknown",
    ):
        assert words in card
    assert "model-index" not in card


def test_a_report_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="measures another model"):
        read_scores(report(tmp_path / "report", "0" * 64), model)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"checkpoint_sha256": "1"}'])
def test_what_is_no_report_is_refused(model: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match="is not a report") as caught:
        read_scores(tmp_path, model)
    assert "cwsam eval" in caught.value.hint
