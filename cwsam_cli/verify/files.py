"""Write assessments as JSON for programs and as CSV for spreadsheets."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cwsam_cli.files import csv_text, refuse_existing, refuse_foreign, staged, write_text
from cwsam_cli.survey.results import ClassEstimates, SampleAssessment
from cwsam_cli.verify.mapped import MapAssessment

METRICS = "metrics.json"
_NAMES = ("metrics", "areas", "confusion_matrix")
_VERSION = 1
"""Version of the schema of `metrics.json`."""
_ESTIMATES = ("area_ha", "share", "users", "producers")
_PARTS = ("value", "standard_error", "low", "high")


def sample_dict(result: SampleAssessment) -> dict[str, Any]:
    """Convert the assessment of a sample to plain values."""
    return {"version": _VERSION} | dataclasses.asdict(result)


def map_dict(result: MapAssessment) -> dict[str, Any]:
    """Convert the comparison with a reference to plain values."""
    overall = dataclasses.asdict(result.metrics)
    overall.pop("classes")
    classes = [
        {"code": entry.code, "name": entry.name, "absent": not row.support} | dataclasses.asdict(row)
        for entry, row in zip(result.taxonomy.classes, result.metrics.classes, strict=True)
    ]
    origin = {"map": result.map, "reference": result.reference, "unit": result.unit, "left_out": result.left_out}
    return {"version": _VERSION} | origin | overall | {"classes": classes}


def refuse_output(folder: Path, *, overwrite: bool) -> None:
    """Raise an error if a report's folder exists and must not be replaced.

    Raises:
        UsageError: the folder exists, or contains files of other programs.
    """
    refuse_existing(folder, overwrite=overwrite, marker=METRICS)
    refuse_foreign(folder, _NAMES)


def write_sample_files(result: SampleAssessment, folder: Path, *, overwrite: bool) -> None:
    """Write `metrics.json`, `areas.csv` and `confusion_matrix.csv` (area proportions; rows map, columns reference)."""
    with _folder(folder, sample_dict(result), overwrite=overwrite) as made:
        names = [entry.name for entry in result.classes]
        rows = [[name, *row] for name, row in zip(names, result.matrix, strict=True)]
        _write_csv(made / "confusion_matrix.csv", ["map \\ reference", *names], rows)
        columns = [f"{name}_{part}" for name in _ESTIMATES for part in _PARTS]
        head = ["code", "class", "points_in_map", "points_in_reference", "mapped_share", "mapped_ha", *columns, "note"]
        _write_csv(made / "areas.csv", head, [_row(entry) for entry in result.classes])


def write_map_files(result: MapAssessment, folder: Path, *, overwrite: bool) -> None:
    """Write `metrics.json` and `confusion_matrix.csv` (rows reference, columns map)."""
    with _folder(folder, map_dict(result), overwrite=overwrite) as made:
        names = result.taxonomy.names
        rows = [[name, *row] for name, row in zip(names, result.matrix.tolist(), strict=True)]
        _write_csv(made / "confusion_matrix.csv", ["reference \\ map", *names], rows)


@contextmanager
def _folder(folder: Path, metrics: dict[str, Any], *, overwrite: bool) -> Iterator[Path]:
    with staged(folder, overwrite=overwrite, marker=METRICS) as made:
        made.mkdir()
        write_text(made / METRICS, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        yield made


def _row(entry: ClassEstimates) -> list[Any]:
    figures = [
        None if estimate is None else getattr(estimate, part)
        for estimate in (entry.area_ha, entry.share, entry.users, entry.producers)
        for part in _PARTS
    ]
    counts = [entry.points_in_map, entry.points_in_reference, entry.mapped_share, entry.mapped_ha]
    return [entry.code, entry.name, *counts, *figures, entry.note]


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    write_text(path, csv_text([head, *rows]))
