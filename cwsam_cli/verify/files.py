"""Write assessments as a page for the browser, as JSON for programs and as CSV for spreadsheets."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cwsam_cli.files import csv_text, refuse_existing, refuse_foreign, staged, write_text
from cwsam_cli.report.pictures import Picture
from cwsam_cli.survey.results import ClassEstimates, SampleAssessment
from cwsam_cli.verify.mapped import MapAssessment
from cwsam_cli.verify.pages import write_map_page, write_sample_page
from cwsam_cli.verify.plain import map_dict, sample_dict

METRICS = "metrics.json"
_NAMES = ("report", "metrics", "areas", "classes", "strata", "interpreters", "confusion_matrix")
_ESTIMATES = ("area_ha", "share", "users", "producers", "assisted_ha", "assisted_share")
_PARTS = ("value", "standard_error", "low", "high")


def refuse_output(folder: Path, *, overwrite: bool) -> None:
    """Raise an error if a report's folder exists and must not be replaced.

    Raises:
        UsageError: the folder exists, or contains files of other programs.
    """
    refuse_existing(folder, overwrite=overwrite, marker=METRICS)
    refuse_foreign(folder, _NAMES)


def write_sample_files(result: SampleAssessment, folder: Path, picture: Picture | None, *, overwrite: bool) -> None:
    """Write the report of a sample.

    The folder receives `report.html`, `metrics.json`, `areas.csv`, `strata.csv`, `interpreters.csv` if there are
    several, and `confusion_matrix.csv` (area proportions; rows map, columns reference).

    Args:
        result: the estimates.
        folder: the folder.
        picture: the map with the points; None leaves it out.
        overwrite: whether an older report is replaced.
    """
    with _folder(folder, sample_dict(result), overwrite=overwrite) as made:
        names = [entry.name for entry in result.classes]
        rows = [[name, *row] for name, row in zip(names, result.matrix, strict=True)]
        _write_csv(made / "confusion_matrix.csv", ["map \\ reference", *names], rows)
        columns = [f"{name}_{part}" for name in _ESTIMATES for part in _PARTS]
        head = ["code", "class", "points_in_map", "points_in_reference", "mapped_share", "mapped_ha", *columns, "note"]
        _write_csv(made / "areas.csv", head, [_row(entry) for entry in result.classes])
        strata = zip(result.design.strata, result.interpreted_by_stratum, strict=True)
        fields = ["number", "name", "pixels", "blocks", "area_m2", "points"]
        found = [[*(getattr(stratum, field) for field in fields), interpreted] for stratum, interpreted in strata]
        _write_csv(made / "strata.csv", [*fields, "interpreted"], found)
        if result.agreements:
            fields = ["first", "second", "points", "agreement", "kappa"]
            pairs = [[getattr(pair, field) for field in fields] for pair in result.agreements]
            _write_csv(made / "interpreters.csv", fields, pairs)
        write_sample_page(result, made, picture)


def write_map_files(result: MapAssessment, folder: Path, *, overwrite: bool) -> None:
    """Write `report.html`, `metrics.json`, `classes.csv` and `confusion_matrix.csv` (rows reference, columns map)."""
    with _folder(folder, map_dict(result), overwrite=overwrite) as made:
        names = result.taxonomy.names
        rows = [[name, *row] for name, row in zip(names, result.matrix.tolist(), strict=True)]
        _write_csv(made / "confusion_matrix.csv", ["reference \\ map", *names], rows)
        classes = map_dict(result)["classes"]
        _write_csv(made / "classes.csv", list(classes[0]), [list(row.values()) for row in classes])
        write_map_page(result, made)


@contextmanager
def _folder(folder: Path, metrics: dict[str, Any], *, overwrite: bool) -> Iterator[Path]:
    with staged(folder, overwrite=overwrite, marker=METRICS) as made:
        made.mkdir()
        write_text(made / METRICS, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        yield made


def _row(entry: ClassEstimates) -> list[Any]:
    figures = [
        None if estimate is None else getattr(estimate, part)
        for estimate in (getattr(entry, name) for name in _ESTIMATES)
        for part in _PARTS
    ]
    counts = [entry.points_in_map, entry.points_in_reference, entry.mapped_share, entry.mapped_ha]
    return [entry.code, entry.name, *counts, *figures, entry.note]


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    write_text(path, csv_text([head, *rows]))
