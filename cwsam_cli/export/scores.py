"""The accuracy of a model, from a report of `cwsam eval`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cwsam_cli.errors import DataError
from cwsam_cli.files import sha256

_FILE = "metrics.json"
Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Scores of one class; None if the class has no reference pixels."""

    name: str
    iou: float | None
    interval: Interval
    """95 % interval of the IoU."""
    precision: float | None
    recall: float | None
    support: int
    """Labelled pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Figures of a report."""

    split: str
    overall: dict[str, tuple[float, Interval]]
    """Value and 95 % interval of `accuracy` and `mean_iou`."""
    classes: tuple[ClassScore, ...]
    summary: str
    is_reliable: bool
    """Whether the intervals come from enough blocks of ground."""


def read_scores(folder: Path, checkpoint: Path) -> Scores:
    """Read a report.

    Args:
        folder: a folder that `cwsam eval -o` wrote.
        checkpoint: the checkpoint that it has to be about.

    Raises:
        DataError: it is no report, or measures another checkpoint.
    """
    path = folder / _FILE
    try:
        raw = json.loads(path.read_text("utf-8"))
        measured = raw["checkpoint_sha256"]
        scores = _parse(raw)
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        raise DataError(
            f"`{folder}` is not a report of `cwsam eval`",
            hint=f"make one: cwsam eval -c {checkpoint} --data DATASET -o {folder.name}",
        ) from None
    if measured != sha256(checkpoint):
        raise DataError(
            f"`{folder}` measures another model than `{checkpoint}`",
            hint=f"measure this one: cwsam eval -c {checkpoint} --data DATASET -o report/",
        )
    return scores


def _parse(raw: Mapping[str, Any]) -> Scores:
    return Scores(
        split=str(raw["split"]),
        overall={name: (float(raw[name]), _interval(raw["intervals"][name])) for name in ("accuracy", "mean_iou")},
        classes=tuple(
            ClassScore(
                name=str(row["name"]),
                iou=row["iou"],
                interval=_interval(row["intervals"]["iou"]),
                precision=row["precision"],
                recall=row["recall"],
                support=int(row["support"]),
            )
            for row in raw["classes"]
        ),
        summary=str(raw["summary"]),
        is_reliable=bool(raw["blocks"]["is_reliable"]),
    )


def _interval(ends: Any) -> Interval:
    return None if ends is None else (float(ends[0]), float(ends[1]))
