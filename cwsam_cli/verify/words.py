"""Say in plain sentences what an assessment found, and what it cannot tell."""

from cwsam_cli.survey.estimators import Estimate
from cwsam_cli.survey.results import ClassEstimates, SampleAssessment
from cwsam_cli.verify.mapped import MapAssessment

_SHOWN = 3
"""Classes named in the summary whose mapped area lies outside the interval."""


def summarize_sample(result: SampleAssessment) -> list[str]:
    """Return sentences on the accuracy, the areas that the map gets wrong, and the weakest classes."""
    overall = result.overall
    spread = f" ± {overall.margin:.2f}" if overall.margin else ""
    if overall.margin == 0 and overall.low is not None and overall.high is not None:  # right at all points, by chance
        spread = f" ({overall.low:.2f} to {overall.high:.2f})"
    sentences = [f"Overall accuracy {overall.value:.2f}{spread} from {result.interpreted:,} interpreted points."]
    if result.design.block_pixels == 1:  # the areas of blocks are not those of the map
        sentences += _compare_areas(result)
    for name, title in (("users", "User's"), ("producers", "Producer's")):
        known = [(found.value, entry.name) for entry in result.classes if (found := getattr(entry, name)) is not None]
        if len(known) > 1:
            value, weakest = min(known)
            sentences.append(f"{title} accuracy is lowest for {weakest} ({value:.2f}).")
    return sentences


def _compare_areas(result: SampleAssessment) -> list[str]:
    wrong = sorted((entry for entry in result.classes if _is_outside(entry)), key=_miss, reverse=True)
    sentences = [_difference(entry) for entry in wrong[:_SHOWN]]
    if wrong[_SHOWN:]:
        sentences.append(f"The same holds for {', '.join(entry.name for entry in wrong[_SHOWN:])}.")
    if not wrong:
        sentences.append("The mapped area of each class with an interval lies within it.")
    return sentences


def list_sample_limits(result: SampleAssessment) -> list[str]:
    """Return sentences on what the estimates do not say."""
    unsure = [entry.name for entry in result.classes if entry.note]
    limits = [
        "Intervals hold with 95 % confidence for errors that come from drawing points at random. "
        "A wrong reference counts as an error of the map, or hides one.",
        "The figures hold for the whole mapped ground, and not for a part of it.",
    ]
    if unsure:
        limits.append(f"Too few points for reliable intervals: {', '.join(unsure)}.")
    if not result.agreements:
        limits.append("One interpreter saw each point, so the errors of interpretation are not known.")
    if result.design.areas_m2 is None:
        limits.append("The map has no CRS, so there are shares of the ground, but no areas.")
    return limits


def summarize_map(result: MapAssessment) -> list[str]:
    """Return sentences on the agreement with a reference."""
    metrics = result.metrics
    assert metrics.accuracy is not None
    kappa = "" if metrics.kappa is None else f", kappa {metrics.kappa:.2f}"  # a single class has none
    sentences = [f"Overall accuracy {metrics.accuracy:.2f} of {metrics.pixels:,} {result.unit}{kappa}."]
    rows = zip(result.taxonomy.names, metrics.classes, strict=True)
    known = [(row.iou, name) for name, row in rows if row.iou is not None]
    if len(known) > 1:
        (worst, last), (best, first) = min(known), max(known)
        sentences.append(f"{first} is mapped best (IoU {best:.2f}), {last} worst ({worst:.2f}).")
    return sentences


def list_map_limits(result: MapAssessment) -> list[str]:
    """Return sentences on what a comparison with a reference does not say."""
    limits = [
        "The reference is not a random sample, so there are no intervals and no unbiased areas. "
        "`cwsam sample` draws such a sample.",
        "Errors of the reference count as errors of the map, or hide them.",
    ]
    if result.left_out:
        limits.append(
            f"{result.left_out:,} {result.unit} of the reference are left out. They have no class in the map, "
            "two classes in the reference, or no target in the crosswalk."
        )
    absent = [n for n, row in zip(result.taxonomy.names, result.metrics.classes, strict=True) if not row.support]
    if absent:
        limits.append(f"Nothing is known about classes that the reference does not show: {', '.join(absent)}.")
    return limits


def _area(entry: ClassEstimates) -> tuple[Estimate, float, str]:
    """Return the estimated and the mapped area, and their unit."""
    if entry.area_ha is not None and entry.mapped_ha is not None:
        return entry.area_ha, entry.mapped_ha, "ha"
    return entry.share.times(100), 100 * entry.mapped_share, "%"


def _is_outside(entry: ClassEstimates) -> bool:
    return entry.share.low is not None and not _holds(entry.share, entry.mapped_share)


def _holds(estimate: Estimate, value: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= value <= estimate.high


def _miss(entry: ClassEstimates) -> float:
    return abs(entry.mapped_share - entry.share.value)


def _difference(entry: ClassEstimates) -> str:
    area, mapped, unit = _area(entry)
    digits = 0 if mapped >= 100 else 1
    most = "more" if mapped > area.value else "less"
    mapped_text, value, low, high = (
        f"{number or 0:,.{digits}f}" for number in (mapped, area.value, area.low, area.high)
    )
    return (
        f"The map shows {most} {entry.name} than there is: {mapped_text} {unit}, "
        f"but the estimate is {value} {unit} ({low} to {high})."
    )
