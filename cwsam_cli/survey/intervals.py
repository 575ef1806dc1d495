"""Intervals for weighted sums of proportions, and for ratios of such sums, that hold for few points too.

# H strata

Symmetric intervals of 1.96 standard errors fail where a heavy stratum has few points of a class: with 0 to 2 omitted
points they cover in 41 to 90 % of the samples. So the parts of a sum get limits of their own, and they are combined.

Sources: Cai 2005, Journal of Statistical Planning and Inference 131, 63-88 (limits of one proportion, corrected to
second order); Zou, Huang and Zhang 2009, Computational Statistics & Data Analysis 53, 1080-1085 (MOVER: limits of a
sum from those of its parts); Fieller's principle for ratios.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z = 1.96
"""Half-width of a 95 % interval in standard errors."""
_ALL = 1 - 1e-12


@dataclass(frozen=True, slots=True)
class Parts:
    """A proportion in each stratum, and its limits, (H,) each."""

    value: Floats
    low: Floats
    high: Floats


def limits(proportions: Floats, points: Floats, used: NDArray[np.bool_] | bool = True) -> Parts:
    """Return 95 % limits of proportions.

    Args:
        proportions: one per stratum, (H,).
        points: points of each stratum, (H,).
        used: where the proportion may differ from what was found, (H,); elsewhere it is known.
    """
    middle, variance = Z**2 / 3 + 1 / 6, proportions * (1 - proportions)
    first, second = -13 / 18 * Z**2 - 17 / 18, Z**2 / 18 + 7 / 36
    center = (proportions * points + middle) / (points + 2 * middle)
    half = Z * np.sqrt(np.maximum(variance + (first * variance + second) / points, 0) / points)
    low = np.where(proportions <= 0, 0.0, np.clip(center - half, 0, proportions))
    high = np.where(proportions >= _ALL, 1.0, np.clip(center + half, proportions, 1))
    return Parts(proportions, np.where(used, low, proportions), np.where(used, high, proportions))


def of_sum(parts: Parts, weights: Floats, rest: Floats) -> tuple[float, float]:
    """Return 95 % limits of Σ weight × proportion.

    Args:
        parts: the proportions.
        weights: weight of each stratum, (H,).
        rest: factor of a standard error where much of a stratum is sampled, (H,).
    """
    value = float((weights * parts.value).sum())
    below, above = (weights * rest * (side - parts.value) for side in (parts.low, parts.high))
    low, high = value - np.sqrt((below**2).sum()), value + np.sqrt((above**2).sum())
    return max(0.0, float(low)), min(1.0, float(high))


def of_ratio(one: Parts, other: Parts, weights: Floats, rest: Floats) -> tuple[float, float]:
    """Return 95 % limits of the share of one sum in the sum of two. Both count different points of the same strata.

    Args:
        one: the proportions whose sum is the numerator.
        other: the proportions that the denominator has on top.
        weights: weight of each stratum, (H,).
        rest: as in `of_sum`.
    """
    y, o = one.value, other.value
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(y + o >= _ALL, -1.0, -np.sqrt(y * o / ((1 - y) * (1 - o))))
    squares, a, b = (weights * rest) ** 2, float((weights * y).sum()), float((weights * o).sum())

    def solve(up: Floats, down: Floats) -> tuple[float, float, float]:
        """Return the coefficients of c t² - 2 d t + e = 0, whose roots are the limits of t = ratio / (1 - ratio)."""
        mixed = float((squares * correlation * up * down).sum())
        return b**2 - float((squares * down**2).sum()), a * b - mixed, a**2 - float((squares * up**2).sum())

    c, d, e = solve(y - one.low, other.high - o)
    divisor = d + np.sqrt(max(0.0, d**2 - c * e))
    low = 0.0 if e <= 0 else e / divisor if divisor > 0 else np.inf
    c, d, e = solve(one.high - y, o - other.low)
    high = (d + np.sqrt(max(0.0, d**2 - c * e))) / c if c > 0 else np.inf
    return float(1 - 1 / (1 + low)), float(1 - 1 / (1 + high))
