"""Estimate accuracy and areas from a stratified random sample of pixels.

# H strata, K classes; matrices (K, K) have rows of map classes and columns of reference classes

Strata need not be the map's classes. Every estimate is a total of indicators, or the ratio of two
such totals. Pixels may differ in size on the ground. The share of an indicator in a stratum is then
itself a ratio: the sampled ground that has it, of the sampled ground.

Sources: Stehman 2014, International Journal of Remote Sensing 35, 4923-4939 (ratios, strata that
differ from classes); Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57 (strata are map
classes: the same formulas); Cochran 1977, Sampling Techniques, sections 5.3 and 6.11.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.survey.intervals import Z, limits, of_ratio, of_sum

Floats = NDArray[np.float64]

_NEGLIGIBLE = 0.05
"""Share of a stratum that may be sampled without a finite population correction (Cochran 1977, section 2.6)."""


@dataclass(frozen=True, slots=True)
class Tallies:
    """A sample counted by stratum, map class and reference class, and the strata that it was drawn from."""

    counts: NDArray[np.int64]
    """Points, (H, K, K)."""
    sizes: Floats
    """Sum of the sampled pixels' sizes, (H, K, K); `counts` if all pixels have one size."""
    squares: Floats
    """Sum of the squares of the sizes, (H, K, K)."""
    pixels: NDArray[np.int64]
    """Pixels of each stratum in the map, (H,)."""
    areas: Floats
    """Area of each stratum, (H,), in any unit."""

    @property
    def points(self) -> NDArray[np.int64]:
        """Points in each stratum, (H,)."""
        return np.asarray(self.counts.sum(axis=(1, 2)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate with its 95 % interval."""

    value: float
    standard_error: float | None
    """None where the sample is too small to know it."""
    low: float | None
    high: float | None

    @property
    def margin(self) -> float | None:
        """Half-width of the symmetric interval that most papers print; `low` and `high` cover better."""
        return None if self.standard_error is None else Z * self.standard_error

    def times(self, factor: float) -> "Estimate":
        """Return the estimate in another unit."""
        error, low, high = (
            None if part is None else part * factor for part in (self.standard_error, self.low, self.high)
        )
        return Estimate(self.value * factor, error, low, high)


@dataclass(frozen=True, slots=True)
class Estimates:
    """All estimates of a sample. Proportions are of the total area."""

    matrix: Floats
    """Area proportions, (K, K)."""
    overall: Estimate
    proportions: tuple[Estimate, ...]
    """Area of each class in the reference."""
    users: tuple[Estimate | None, ...]
    """User's accuracy; None for a class without a point in the map."""
    producers: tuple[Estimate | None, ...]
    """Producer's accuracy; None for a class without a point in the reference."""


def tally(
    strata: NDArray[np.integer],
    mapped: NDArray[np.integer],
    reference: NDArray[np.integer],
    *,
    classes: int,
    pixels: NDArray[np.int64],
    areas: Floats | None = None,
    sizes: Floats | None = None,
) -> Tallies:
    """Count a sample.

    Args:
        strata: the number of each point's stratum, (N,), 0 to H - 1.
        mapped: the index of each point's class in the map, (N,).
        reference: the index of each point's class in the reference, (N,).
        classes: number of classes K.
        pixels: pixels of each stratum in the map, (H,).
        areas: area of each stratum, (H,); None if all pixels have one size.
        sizes: the size of each point's pixel, (N,), in the unit of `areas`; None if all pixels have one size.
    """
    shape = (len(pixels), classes, classes)
    cells = np.ravel_multi_index((strata, mapped, reference), shape)
    count = int(np.prod(shape))
    weights = np.ones(len(cells)) if sizes is None else sizes
    return Tallies(
        counts=np.bincount(cells, minlength=count).reshape(shape),
        sizes=_sums(cells, weights, count).reshape(shape),
        squares=_sums(cells, weights**2, count).reshape(shape),
        pixels=pixels,
        areas=pixels.astype(np.float64) if areas is None else areas,
    )


def _sums(cells: NDArray[np.integer], values: Floats, count: int) -> Floats:
    return np.bincount(cells, values, count).astype(np.float64)


def estimate(tallies: Tallies) -> Estimates:
    """Estimate overall, user's and producer's accuracy and the area of each class.

    Args:
        tallies: a sample with at least one point in every stratum.

    Returns:
        Estimates. An error is None where a stratum that it depends on has a single point of several pixels.
    """
    strata = _Strata.of(tallies)
    hit = np.eye(tallies.counts.shape[1])
    users, producers, proportions = [], [], []
    for k in range(len(hit)):
        mapped, real = np.zeros_like(hit), np.zeros_like(hit)
        mapped[k], real[:, k] = 1, 1
        in_map = tallies.counts[:, k].sum(axis=1)
        groups = strata.groups(in_map > strata.points / 2)
        # The class cannot be correct in a stratum without it in the map, nor omitted in one with nothing else.
        has_class, has_others = in_map > 0, in_map < strata.points
        users.append(strata.ratio(mapped * hit, mapped * (1 - hit), has_class, has_class, groups))
        producers.append(strata.ratio(real * hit, real * (1 - hit), has_class, has_others, groups))
        proportions.append(strata.total(real, groups))
    return Estimates(strata.matrix, strata.overall(hit), tuple(proportions), tuple(users), tuple(producers))


@dataclass(frozen=True, slots=True)
class _Groups:
    """Strata that share the limits of a proportion, because each alone has too few points of a class.

    A class is rare in strata in which the map rarely shows it. There its proportions are small and alike.
    """

    members: Floats
    """1 where a stratum belongs to a group, (G, H)."""
    weights: Floats
    """Share of each group in the total area, (G,)."""
    effective: Floats
    """Number of points, drawn at random from the group, with the same information, (G,)."""
    rest: Floats
    """Square root of the finite population correction, (G,)."""


@dataclass(frozen=True, slots=True)
class _Strata:
    """Strata as the formulas need them. Indicators are matrices (K, K) of 0 and 1."""

    weights: Floats
    """Share of each stratum in the total area, (H,)."""
    shares: Floats
    """Shares of a stratum's sampled ground, (H, K, K)."""
    points: NDArray[np.int64]
    squares: Floats
    scale: Floats
    """From a sum of squares to a variance, (H,); NaN for a single point of several pixels."""
    effective: Floats
    """Number of points of equal size with the same information, (H,)."""
    rest: Floats
    """Square root of the finite population correction, (H,)."""

    @classmethod
    def of(cls, tallies: Tallies) -> "_Strata":
        points, sampled = tallies.points, tallies.sizes.sum(axis=(1, 2))
        weights, share = tallies.areas / tallies.areas.sum(), points / tallies.pixels
        left = np.where(share > _NEGLIGIBLE, np.maximum(0.0, 1 - share), 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = weights**2 * left * points / (points - 1) / sampled**2
        return cls(
            weights=weights,
            shares=tallies.sizes / sampled[:, None, None],
            points=points,
            squares=tallies.squares,
            scale=np.where(left == 0, 0.0, np.where(points < 2, np.nan, scale)),
            effective=sampled**2 / tallies.squares.sum(axis=(1, 2)),
            rest=np.sqrt(left),
        )

    @property
    def matrix(self) -> Floats:
        """Area proportions, (K, K)."""
        return np.asarray(np.einsum("h,hij->ij", self.weights, self.shares))

    def groups(self, alone: NDArray[np.bool_]) -> _Groups:
        """Join all strata except those that stay alone, (H,)."""
        members = np.eye(len(alone))[alone]
        if not alone.all():
            members = np.concatenate([members, ~alone[None]])
        weights, spread = members @ self.weights, members @ (self.weights**2 / self.effective)
        rest = np.sqrt(members @ (self.weights**2 * self.rest**2 / self.effective) / spread)
        return _Groups(members, weights, weights**2 / spread, rest)

    def overall(self, hit: Floats) -> Estimate:
        """Estimate the share of correct ground, with the limits of as many random points as give its variance."""
        value, variance = float((self.matrix * hit).sum()), self._variance(hit, np.ones(len(self.points), bool))
        product = value * (1 - value)

        def interval() -> tuple[float, float]:
            count = product / variance if product > 0 and variance > 0 else float(self.points.sum())
            return of_sum(limits(np.array([value]), np.array([count])), np.ones(1), np.ones(1))

        return _with_interval(value, variance, interval)

    def total(self, indicator: Floats, groups: _Groups) -> Estimate:
        """Estimate the share of the ground that an indicator selects."""
        variance = self._variance(indicator, np.ones(len(self.points), bool))

        def interval() -> tuple[float, float]:
            parts = limits(self._shares_in(groups, indicator), groups.effective)
            return of_sum(parts, groups.weights, groups.rest)

        return _with_interval(float((self.matrix * indicator).sum()), variance, interval)

    def ratio(
        self,
        one: Floats,
        other: Floats,
        one_varies: NDArray[np.bool_],
        other_varies: NDArray[np.bool_],
        groups: _Groups,
    ) -> Estimate | None:
        """Estimate the share of one indicator in the sum of two that exclude each other; None without a point."""
        whole = float((self.matrix * (one + other)).sum())
        if not whole:
            return None
        value = float((self.matrix * one).sum()) / whole
        variance = self._variance((one - value * (one + other)) / whole, one_varies | other_varies)

        def interval() -> tuple[float, float]:
            correct, wrong = (
                limits(self._shares_in(groups, side), groups.effective, groups.members @ varies > 0)
                for side, varies in ((one, one_varies), (other, other_varies))
            )
            return of_ratio(correct, wrong, groups.weights, groups.rest)

        return _with_interval(value, variance, interval)

    def _shares_in(self, groups: _Groups, indicator: Floats) -> Floats:
        return np.asarray(groups.members @ (self.weights * self._proportions(indicator)) / groups.weights)

    def _proportions(self, indicator: Floats) -> Floats:
        return np.asarray(np.einsum("hij,ij->h", self.shares, indicator))

    def _variance(self, residuals: Floats, used: NDArray[np.bool_]) -> float:
        spread = (residuals - self._proportions(residuals)[:, None, None]) ** 2
        variances = self.scale * np.einsum("hij,hij->h", self.squares, spread)
        return float(np.sum(np.where(used, variances, 0.0)))


def _with_interval(value: float, variance: float, interval: Callable[[], tuple[float, float]]) -> Estimate:
    if np.isnan(variance):
        return Estimate(value, None, None, None)
    return Estimate(value, float(np.sqrt(variance)), *interval())
