"""Format accuracy as a table for people, as JSON for programs and as CSV for spreadsheets."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cwsam_cli.assess.breakdown import PartResult
from cwsam_cli.assess.evaluation import Evaluation, Interval
from cwsam_cli.assess.request import METRICS
from cwsam_cli.assess.words import describe_blocks, list_limits, summarize
from cwsam_cli.console import padded, text_width
from cwsam_cli.files import csv_text, write_text
from cwsam_cli.report.page import PAGE, write_page
from cwsam_cli.report.pictures import Pictures

NAMES = (
    "report",
    "metrics",
    "confusion_matrix",
    "classes",
    "scenes",
    "tiles",
    "reliability",
    "expert_groups",
    "distances_from_training",
)
"""Names of a report's files, without suffixes."""
VERSION = 1
"""Version of the schema of `metrics.json`."""
OVERALL = {
    "accuracy": "overall accuracy",
    "mean_iou": "mean IoU",
    "mean_f1": "mean F1",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "kappa": "kappa",
    "mean_boundary_f1": "mean boundary F1",
    "calibration_error": "calibration error",
}
"""Titles of the overall figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the figures come from."""

    checkpoint: Path
    checkpoint_sha256: str
    data: str
    split: str
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    """Names and values about the model and the data, for the page."""
    configuration: str = ""
    """Configuration of the training run, as YAML."""
    history: Sequence[Mapping[str, float]] = ()
    """Figures of the training run by epoch; see `read_history`."""


def as_dict(result: Evaluation) -> dict[str, Any]:
    """Convert an evaluation to plain values. Classes without reference pixels are marked as absent."""
    overall = dataclasses.asdict(result.metrics)
    overall.pop("classes")
    return overall | {
        "mean_boundary_f1": result.mean_boundary_f1,
        "boundary_tolerance": result.tolerance,
        "calibration_error": result.calibration_error,
        "blocks": {"count": result.blocks, "are_tiles": not result.has_blocks, "is_reliable": result.is_reliable},
        "intervals": dict(result.intervals),
        "classes": [_class_dict(result, index) for index in range(len(result.taxonomy))],
        "scenes": [dataclasses.asdict(scene) for scene in result.scenes],
        "expert_groups": [dataclasses.asdict(part) for part in result.experts],
        "distances_from_training": [dataclasses.asdict(part) for part in result.distances],
        "worst_tiles": [dataclasses.asdict(tile) for tile in result.worst],
        "reliability": _reliability(result),
    }


def _class_dict(result: Evaluation, index: int) -> dict[str, Any]:
    entry, row = result.taxonomy.classes[index], result.metrics.classes[index]
    return {
        "code": entry.code,
        "name": entry.name,
        "absent": not row.support,
        **dataclasses.asdict(row),
        "boundary_f1": result.boundary_f1[index],
        "blocks": result.class_blocks[index],
        "intervals": {name: values[index] for name, values in result.class_intervals.items()},
    }


def _reliability(result: Evaluation) -> list[dict[str, float | None]]:
    """Return each bin of confidence: its ends, its pixels, their accuracy and their mean confidence."""
    ends = [number / len(result.bins) for number in range(len(result.bins) + 1)]
    return [
        {
            "from": low,
            "to": high,
            "pixels": int(pixels),
            "accuracy": right / pixels if pixels else None,
            "confidence": total / pixels if pixels else None,
        }
        for low, high, (pixels, right, total) in zip(ends, ends[1:], result.bins.tolist(), strict=False)
    ]


def as_table(result: Evaluation) -> str:
    """Format a table for the terminal."""
    names = result.taxonomy.names
    wide = max(12, *map(text_width, names))
    heads = ("IoU", "95 % interval", "prec.", "recall", "F1", "bound.", "support")
    lines = [f"{'class':<{wide}}  {heads[0]:>6} {heads[1]:>14} " + " ".join(f"{head:>6}" for head in heads[2:6])]
    lines[0] += f" {heads[6]:>11}"
    rows = zip(names, result.metrics.classes, result.boundary_f1, result.class_intervals["iou"], strict=True)
    for name, row, boundary, ends in rows:
        figures = " ".join(_figure(value) for value in (row.precision, row.recall, row.f1, boundary))
        note = "  absent from the reference" if not row.support else ""
        lines.append(f"{padded(name, wide)}  {_figure(row.iou)} {_ends(ends)} {figures} {row.support:>11,}{note}")
    lines.append("")
    overall = as_dict(result)
    for name, title in OVERALL.items():
        lines.append(f"{title:<24}{_figure(overall[name])} {_ends(result.intervals[name])}")
    kind = "blocks" if result.has_blocks else "tiles"
    lines += _part_lines("group of experts", result.experts, kind)
    lines += _part_lines("from training ground", result.distances, kind)
    return "\n".join([*lines, "", describe_blocks(result)])


