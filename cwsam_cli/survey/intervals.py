"""Intervals for weighted sums of proportions, and for ratios of such sums, that hold for few points too.

# H strata

Symmetric intervals of 1.96 standard errors fail where a heavy stratum has few points of a class: with 0 to 2 omitted
points they cover in 41 to 90 % of the samples. So each stratum gets limits of its own, and they are combined.

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
_ROUNDS, _GRID = 6, 33
"""A limit is searched on a grid, then between two points of it, and so on: to 1e-9."""
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
    whole = float((weights * (y + o)).sum())
    value = float((weights * y).sum()) / whole

    def is_inside(ratios: Floats, sign: int) -> NDArray[np.bool_]:
        """Return whether Σ weight × (one × (1 - ratio) - other × ratio) may be 0, seen from below or above."""
        r = ratios[:, None]
        a = (1 - r) * (y - one.low if sign < 0 else one.high - y)
        b = r * (other.high - o if sign < 0 else o - other.low)
        spread = (weights * rest) ** 2 * (a**2 + b**2 - 2 * correlation * a * b)
        center = (weights * (y * (1 - r) - o * r)).sum(axis=1)
        return np.asarray(sign * center + np.sqrt(np.maximum(spread, 0).sum(axis=1)) >= 0)

    found = []
    for sign, outside in ((-1, 0.0), (1, 1.0)):
        inside = value
        for _ in range(_ROUNDS):
            ratios = np.linspace(inside, outside, _GRID)
            last = int(np.append(is_inside(ratios[1:], sign), False).argmin())
            inside, outside = ratios[last], ratios[min(last + 1, _GRID - 1)]
        found.append(float(inside))
    return found[0], found[1]
