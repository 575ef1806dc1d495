"""The results of an interpreted sample, for tables, files and reports."""

from dataclasses import dataclass

from cwsam_cli.survey.design import Design
from cwsam_cli.survey.estimators import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEstimates:
    """Estimates for one class. Accuracies and shares are 0 to 1."""

    code: int
    name: str
    color: str
    """Colour as `#rrggbb`."""
    points_in_map: int
    points_in_reference: int
    mapped_share: float
    """Share of the ground that the map gives to the class; an estimate if strata are not the map's classes."""
    mapped_ha: float | None
    """The same in ha; None where the map has no CRS."""
    share: Estimate
    """Share of the ground that is of the class."""
    area_ha: Estimate | None
    """Area of the class; None where the map has no CRS."""
    users: Estimate | None
    """User's accuracy; None without a point of the class in the map."""
    producers: Estimate | None
    """Producer's accuracy; None without a point of the class in the reference."""
    assisted_share: Estimate | None
    """Share of the ground, estimated with the map's probabilities; None where they cannot help."""
    assisted_ha: Estimate | None
    """The same in ha."""
    note: str
    """What a reader must know about these figures; empty if there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpreterAgreement:
    """Agreement of two interpreters."""

    first: str
    second: str
    """Names of their fields."""
    points: int
    """Points that both interpreted."""
    agreement: float
    """Share of these points with the same class."""
    kappa: float | None
    """Cohen's kappa; None if both saw only one class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAssessment:
    """Accuracy and areas of a map, with 95 % intervals."""

    sample: str
    map: str
    design: Design
    """How the points were drawn."""
    method: str
    points: int
    interpreted: int
    interpreted_by_stratum: tuple[int, ...]
    """Interpreted points of each stratum of the design."""
    overall: Estimate
    """Overall accuracy."""
    classes: tuple[ClassEstimates, ...]
    matrix: tuple[tuple[float, ...], ...]
    """Area proportions (K, K): rows are map classes, columns reference classes."""
    agreements: tuple[InterpreterAgreement, ...]
    notes: tuple[str, ...]
