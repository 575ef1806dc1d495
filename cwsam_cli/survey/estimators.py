"""Estimate accuracy and areas from a stratified random sample of pixels or of blocks of pixels.

# N units of the sample, H strata, K classes; matrices (K, K) have rows of map classes and columns of reference classes

Strata need not be the map's classes. Every estimate is the mean of a value over the ground, or the ratio of two such
means. The value of a pixel is 0 or 1. A block has one class in the map and may have shares of several classes in the
reference, so its value lies between.

Sources: Stehman 2014, International Journal of Remote Sensing 35, 4923-4939 (ratios, strata that
differ from classes); Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57 (strata are map
classes: the same formulas); Cochran 1977, Sampling Techniques, sections 5.3 and 6.11; Stehman and Wickham 2011, Remote
Sensing of Environment 115, 3044-3055 (blocks as units).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.survey.intervals import Parts, Z, limits, of_ratio, of_sum
from cwsam_cli.survey.stratified import Counts, Floats, Stratified


@dataclass(frozen=True, slots=True)
class Units:
    """Interpreted units of a sample, and the strata that they were drawn from."""

    strata: Counts
    """The stratum of each unit, (N,), 0 to H - 1."""
    mapped: Counts
    """The index of each unit's class in the map, (N,)."""
    shares: Floats
    """Share of each unit's ground that is of each class in the reference, (N, K)."""
    sizes: Floats
    """Size of each unit, (N,), in the unit of `areas`."""
    units: Counts
    """Units of each stratum in the map, (H,)."""
    areas: Floats
    """Area of each stratum, (H,), in any unit."""
    has_class_strata: bool
    """Whether the design made each stratum from one class of this map. Units alone cannot tell."""

    @classmethod
    def of_points(
        cls,
        strata: NDArray[np.integer],
        mapped: NDArray[np.integer],
        reference: NDArray[np.integer],
        *,
        classes: int,
        pixels: Counts,
        has_class_strata: bool,
        areas: Floats | None = None,
        sizes: Floats | None = None,
    ) -> "Units":
        """Describe a sample of pixels.

        Args:
            strata: the number of each point's stratum, (N,), 0 to H - 1.
            mapped: the index of each point's class in the map, (N,).
            reference: the index of each point's class in the reference, (N,).
            classes: number of classes K.
            pixels: pixels of each stratum in the map, (H,).
            has_class_strata: whether each stratum was made from one class of this map.
            areas: area of each stratum, (H,); None if all pixels have one size.
            sizes: the size of each point's pixel, (N,), in the unit of `areas`; None if all pixels have one size.
        """
        shares = np.zeros((len(reference), classes))
        shares[np.arange(len(reference)), reference] = 1
        return cls(
            strata=strata.astype(np.int64),
            mapped=mapped.astype(np.int64),
            shares=shares,
            sizes=np.ones(len(reference)) if sizes is None else sizes,
            units=pixels,
            areas=pixels.astype(np.float64) if areas is None else areas,
            has_class_strata=has_class_strata,
        )

    @property
    def stratified(self) -> Stratified:
        """Return the sample for the formulas."""
        return Stratified.of(self.strata, self.sizes, self.units, self.areas)

    @property
    def hits(self) -> Floats:
        """Return the share of each unit in which the map is right, (N,)."""
        return np.asarray(self.shares[np.arange(len(self.mapped)), self.mapped])


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


def estimate(units: Units) -> Estimates:
    """Estimate overall, user's and producer's accuracy and the area of each class.

    Args:
        units: a sample with at least one unit in every stratum.

    Returns:
        Estimates. An error is None where a stratum that it depends on has a single one of several units.
    """
    sample = _Sample(units.stratified)
    hits, points = units.hits, sample.strata.points
    users, producers, proportions = [], [], []
    for k in range(units.shares.shape[1]):
        mapped, real = (units.mapped == k).astype(np.float64), units.shares[:, k]
        in_map = np.bincount(units.strata[units.mapped == k], minlength=len(points))
        groups = sample.groups(in_map > points / 2)
        # If strata are the map's classes, a class cannot be correct in a stratum without it, nor omitted in one with
        # nothing else. In other strata the map may have it, although no unit shows it.
        is_unknown = not units.has_class_strata
        has_class, has_others = (in_map > 0) | is_unknown, (in_map < points) | is_unknown
        users.append(sample.ratio(mapped * hits, mapped * (1 - hits), has_class, has_class, groups))
        producers.append(sample.ratio(mapped * real, (1 - mapped) * real, has_class, has_others, groups))
        proportions.append(sample.total(real, groups))
    matrix = np.zeros((units.shares.shape[1],) * 2)
    np.add.at(matrix, units.mapped, sample.strata.unit_weights[:, None] * units.shares)
    return Estimates(matrix, sample.overall(hits), tuple(proportions), tuple(users), tuple(producers))


