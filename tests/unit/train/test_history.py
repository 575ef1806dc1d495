"""What a run tells of itself stands in two places alike, once an epoch, also after an interruption."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch import Tensor

from cwsam_cli.metrics.history import HISTORY, read_history
from cwsam_cli.model.experts import HierarchicalExperts, collect_routing
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from cwsam_cli.train.history import (
    HistoryWriter,
    format_history,
    read_memory,
    summarize_routing,
)


def _watch(folder: Path, epoch: int, *rows: tuple[int, dict[str, float | None]]) -> None:
    history = HistoryWriter(folder, epoch)
    for number, values in rows:
        history.write(number, values)
    history.close()


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_history_and_events_hold_the_same_figures(tmp_path: Path) -> None:
    _watch(tmp_path, 0, (1, {"train/loss": 0.5, "val/mIoU": None}), (2, {"train/loss": 0.25, "val/mIoU": 0.125}))
    assert read_history(tmp_path / HISTORY) == [
        {"epoch": 1, "train/loss": 0.5},
        {"epoch": 2, "train/loss": 0.25, "val/mIoU": 0.125},
    ]
    assert _events(tmp_path) == {"train/loss": [(1, 0.5), (2, 0.25)], "val/mIoU": [(2, 0.125)]}


def test_what_json_has_no_word_for_is_left_out(tmp_path: Path) -> None:
    """The norm of a gradient that overflowed in fp16, for one."""
    _watch(tmp_path, 0, (1, {"train/loss": 0.5, "train/gradient_norm": math.inf, "val/mIoU": math.nan}))
    assert (tmp_path / HISTORY).read_text() == '{"epoch": 1, "train/loss": 0.5}\n'


def test_each_line_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    history = HistoryWriter(tmp_path, 0)
    history.write(1, {"train/loss": 0.5})
    assert [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()] == [
        {"epoch": 1, "train/loss": 0.5}
    ]
    assert _events(tmp_path) == {"train/loss": [(1, 0.5)]}
    history.close()


def test_going_on_repeats_no_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files of one second are read in the order of their numbers as text, in which 10 comes before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    _watch(tmp_path, 0, *[(epoch, {"train/loss": float(epoch)}) for epoch in (1, 2, 3, 4)])
    _watch(tmp_path, 2, (3, {"train/loss": 30.0}))
    assert [(row["epoch"], row["train/loss"]) for row in read_history(tmp_path / HISTORY)] == [(1, 1), (2, 2), (3, 30)]
    assert _events(tmp_path)["train/loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_line_that_was_cut_off_is_left_out_and_written_anew(tmp_path: Path) -> None:
    _watch(tmp_path, 0, (1, {"train/loss": 1.0}), (2, {"train/loss": 2.0}))
    path = tmp_path / HISTORY
    path.write_text(path.read_text()[:-8])
    assert [row["epoch"] for row in read_history(path)] == [1]
    _watch(tmp_path, 1, (2, {"train/loss": 20.0}))
    assert [row["train/loss"] for row in read_history(path)] == [1.0, 20.0]


def test_without_a_history_there_are_no_rows(tmp_path: Path) -> None:
    assert read_history(tmp_path / HISTORY) == []


TABLE = Taxonomy(
    classes=(
        LandCoverClass(code=7, name="water", color="#0000ff"),
        LandCoverClass(code=3, name="forest", color="#008000"),
    )
)


def _shown(folder: Path, image: Tensor, label: Tensor, best: Tensor) -> NDArray[np.uint8] | None:
    """What TensorBoard would show, (H, W, 3)."""
    history = HistoryWriter(folder, 0)
    history.write_images(3, image, label, best, TABLE)
    history.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    if not events.Tags()["images"]:
        return None
    ((tag,), (event,)) = events.Tags()["images"], events.Images(events.Tags()["images"][0])
    assert event.step == 3 and "prediction" in tag
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_tiles_are_shown_beside_their_labels_and_predictions(tmp_path: Path, bands: int) -> None:
    label = torch.tensor([[[0, 1], [255, 255]]], dtype=torch.uint8).repeat_interleave(4, 1).repeat_interleave(4, 2)
    picture = _shown(tmp_path, torch.zeros(1, bands, 8, 8), label, 1 - label.clamp(max=1))
    assert picture is not None and picture.shape == (8, 24, 3)
    assert (picture[:, :8] == 128).all()
    blue, green = [0, 0, 255], [0, 128, 0]
    assert picture[0, 8].tolist() == blue and picture[0, 15].tolist() == green
    assert picture[0, 16].tolist() == green and picture[0, 23].tolist() == blue
    unlabelled = picture[7, 8].tolist()
    assert len(set(unlabelled)) == 1 and unlabelled not in (blue, green)  # grey


def test_a_few_tiles_of_many_are_shown_and_none_of_none(tmp_path: Path) -> None:
    many = torch.zeros(9, 8, 8, dtype=torch.uint8)
    picture = _shown(tmp_path / "many", torch.randn(9, 3, 8, 8) * 100, many, many)
    assert picture is not None
    assert 8 <= picture.shape[0] < 9 * 8 and picture.shape[1] == 24
    assert _shown(tmp_path / "none", torch.empty(0, 3, 8, 8), many[:0], many[:0]) is None


def test_the_routing_of_each_layer_is_told_by_group_and_expert() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(HierarchicalExperts(8, 8, groups=2, experts=3, top_groups=1, top_experts=2))
    assert summarize_routing({}) == {}
    with collect_routing(model.train()) as routing:
        model(torch.randn(40, 8))
    counts = routing["0"].counts
    figures = summarize_routing({"0": counts})
    groups = [figures[f"load/0/group_{group}"] for group in range(2)]
    experts = [[figures[f"load/0/group_{g}/expert_{e}"] for e in range(3)] for g in range(2)]
    assert sum(groups) == pytest.approx(1)
    assert [sum(own) for own in experts] == pytest.approx(groups)
    assert figures["routing_entropy/0"] == pytest.approx(counts.entropy.item())
    assert len(figures) == 1 + 2 + 6


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_the_memory_of_this_process_is_told_in_bytes(device: str) -> None:
    (value,) = read_memory(torch.device(device)).values()
    assert 2e7 < value < 1e12


def _rows(count: int, every: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(1, count + 1):
        row = {"epoch": epoch, "train/loss": 1 / epoch, "train/lr": 1e-3, "train/images_per_s": 7.0}
        rows.append(row | ({"val/mIoU": epoch / 1000, "val/accuracy": 0.5} if epoch % every == 0 else {}))
    return rows


def test_a_summary_shows_validated_epochs_and_the_last_of_them() -> None:
    lines = format_history(_rows(10, 3)).splitlines()
    assert lines[0].split() == ["epoch", "loss", "mIoU", "accuracy", "lr", "images/s"]
    assert [line.split()[0] for line in lines[1:]] == ["3", "6", "9"]
    assert lines[-1].split() == ["9", "0.111", "0.009", "0.500", "1.00e-03", "7.0"]


@pytest.mark.parametrize("count", [11, 12, 13, 24, 25, 100, 1000])
def test_a_summary_of_a_long_run_has_about_a_dozen_lines(count: int) -> None:
    lines = format_history(_rows(count, 1)).splitlines()
    epochs = [int(line.split()[0]) for line in lines[1:]]
    assert 6 <= len(epochs) <= 12
    assert epochs[-1] == count and epochs == sorted(set(epochs))


def test_a_summary_of_nothing_is_its_heading() -> None:
    assert len(format_history(_rows(2, 3)).splitlines()) == 1


@pytest.mark.parametrize("line", ["[1]", "3", "{}", '{"epoch": "one"}', "[" * 100_000, "\ufffd"])
def test_lines_from_the_first_damaged_one_on_are_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / HISTORY
    path.write_text('{"epoch": 1}\n' + line + '\n{"epoch": 2}\n', encoding="utf-8")
    assert read_history(path) == [{"epoch": 1}]
