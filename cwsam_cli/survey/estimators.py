"""Estimate accuracy and areas from a stratified random sample of pixels.

# H strata, K classes; matrices (K, K) have rows of map classes and columns of reference classes

Strata need not be the map's classes. Every estimate is a total of indicators, or the ratio of two
such totals. Pixels may differ in size on the ground. The share of an indicator in a stratum is then
itself a ratio: the sampled ground that has it, of the sampled ground.

Sources: Stehman 2014, International Journal of Remote Sensing 35, 4923-4939 (ratios, strata that
differ from classes); Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57 (strata are map
classes: the same formulas); Cochran 1977, Sampling Techniques, sections 5.3 and 6.11.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z = 1.96
"""Half-width of a 95 % interval in standard errors."""
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
        """Half-width of the symmetric 95 % interval."""
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
        Estimates. A standard error is None where a stratum that it depends on has a single point of several pixels.
    """
    weights = tallies.areas / tallies.areas.sum()
    shares = tallies.sizes / tallies.sizes.sum(axis=(1, 2), keepdims=True)
    matrix = np.asarray(np.einsum("h,hij->ij", weights, shares))
    hit = np.eye(len(matrix))
    scale = _scale(tallies, weights)

    def variance(residuals: Floats, used: NDArray[np.bool_] | bool = True) -> float:
        means = np.einsum("hij,ij->h", shares, residuals)
        spread = np.einsum("hij,hij->h", tallies.squares, (residuals - means[:, None, None]) ** 2)
        return float(np.sum(np.where(used, scale * spread, 0.0)))

    def accuracy(within: Floats, used: NDArray[np.bool_] | bool = True) -> Estimate | None:
        """Estimate the share of correct ground within some cells of the matrix."""
        points, whole = int((tallies.counts * within).sum()), float((matrix * within).sum())
        if not points:
            return None
        value = float((matrix * within * hit).sum()) / whole
        return _accuracy(value, variance(within * (hit - value) / whole, used), points)

    users, producers, proportions = [], [], []
    for k in range(len(matrix)):
        mapped, real = np.zeros_like(matrix), np.zeros_like(matrix)
        mapped[k], real[:, k] = 1, 1
        # A stratum without a point of the map class does not count, even if it has a single point.
        users.append(accuracy(mapped, tallies.counts[:, k].sum(axis=1) > 0))
        producers.append(accuracy(real))
        proportions.append(_area(float(matrix[:, k].sum()), variance(real)))
    overall = accuracy(np.ones_like(matrix))
    assert overall is not None
    return Estimates(matrix, overall, tuple(proportions), tuple(users), tuple(producers))


def _scale(tallies: Tallies, weights: Floats) -> Floats:
    """Return the factor of each stratum, (H,), from a sum of squares to a variance; NaN for a single point."""
    points, sampled = tallies.points, tallies.sizes.sum(axis=(1, 2))
    sampled_share = points / tallies.pixels
    left = np.where(sampled_share > _NEGLIGIBLE, np.maximum(0.0, 1 - sampled_share), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = weights**2 * left * points / (points - 1) / sampled**2
    return np.where(left == 0, 0.0, np.where(points < 2, np.nan, scale))


def _area(value: float, variance: float) -> Estimate:
    if np.isnan(variance):
        return Estimate(value, None, None, None)
    error = float(np.sqrt(variance))
    return Estimate(value, error, max(0.0, value - Z * error), min(1.0, value + Z * error))


def _accuracy(value: float, variance: float, points: int) -> Estimate:
    """Add Wilson's interval for the number of simple random points that would give this variance.

    Unlike a symmetric interval it stays within 0 to 1, and it has a width if every point is correct.
    Source: Brown, Cai and DasGupta 2001, Statistical Science 16, 101-133; the effective number of points as in
    Korn and Graubard 1998, Survey Methodology 24, 193-201.
    """
    if np.isnan(variance):
        return Estimate(value, None, None, None)
    product = value * (1 - value)
    count = product / variance if product > 0 and variance > 0 else points
    middle = (value + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(product / count + Z**2 / (4 * count**2))
    low = float(middle - half) if value > 0 else 0.0
    high = float(middle + half) if value < 1 else 1.0
    return Estimate(value, float(np.sqrt(variance)), low, high)
