"""Format assessments as tables for people."""

from cwsam_cli.console import padded, text_width
from cwsam_cli.survey.estimators import Estimate
from cwsam_cli.survey.results import ClassEstimates, SampleAssessment
from cwsam_cli.verify.mapped import MapAssessment


def sample_table(result: SampleAssessment) -> str:
    """Format tables for the terminal: accuracies, areas, agreement of interpreters, notes."""
    wide = max(12, *(text_width(entry.name) for entry in result.classes))
    points = f"{result.interpreted:,} of {result.points:,} points, {result.method}"
    lines = [f"{result.map}: {points}", "", _line("overall accuracy", result.overall), ""]
    heads = ("user's accuracy", "producer's accuracy")
    lines.append(f"{'class':<{wide}}  {'points':>7}  {heads[0]:<27}  {heads[1]}")
    for entry in result.classes:
        users, producers = (_text(value) for value in (entry.users, entry.producers))
        lines.append(f"{padded(entry.name, wide)}  {entry.points_in_map:>7,}  {users:<27}  {producers:<27}".rstrip())
    lines.append("")
    lines += _areas(result, wide)
    for pair in result.agreements:
        kappa = "" if pair.kappa is None else f", kappa {pair.kappa:.3f}"
        lines.append(f"{pair.first} and {pair.second} agree at {pair.agreement:.1%} of {pair.points:,} points{kappa}")
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join(lines)


def _line(name: str, entry: Estimate) -> str:
    error = "" if entry.standard_error is None else f", standard error {entry.standard_error:.3f}"
    return f"{name} {_text(entry)}{error}"


def _text(entry: Estimate | None) -> str:
    if entry is None:
        return "-"
    return f"{entry.value:.3f}" + ("" if entry.low is None else f" ({entry.low:.3f} to {entry.high:.3f})")


def _areas(result: SampleAssessment, wide: int) -> list[str]:
    in_ha = all(entry.area_ha is not None for entry in result.classes)
    unit = "area, ha" if in_ha else "share, %"
    lines = [f"{'class':<{wide}}  {'mapped':>14}  {unit:>14}  {'±':>12}  {'95 % from':>14}  {'to':>14}"]
    for entry in result.classes:
        area, mapped = _area(entry, in_ha)
        parts = (area.value, area.margin, area.low, area.high)
        widths = (14, 12, 14, 14)
        digits = 0 if in_ha and mapped >= 100 else 2
        cells = (f"{'-' if v is None else f'{v:,.{digits}f}':>{w}}" for v, w in zip(parts, widths, strict=True))
        note = f"  {entry.note}" if entry.note else ""
        lines.append(f"{padded(entry.name, wide)}  {mapped:>14,.{digits}f}  {'  '.join(cells)}{note}")
    lines += _assisted(result, wide)
    lines.append("± is 1.96 standard errors. The limits from and to are better for classes with few points.")
    return lines


def _assisted(result: SampleAssessment, wide: int) -> list[str]:
    helped = [(entry, entry.assisted_share) for entry in result.classes if entry.assisted_share is not None]
    if not helped:
        return []
    head = f"{'with the probabilities':<{wide}}  {'':>14}  {'share, %':>14}  {'±':>12}  {'95 % from':>14}  {'to':>14}"
    lines = ["", f"{head}  error, × the plain one"]
    for entry, better in helped:
        parts = (better.value, better.margin, better.low, better.high)
        cells = (f"{100 * (part or 0):>{w}.2f}" for part, w in zip(parts, (14, 12, 14, 14), strict=True))
        ratio = (better.standard_error or 0) / (entry.share.standard_error or 1)
        lines.append(f"{padded(entry.name, wide)}  {'':>14}  {'  '.join(cells)}  {ratio:.2f}")
    return [*lines, ""]


def _area(entry: ClassEstimates, in_ha: bool) -> tuple[Estimate, float]:
    """Return the area and the mapped area, in ha or %."""
    if in_ha and entry.area_ha is not None and entry.mapped_ha is not None:
        return entry.area_ha, entry.mapped_ha
    return entry.share.times(100), entry.mapped_share * 100


def map_table(result: MapAssessment) -> str:
    """Format the comparison of a map with a reference."""
    wide = max(12, *map(text_width, result.taxonomy.names))
    heads = " ".join(f"{head:>7}" for head in ("user's", "prod.'s", "F1", "IoU"))
    lines = [f"{result.map} against {result.reference}", "", f"{'class':<{wide}}  {heads} {result.unit:>14}"]
    for name, row in zip(result.taxonomy.names, result.metrics.classes, strict=True):
        figures = " ".join(
            f"{'-' if value is None else f'{value:.3f}':>7}" for value in (row.precision, row.recall, row.f1, row.iou)
        )
        note = "" if row.support else "  absent from the reference"
        lines.append(f"{padded(name, wide)}  {figures} {row.support:>14,}{note}")
    accuracy = result.metrics.accuracy
    assert accuracy is not None
    lines += ["", f"overall accuracy {accuracy:.3f} of {result.metrics.pixels:,} {result.unit}"]
    if result.left_out:
        lines.append(f"left out: {result.left_out:,} {result.unit}")
    lines.append("The reference is not a random sample, so there are no standard errors: see `cwsam sample`.")
    return "\n".join(lines)
