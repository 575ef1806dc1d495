"""Convert assessments to plain values, for JSON and for the pages."""

import dataclasses
from typing import Any

from cwsam_cli.survey.results import SampleAssessment
from cwsam_cli.verify.mapped import MapAssessment

VERSION = 1
"""Version of the schema of `metrics.json`."""


def sample_dict(result: SampleAssessment) -> dict[str, Any]:
    """Convert the assessment of a sample to plain values."""
    return {"version": VERSION} | dataclasses.asdict(result)


def map_dict(result: MapAssessment) -> dict[str, Any]:
    """Convert the comparison with a reference to plain values."""
    overall = dataclasses.asdict(result.metrics)
    overall.pop("classes")
    classes = [
        {"code": entry.code, "name": entry.name, "absent": not row.support} | dataclasses.asdict(row)
        for entry, row in zip(result.taxonomy.classes, result.metrics.classes, strict=True)
    ]
    origin = {"map": result.map, "reference": result.reference, "unit": result.unit, "left_out": result.left_out}
    return {"version": VERSION} | origin | overall | {"classes": classes}
