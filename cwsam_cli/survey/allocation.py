"""Decide how many points to draw from each stratum.

# H strata; W their shares of the map, S the standard deviations of "the map is correct" within them

Sources: Cochran 1977, Sampling Techniques, sections 5.5 and 5.9; Olofsson et al. 2014, Remote Sensing of
Environment 148, 42-57, section 5.1.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Allocation = Literal["proportional", "neyman", "equal"]

_STEPS = 200
"""Bisections; far more than a float can tell apart."""


def shares(allocation: Allocation, pixels: Counts, deviations: Floats) -> Floats:
    """Return the share of all points that each stratum gets, (H,).

    Args:
        allocation: `proportional` to pixels, `neyman` (to pixels × deviation, so the overall accuracy has the smallest
            error), or `equal`.
        pixels: pixels of each stratum, (H,).
        deviations: S of each stratum, (H,); used by `neyman`.
    """
    if allocation == "neyman":
        parts = pixels * deviations
        if parts.any():
            return np.asarray(parts / parts.sum())
    if allocation == "equal":
        return np.full(len(pixels), 1 / len(pixels))
    return np.asarray(pixels / pixels.sum())


def deviations_of(accuracies: Floats) -> Floats:
    """Return S, (H,), from the share of correct pixels in each stratum."""
    return np.asarray(np.sqrt(accuracies * (1 - accuracies)))


def allocate(total: int, parts: Floats, least: Counts, most: Counts) -> Counts:
    """Share out points as whole numbers.

    Args:
        total: the number of points, between the sums of `least` and `most`.
        parts: share of each stratum, (H,).
        least: smallest number of points of each stratum, (H,).
        most: largest number, (H,).

    Returns:
        Points of each stratum, (H,). Their sum is `total`.
    """
    low, high = 0.0, 1.0
    parts = np.maximum(parts, 1e-12)  # a stratum without a share gets points when all others are full
    while np.clip(high * parts, least, most).sum() < total:
        high *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * parts, least, most).sum() < total else (low, middle)
    exact = np.clip(high * parts, least, most)
    points = np.floor(exact + 1e-9).astype(np.int64)
    rests = np.where(points < most, exact - points, -1.0)
    points[np.argsort(-rests, kind="stable")[: total - int(points.sum())]] += 1
    return points


def points_for_overall(target: float, pixels: Counts, parts: Floats, accuracies: Floats) -> int:
    """Return the number of points for a standard error of the overall accuracy.

    Source: Cochran 1977, section 5.9. With Neyman's allocation it is equation 13 of Olofsson et al. 2014.

    Args:
        target: the standard error.
        pixels: pixels of each stratum, (H,).
        parts: share of the points of each stratum, (H,).
        accuracies: expected share of correct pixels of each stratum, (H,).
    """
    return _points(target, pixels, parts, accuracies * (1 - accuracies))


def points_for_areas(target: float, pixels: Counts, parts: Floats, accuracies: Floats) -> int:
    """Return the number of points for a standard error of every class's share of the area.

    Strata are the map's classes. We expect the wrong pixels of a stratum to be of the other classes, in proportion to
    their areas in the map.

    Args:
        target: the largest standard error of a class's share.
        pixels: pixels of each stratum, (H,).
        parts: share of the points of each stratum, (H,).
        accuracies: expected share of correct pixels of each stratum, (H,).
    """
    total = pixels.sum()
    found = (1 - accuracies)[:, None] * pixels / np.maximum(total - pixels, 1)[:, None]
    np.fill_diagonal(found, accuracies)
    return max(_points(target, pixels, parts, column * (1 - column)) for column in found.T)


def overall_error(points: Counts, pixels: Counts, accuracies: Floats) -> float:
    """Return the standard error of the overall accuracy to expect from a design."""
    weights = pixels / pixels.sum()
    left = np.maximum(0.0, 1 - points / pixels)
    return float(np.sqrt((weights**2 * left * accuracies * (1 - accuracies) / points).sum()))


def _points(target: float, pixels: Counts, parts: Floats, variances: Floats) -> int:
    weights = pixels / pixels.sum()
    spread = weights**2 * variances
    wanted = (spread / np.maximum(parts, 1e-12)).sum() / (target**2 + (spread / pixels).sum())
    return max(1, int(np.ceil(wanted - 1e-9)))
