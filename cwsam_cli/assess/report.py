"""Format accuracy as a table for people, as JSON for programs and as CSV for spreadsheets."""

import csv
import dataclasses
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

from cwsam_cli.files import write_text
from cwsam_cli.metrics.confusion import Matrix, Metrics
from cwsam_cli.taxonomy import Taxonomy

METRICS = "metrics.json"


def as_dict(metrics: Metrics, taxonomy: Taxonomy) -> dict[str, Any]:
    """Convert the metrics to plain values. Classes without reference pixels are marked as absent."""
    overall = dataclasses.asdict(metrics)
    overall.pop("classes")
    return overall | {
        "classes": [
            {"code": entry.code, "name": entry.name, "absent": not row.support} | dataclasses.asdict(row)
            for entry, row in zip(taxonomy.classes, metrics.classes, strict=True)
        ]
    }


def as_table(metrics: Metrics, taxonomy: Taxonomy) -> str:
    """Format a table for the terminal."""
    wide = max(12, *map(_columns, taxonomy.names))
    lines = [f"{'class':<{wide}}  {'IoU':>6} {'prec.':>6} {'recall':>6} {'F1':>6} {'support':>11}"]
    for name, row in zip(taxonomy.names, metrics.classes, strict=True):
        figures = " ".join(_figure(value) for value in (row.iou, row.precision, row.recall, row.f1))
        note = "  absent from the reference" if not row.support else ""
        lines.append(f"{name}{' ' * (wide - _columns(name))}  {figures} {row.support:>11,}{note}")
    lines.append("")
    for name, value in (
        ("mean IoU", metrics.mean_iou),
        ("mean F1", metrics.mean_f1),
        ("overall accuracy", metrics.accuracy),
        ("frequency-weighted IoU", metrics.frequency_weighted_iou),
    ):
        lines.append(f"{name:<24}{_figure(value)}")
    return "\n".join(lines)


def write_report(matrix: Matrix, metrics: Metrics, taxonomy: Taxonomy, folder: Path, about: dict[str, Any]) -> None:
    """Write `metrics.json` and `confusion_matrix.csv` (rows reference, columns map)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | as_dict(metrics, taxonomy), indent=2, ensure_ascii=False)
    write_text(folder / METRICS, text + "\n")
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    names = [_cell(name) for name in taxonomy.names]
    writer.writerow(["reference \\ map", *names])
    for name, counts in zip(names, matrix.tolist(), strict=True):
        writer.writerow([name, *counts])
    write_text(folder / "confusion_matrix.csv", rows.getvalue())


def _cell(text: str) -> str:
    """Quote a name that a spreadsheet would run as a formula."""
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


def _columns(text: str) -> int:
    """Count the columns of a text on a terminal. Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _figure(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value:6.3f}"
