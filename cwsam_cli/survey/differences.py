"""Compare two maps on the same sample: differences of accuracies with paired intervals.

Both maps are right or wrong at the same units, so their errors are correlated, and the interval of a difference is
narrower than those of its parts suggest.
Source: Zou and Donner 2008, Statistics in Medicine 27, 1693-1702 (limits of a difference from those of its parts and
their correlation).

# N units, K classes
"""

from dataclasses import dataclass

import numpy as np

from cwsam_cli.survey.estimators import Estimate, Units, estimate
from cwsam_cli.survey.intervals import Z, limits
from cwsam_cli.survey.stratified import Floats, Stratified

ENOUGH = 10
"""Fewest units that must tell the maps apart for a reliable interval."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two maps, and the first minus the second."""

    first: float | None
    second: float | None
    """None without a unit from which the figure could be computed."""
    value: float | None
    low: float | None
    high: float | None
    """95 % limits of the difference; None where the sample is too small to know them."""
    differing: int
    """Units that tell the maps apart in this figure."""


@dataclass(frozen=True, slots=True)
class Differences:
    """The accuracies of two maps."""

    overall: Difference
    users: tuple[Difference, ...]
    """User's accuracy of each class, (K,)."""
    producers: tuple[Difference, ...]
    """Producer's accuracy of each class, (K,)."""
    contributions: Floats
    """Part of each unit in the difference of the overall accuracies, (N,)."""

    @property
    def better(self) -> int:
        """Return the number of units of which the first map has a larger part right."""
        return int((self.contributions > 0).sum())

    @property
    def worse(self) -> int:
        """Return the number of units of which the second map has a larger part right."""
        return int((self.contributions < 0).sum())


def compare(first: Units, second: Units) -> Differences:
    """Compare two maps.

    Args:
        first: the sample with the classes of the first map.
        second: the same units with the classes of the second map.
    """
    strata, one, two = first.stratified, estimate(first), estimate(second)
    everything = np.ones(len(first.mapped))
    users, producers = [], []
    for k in range(first.shares.shape[1]):
        real = first.shares[:, k]
        mapped, other = ((units.mapped == k).astype(np.float64) for units in (first, second))
        parts = _Part(mapped * real, mapped, one.users[k]), _Part(other * real, other, two.users[k])
        users.append(_of_ratios(strata, *parts))
        producers.append(_of_totals(strata, mapped * real, other * real, real, (one.producers[k], two.producers[k])))
    overall = _of_totals(strata, first.hits, second.hits, everything, (one.overall, two.overall))
    contributions = strata.unit_weights * (first.hits - second.hits)
    return Differences(overall, tuple(users), tuple(producers), contributions)


def _of_totals(
    strata: Stratified, one: Floats, two: Floats, whole: Floats, found: tuple[Estimate | None, Estimate | None]
) -> Difference:
    """Compare two shares of the same whole.

    The difference is gain minus loss: ground where only the first map is right, and where only the second one is.
    Few units show either, so both have limits of their own, as every rare proportion has.
    """
    a, b = found
    differing = int((one != two).sum())
    total = strata.mean(whole)
    if a is None or b is None:
        return Difference(a.value if a else None, b.value if b else None, None, None, None, differing)
    value = a.value - b.value
    if a.low is None or b.low is None:
        return Difference(a.value, b.value, value, None, None, differing)
    sides = [np.maximum(one - two, 0), np.maximum(two - one, 0)]
    gain, loss = (_limits(strata, side) for side in sides)
    spread = strata.variance(sides[0]) * strata.variance(sides[1])
    correlation = strata.covariance(*sides) / np.sqrt(spread) if spread > 0 else 0.0
    below = _distance(gain[1] - gain[0], loss[2] - loss[1], correlation)
    above = _distance(gain[2] - gain[1], loss[1] - loss[0], correlation)
    doubt = (Z * value) ** 2 * strata.variance(whole)  # the whole itself is estimated
    ends = [float(np.sqrt(side**2 + doubt)) / total for side in (below, above)]
    return Difference(a.value, b.value, value, max(-1.0, value - ends[0]), min(1.0, value + ends[1]), differing)


def _limits(strata: Stratified, values: Floats) -> tuple[float, float, float]:
    """Return lower limit, mean and upper limit of rare values.

    They count as many random units as give the variance, but no more than the whole sample is worth: a heavy stratum
    with few units may have none of the values by chance.
    """
    mean, variance = strata.mean(values), strata.variance(values)
    count = float(1 / (strata.weights**2 / strata.effective).sum())
    if mean * (1 - mean) > 0 and variance > 0:
        count = min(count, mean * (1 - mean) / variance)
    found = limits(np.array([mean]), np.array([count]))
    return float(found.low[0]), mean, float(found.high[0])


def _distance(own: float, other: float, correlation: float) -> float:
    return float(np.sqrt(max(0.0, own**2 + other**2 - 2 * correlation * own * other)))


@dataclass(frozen=True, slots=True)
class _Part:
    """A figure of one map: the mean of `hits` divided by the mean of `whole`."""

    hits: Floats
    whole: Floats
    estimate: Estimate | None


def _of_ratios(strata: Stratified, one: _Part, two: _Part) -> Difference:
    """Compare two shares of different wholes, from their own limits and their correlation."""
    a, b = one.estimate, two.estimate
    differing = int((one.whole != two.whole).sum())
    if a is None or b is None:
        return Difference(a.value if a else None, b.value if b else None, None, None, None, differing)
    value = a.value - b.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Difference(a.value, b.value, value, None, None, differing)
    residuals = [
        (part.hits - found.value * part.whole) / strata.mean(part.whole) for part, found in ((one, a), (two, b))
    ]
    spread = strata.variance(residuals[0]) * strata.variance(residuals[1])
    correlation = strata.covariance(residuals[0], residuals[1]) / np.sqrt(spread) if spread > 0 else 0.0
    # The correlation is uncertain where few units tell the maps apart, so two more of them are counted.
    correlation = max(0.0, 1 - (1 - correlation) * (differing + 2) / differing) if differing else 0.0
    ends = [
        _distance(own, other, correlation)
        for own, other in ((a.value - a.low, b.high - b.value), (a.high - a.value, b.value - b.low))
    ]
    return Difference(a.value, b.value, value, max(-1.0, value - ends[0]), min(1.0, value + ends[1]), differing)
