"""The result of `cwsam vectorize`, and its text for people."""

from dataclasses import dataclass, field
from pathlib import Path

from cwsam_cli.config.sizes import area_text
from cwsam_cli.console import padded, text_width


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The figures of `--check`."""

    edges: int
    unmatched_edges: int
    invalid_polygons: int
    largest_area_error: float
    """The largest relative difference of a class's area from the raster; 0 unless borders were simplified."""


@dataclass(frozen=True, slots=True)
class ClassArea:
    """One class of the layer."""

    code: int
    name: str
    area_ha: float
    share: float
    """Of the area of all polygons, 0 to 1."""


@dataclass(frozen=True, slots=True)
class VectorizeResult:
    """The layer that was written."""

    path: Path
    polygons: int
    areas: str
    """The kind of areas, geodesic or projected."""
    lengths: str
    """The kind of perimeters."""
    area_m2: dict[str, float] = field(default_factory=dict)
    """By class name."""
    classes: tuple[ClassArea, ...] = ()
    """In the order of their codes."""
    check: CheckResult | None = None


def format_result(result: VectorizeResult) -> str:
    """Return a table of the classes, a line about the layer, and a line about the check."""
    lines = [*_table(result.classes), format_layer(result)]
    if result.check:
        found = result.check
        lines.append(
            f"checked: {found.edges:,} edges, {found.unmatched_edges} without their opposite;"
            f" {found.invalid_polygons} invalid polygons; class areas off by {100 * found.largest_area_error:.2g} %"
            " at most"
        )
    return "\n".join(lines)


def format_layer(result: VectorizeResult) -> str:
    """Return a line about the layer."""
    area = area_text(sum(result.area_m2.values()))
    lengths = "too" if result.lengths == result.areas else result.lengths
    return f"{result.path}: {result.polygons:,} polygons, {area} ({result.areas}; lengths {lengths})"


def _table(classes: tuple[ClassArea, ...]) -> list[str]:
    if not classes:
        return []
    longest = max(len("class"), *(text_width(entry.name) for entry in classes))
    rows = [f"{'code':>6}  {'class':<{longest}}  {'ha':>14}  {'share':>7}"]
    for entry in classes:
        figures = f"{entry.area_ha:>14,.2f}  {100 * entry.share:>5.1f} %"
        rows.append(f"{entry.code:>6}  {padded(entry.name, longest)}  {figures}")
    return rows