@dataclass(frozen=True, slots=True)
class _Groups:
    """Strata that share the limits of a proportion, because each alone has too few points of a class.

    A class is rare in strata in which the map rarely shows it. There its proportions are small and alike.
    """

    members: Floats
    """1 where a stratum belongs to a group, (G, H)."""
    weights: Floats
    """Share of each group in the total area, (G,)."""
    rest: Floats
    """Square root of the finite population correction, (G,)."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Estimates of means and ratios. Values are 0 to 1, one per unit, (N,)."""

    strata: Stratified

    def groups(self, alone: NDArray[np.bool_]) -> _Groups:
        """Join all strata except those that stay alone, (H,)."""
        strata, members = self.strata, np.eye(len(alone))[alone]
        if not alone.all():
            members = np.concatenate([members, ~alone[None]])
        squares = strata.weights**2 / strata.effective
        rest = np.sqrt(members @ (squares * strata.rest**2) / (members @ squares))
        return _Groups(members, members @ strata.weights, rest)

    def overall(self, hits: Floats) -> Estimate:
        """Estimate the share of correct ground, with the limits of as many random points as give its variance."""
        value, variance = self.strata.mean(hits), self.strata.variance(hits)
        product = value * (1 - value)

        def interval() -> tuple[float, float]:
            count = product / variance if product > 0 and variance > 0 else float(self.strata.points.sum())
            return of_sum(limits(np.array([value]), np.array([count])), np.ones(1), np.ones(1))

        return _with_interval(value, variance, interval)

    def total(self, values: Floats, groups: _Groups) -> Estimate:
        """Estimate the mean of values over the ground."""

        def interval() -> tuple[float, float]:
            return of_sum(self._limits(values, groups), groups.weights, groups.rest)

        return _with_interval(self.strata.mean(values), self.strata.variance(values), interval)

    def ratio(
        self,
        one: Floats,
        other: Floats,
        one_varies: NDArray[np.bool_],
        other_varies: NDArray[np.bool_],
        groups: _Groups,
    ) -> Estimate | None:
        """Estimate the share of one value in the sum of two that exclude each other; None without a unit."""
        whole = self.strata.mean(one + other)
        if not whole:
            return None
        value = self.strata.mean(one) / whole
        variance = self.strata.variance((one - value * (one + other)) / whole, one_varies | other_varies)

        def interval() -> tuple[float, float]:
            correct, wrong = (
                self._limits(side, groups, groups.members @ varies > 0)
                for side, varies in ((one, one_varies), (other, other_varies))
            )
            return of_ratio(correct, wrong, groups.weights, groups.rest)

        return _with_interval(value, variance, interval)

    def _limits(self, values: Floats, groups: _Groups, used: NDArray[np.bool_] | bool = True) -> Parts:
        """Return the limits of the mean in each group of strata.

        Values between 0 and 1 vary less than values of 0 and 1 with the same mean. They then count as more units. A
        ratio of variances from few such values is too small, so it is drawn towards 1 as if one more had no effect.
        Without that, intervals of a rare class cover in 91 % of the samples.
        """
        strata, members = self.strata, groups.members
        squares = strata.weights**2 / strata.effective
        found, most = (members @ (squares * part) for part in strata.spread(values))
        ratio = np.divide(found, most, out=np.ones(len(found)), where=(found > 0) & (most > 0))
        mixed = members @ strata.sums(((values > 0) & (values < 1)).astype(np.float64))
        ratio = (mixed * ratio + 1) / (mixed + 1)
        shares = np.asarray(members @ (strata.weights * strata.proportions(values)) / groups.weights)
        return limits(shares, groups.weights**2 / (members @ squares) / ratio, used)


def _with_interval(value: float, variance: float, interval: Callable[[], tuple[float, float]]) -> Estimate:
    if np.isnan(variance):
        return Estimate(value, None, None, None)
    return Estimate(value, float(np.sqrt(variance)), *interval())