def _part_lines(title: str, parts: Sequence[PartResult], kind: str) -> list[str]:
    if not parts:
        return []
    wide = max(len(title), *(len(part.part) for part in parts)) + 2
    lines = [
        f"{part.part:<{wide}}{_figure(part.accuracy)} {_ends(part.interval)} {part.pixels:>11,} {part.blocks:>7,}"
        for part in parts
    ]
    return ["", f"{title:<{wide}}{'accur.':>6} {'95 % interval':>14} {'support':>11} {kind:>7}", *lines]


def write_report(result: Evaluation, folder: Path, origin: Origin, pictures: Pictures | None = None) -> None:
    """Write the files of a report.

    Args:
        result: the figures.
        folder: the folder, which is made.
        origin: model, data and command.
        pictures: pictures for the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(result, folder)
    _write_page(result, folder / PAGE, origin, pictures or Pictures((), ()))
    names = ("checkpoint", "checkpoint_sha256", "data", "split", "command")
    about = {name: str(getattr(origin, name)) for name in names}
    told = {"version": VERSION} | about | {"summary": " ".join(summarize(result))} | as_dict(result)
    write_text(folder / METRICS, json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write_page(result: Evaluation, path: Path, origin: Origin, pictures: Pictures) -> None:
    figures = as_dict(result)
    colors = [entry.color for entry in result.taxonomy.classes]
    classes = [row | {"color": color} for row, color in zip(figures["classes"], colors, strict=True)]
    curves = ("epoch", "train/loss", "val/mIoU", "val/accuracy")
    data = figures | {
        "classes": classes,
        "matrix": result.matrix.tolist(),
        "pictures": {
            "places": [picture.as_dict() for picture in pictures.places],
            "worst": [picture.as_dict() for picture in pictures.worst],
        },
        "history": [{name: row[name] for name in curves if name in row} for row in origin.history],
        "facts": origin.facts,
        "configuration": origin.configuration,
        "limits": list_limits(result),
    }
    is_doubtful = not (result.is_reliable and result.has_blocks)
    blocks = [describe_blocks(result)]
    write_page(
        path,
        data,
        Path(__file__).with_name("page.js"),
        title=f"{origin.checkpoint.parent.name}/{origin.checkpoint.name}".lstrip("/"),
        origin=f"Measured on the {origin.split} split of {origin.data}",
        summary=[*summarize(result), *([] if is_doubtful else blocks)],
        warnings=blocks if is_doubtful else [],
    )


def _write_tables(result: Evaluation, folder: Path) -> None:
    names = result.taxonomy.names
    counts = zip(names, result.matrix.tolist(), strict=True)
    _write_csv(folder / "confusion_matrix.csv", ["reference \\ map", *names], [[name, *row] for name, row in counts])
    columns = ["iou", "precision", "recall", "f1", "boundary_f1"]
    head = ["code", "class", "support", "predicted", "blocks", *columns]
    head += [f"{name}_{end}" for name in columns for end in ("low", "high")]
    rows = []
    for index, name in enumerate(names):
        entry = _class_dict(result, index)
        ends = [end for column in columns for end in entry["intervals"][column] or ("", "")]
        rows.append([entry["code"], name, *(entry[key] for key in [*head[2:5], *columns]), *ends])
    _write_csv(folder / "classes.csv", head, rows)
    for file, items in (("scenes.csv", result.scenes), ("tiles.csv", result.tiles)):
        dicts = [dataclasses.asdict(item) for item in items]
        _write_csv(folder / file, list(dicts[0]), [list(item.values()) for item in dicts])
    head = ["part", "blocks", "pixels", "accuracy", "accuracy_low", "accuracy_high"]
    for name, parts in (("expert_groups", result.experts), ("distances_from_training", result.distances)):
        if parts:
            rows = [[p.part, p.blocks, p.pixels, p.accuracy, *(p.interval or ("", ""))] for p in parts]
            _write_csv(folder / f"{name}.csv", head, rows)
    bins = _reliability(result)
    _write_csv(folder / "reliability.csv", list(bins[0]), [list(row.values()) for row in bins])


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    write_text(path, csv_text([head, *rows]))


def _figure(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value:6.3f}"


def _ends(ends: Interval) -> str:
    return f"{'-':>14}" if ends is None else f"{f'{ends[0]:.3f} to {ends[1]:.3f}':>14}"
