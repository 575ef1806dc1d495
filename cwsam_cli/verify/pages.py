"""Write the report of a map as a page for the browser: from a sample with intervals, or from a reference."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cwsam_cli.report.page import PAGE, write_page
from cwsam_cli.report.pictures import Picture
from cwsam_cli.survey.results import ClassEstimates, SampleAssessment
from cwsam_cli.verify.mapped import MapAssessment
from cwsam_cli.verify.plain import map_dict, sample_dict
from cwsam_cli.verify.words import list_map_limits, list_sample_limits, summarize_map, summarize_sample


def write_sample_page(result: SampleAssessment, folder: Path, picture: Picture | None) -> None:
    """Write the page of a sample.

    Args:
        result: the estimates.
        folder: an existing folder.
        picture: the map with the points; None leaves it out.
    """
    design = result.design
    facts = {
        "map": result.map,
        "sample": result.sample,
        "estimators": result.method,
        "drawn from": design.map,
        "SHA-256 of its codes and grid": design.map_sha256,
        "strata": design.strata_from or "the map's classes",
        "units": "pixels"
        if design.block_pixels == 1
        else f"blocks of {design.block_pixels} × {design.block_pixels} pixels",
        "allocation": design.allocation,
        "seed": str(design.seed) if design.command else "",
        "rounds of drawing": str(design.rounds),
        "command of the sample": design.command,
    }
    data = sample_dict(result) | {
        "classes": [_class(entry) for entry in result.classes],
        "in_ha": all(entry.area_ha is not None for entry in result.classes),
        "facts": _known(facts),
        "limits": list_sample_limits(result),
        "picture": picture.as_dict() if picture else None,
    }
    write_page(
        folder / PAGE,
        data,
        Path(__file__).with_name("sample.js"),
        title=Path(result.map).name,
        origin=f"Assessed with {result.interpreted:,} of {result.points:,} points of {result.sample}: {result.method}",
        summary=summarize_sample(result),
        warnings=result.notes,
    )


def write_map_page(result: MapAssessment, folder: Path) -> None:
    """Write the page of a comparison with a reference into an existing folder."""
    figures = map_dict(result)
    classes = [
        row | {"color": entry.color, "intervals": {}}
        for row, entry in zip(figures["classes"], result.taxonomy.classes, strict=True)
    ]
    data = figures | {
        "classes": classes,
        "matrix": result.matrix.tolist(),
        "facts": _known({"map": result.map, "reference": result.reference}),
        "limits": list_map_limits(result),
        "picture": result.picture.as_dict() if result.picture else None,
    }
    write_page(
        folder / PAGE,
        data,
        Path(__file__).with_name("map.js"),
        title=Path(result.map).name,
        origin=f"Compared with {result.reference}",
        summary=summarize_map(result),
        warnings=[],
    )


def _class(entry: ClassEstimates) -> dict[str, Any]:
    """Return a class as the page's script shows it: values, their intervals, and the counts."""
    told: dict[str, Any] = {"intervals": {}}
    for name in ("area_ha", "share", "users", "producers", "assisted_ha", "assisted_share"):
        found = getattr(entry, name)
        told[name] = None if found is None else found.value
        told[f"{name}_margin"] = None if found is None else found.margin
        told[f"{name}_error"] = None if found is None else found.standard_error
        told["intervals"][name] = None if found is None or found.low is None else [found.low, found.high]
    copied = ("code", "name", "color", "points_in_map", "points_in_reference", "mapped_share", "mapped_ha", "note")
    return told | {name: getattr(entry, name) for name in copied}


def _known(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in facts.items() if value]
