"""The result of `cwsam mosaic`, and its text for people."""

from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.config.sizes import area_text
from cwsam_cli.console import padded, text_width
from cwsam_cli.mosaic.merge import OverlapAgreement
from cwsam_cli.mosaic.plan import MosaicPlan
from cwsam_cli.raster.mapfile import Tally
from cwsam_cli.taxonomy import IGNORE


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class of the mosaic."""

    code: int
    name: str
    pixels: int
    area_ha: float
    share: float
    """Of the area of all classes, 0 to 1."""
    overlap_pixels: int
    """Pixels that the mosaic shows as this class and that two or more maps show, before small regions are joined."""
    agreement: float | None
    """Share of those where all maps show this class; None without overlap."""


@dataclass(frozen=True, slots=True)
class MosaicResult:
    """The mosaic that was written."""

    path: Path
    grid: str
    maps: int
    """Maps that touch the mosaic."""
    files: int
    """One, or the number of tiles."""
    nodata_pixels: int
    overlap_pixels: int
    """Pixels that two or more maps show."""
    agreement: float | None
    """Share of those where all maps show the same class; None without overlap."""
    classes: tuple[ClassSummary, ...]
    """Those that the mosaic or its overlaps show, in the order of their codes."""


def summarize(plan: MosaicPlan, tally: Tally, agreement: OverlapAgreement, files: int) -> MosaicResult:
    """Return the result of a mosaic that was written."""
    total = float(tally.areas_m2[:IGNORE].sum())
    overlap, agreed = agreement.overlap, agreement.agreed
    classes = [
        ClassSummary(
            code=entry.code,
            name=entry.name,
            pixels=int(tally.pixels[entry.code]),
            area_ha=float(tally.areas_m2[entry.code]) / 1e4,
            share=float(tally.areas_m2[entry.code]) / total,
            overlap_pixels=int(overlap[entry.code]),
            agreement=_share(agreed[entry.code], overlap[entry.code]),
        )
        for entry in sorted(plan.taxonomy.classes, key=lambda entry: entry.code)
        if tally.pixels[entry.code] or overlap[entry.code]
    ]
    return MosaicResult(
        path=plan.request.output,
        grid=str(plan.grid),
        maps=len(plan.maps),
        files=files,
        nodata_pixels=int(tally.pixels[IGNORE]),
        overlap_pixels=int(overlap.sum()),
        agreement=_share(agreed.sum(), overlap.sum()),
        classes=tuple(classes),
    )


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def format_result(result: MosaicResult) -> str:
    """Return a table of the classes, a line about the overlaps, and a line about the mosaic."""
    longest = max(len("class"), *(text_width(entry.name) for entry in result.classes), 0)
    lines = [f"{'code':>6}  {'class':<{longest}}  {'ha':>14}  {'share':>7}  {'agreement':>9}"]
    for entry in result.classes:
        lines.append(
            f"{entry.code:>6}  {padded(entry.name, longest)}  {entry.area_ha:>14,.2f}  {_percent(entry.share):>7}"
            f"  {_percent(entry.agreement):>9}"
        )
    if result.overlap_pixels:
        lines.append(
            f"overlaps: {result.overlap_pixels:,} pixels in two or more maps;"
            f" all maps agree in {_percent(result.agreement)} of them"
        )
    area = area_text(sum(entry.area_ha for entry in result.classes) * 1e4)
    files = f", {result.files} tiles" if result.path.suffix == "" else ""
    lines.append(f"{result.path}: {result.maps} map(s), {result.grid}, {area}{files}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
