"""Means of values over a stratified random sample, and their variances.

# N units of a sample, H strata

A unit is a pixel, or a block of pixels. Units may differ in size on the ground. The mean of a stratum is then itself a
ratio: the sum of value × size over the sampled units, divided by the sum of their sizes.
Source: Cochran 1977, Sampling Techniques, sections 2.6, 5.3 and 6.11.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_NEGLIGIBLE = 0.05
"""Share of a stratum that may be sampled without a finite population correction (Cochran 1977, section 2.6)."""


@dataclass(frozen=True, slots=True)
class Stratified:
    """Strata and sampled units as the formulas need them."""

    strata: Counts
    """The stratum of each unit, (N,), 0 to H - 1."""
    sizes: Floats
    """Size of each unit on the ground, (N,), in any unit."""
    points: Counts
    """Sampled units of each stratum, (H,)."""
    weights: Floats
    """Share of each stratum in the total area, (H,)."""
    scale: Floats
    """From a sum of squares to a variance, (H,); NaN for a single unit of several."""
    effective: Floats
    """Number of units of equal size with the same information, (H,)."""
    rest: Floats
    """Square root of the finite population correction, (H,)."""

    @classmethod
    def of(cls, strata: Counts, sizes: Floats, units: Counts, areas: Floats) -> "Stratified":
        """Prepare a sample.

        Args:
            strata: the stratum of each sampled unit, (N,). Each stratum has at least one.
            sizes: size of each unit on the ground, (N,).
            units: units of each stratum in the map, (H,).
            areas: area of each stratum, (H,), in the unit of `sizes`.
        """
        count = len(units)
        points, sampled = np.bincount(strata, minlength=count), np.bincount(strata, sizes, count)
        weights, share = areas / areas.sum(), points / units
        left = np.where(share > _NEGLIGIBLE, np.maximum(0.0, 1 - share), 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = weights**2 * left * points / (points - 1) / sampled**2
        return cls(
            strata=strata,
            sizes=sizes,
            points=points,
            weights=weights,
            scale=np.where(left == 0, 0.0, np.where(points < 2, np.nan, scale)),
            effective=sampled**2 / np.bincount(strata, sizes**2, count),
            rest=np.sqrt(left),
        )

    @property
    def unit_weights(self) -> Floats:
        """Share of the total area for which each unit stands, (N,)."""
        sampled = np.bincount(self.strata, self.sizes, len(self.points))
        return np.asarray(self.sizes * (self.weights / sampled)[self.strata])

    def sums(self, values: Floats) -> Floats:
        """Return the sum of values (N,) by stratum, (H,)."""
        return np.bincount(self.strata, values, len(self.points)).astype(np.float64)

    def proportions(self, values: Floats) -> Floats:
        """Return the mean of values (N,) in each stratum, (H,)."""
        return self.sums(self.sizes * values) / self.sums(self.sizes)

    def mean(self, values: Floats) -> float:
        """Return the mean of values (N,) over the whole area."""
        return float(self.weights @ self.proportions(values))

    def covariance(self, one: Floats, other: Floats, used: NDArray[np.bool_] | None = None) -> float:
        """Return the covariance of the means of two values, (N,) each.

        Args:
            one: values.
            other: values of the same units.
            used: strata that count, (H,); in others the values are known to be constant. None uses all.

        Returns:
            The covariance; NaN if a stratum that counts has a single unit of several.
        """
        residuals = [self.sizes * (values - self.proportions(values)[self.strata]) for values in (one, other)]
        parts = self.scale * self.sums(residuals[0] * residuals[1])
        return float(np.sum(parts if used is None else np.where(used, parts, 0.0)))

    def variance(self, values: Floats, used: NDArray[np.bool_] | None = None) -> float:
        """Return the variance of the mean of values; see `covariance`."""
        return self.covariance(values, values, used)

    def spread(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the variance of values of 0 to 1 in each stratum, (H,), and the one that they have if all are 0 or 1.

        The two differ for units of which a part has a class.
        """
        shares = self.proportions(values)
        squares = self.sizes**2
        found = self.sums(squares * (values - shares[self.strata]) ** 2) / self.sums(squares)
        most = self.sums(squares * (values + shares[self.strata] * (shares[self.strata] - 2 * values)))
        return found, most / self.sums(squares)
