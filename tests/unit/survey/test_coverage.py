"""Simulation: 95 % intervals cover the truth of a known population in 93 to 97 % of the drawn samples.

Areas with the help of probabilities are judged in the same way. The other allocations, and blocks of 3 × 3 pixels, were
simulated once with the same bounds. A class is judged where at least 30 of the drawn units are expected to show it.
With 1,000 samples, the standard error of a coverage of 0.95 is 0.7 percentage points, so a bound may be missed by two
of them.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from cwsam_cli.survey.allocation import Allocation, allocate, deviations_of, shares
from cwsam_cli.survey.assisted import assist
from cwsam_cli.survey.estimators import Estimate, Units, estimate
from tests.populations import CLASSES, population, shares_of_blocks

pytestmark = pytest.mark.slow

DRAWS, DRAWN, ENOUGH = 1000, 300, 30
LOWEST, CHANCE = 0.93, 0.014


def covers(entry: Estimate | None, true: float) -> bool:
    return entry is not None and entry.low is not None and entry.high is not None and entry.low <= true <= entry.high


@pytest.mark.parametrize(
    ("side", "allocation", "highest"), [(1, "proportional", 0.97), (1, "equal", 0.99), (5, "proportional", 0.97)]
)
def test_intervals_of_areas_and_accuracies_cover(side: int, allocation: Allocation, highest: float) -> None:
    """Equal allocation leaves few points to the largest strata, so intervals of rare classes are wide on purpose."""
    known = population()
    real, found = shares_of_blocks(known.truth, side), shares_of_blocks(known.mapped, side)
    mapped = found.argmax(axis=1)
    hits, units = real[np.arange(len(mapped)), mapped], np.bincount(mapped)
    probabilities = known.probabilities.reshape(CLASSES, -1).T
    truths = [
        real.mean(axis=0),
        np.array([hits[mapped == k].mean() for k in range(CLASSES)]),
        np.array([hits[mapped == k].sum() / real[:, k].sum() for k in range(CLASSES)]),
    ]
    parts = shares(allocation, units, deviations_of(np.array([0.9, 0.85, 0.8, 0.8, 0.7])))
    points = allocate(DRAWN, parts, np.full(CLASSES, 10), units)
    members = [np.flatnonzero(mapped == k) for k in range(CLASSES)]
    rng, covered = np.random.default_rng(2), np.zeros((5, CLASSES))
    for _ in range(DRAWS):
        drawn = np.concatenate(
            [rng.choice(own, count, replace=False) for own, count in zip(members, points, strict=True)]
        )
        sample = Units(
            strata=mapped[drawn],
            mapped=mapped[drawn],
            shares=real[drawn],
            sizes=np.ones(DRAWN),
            units=units,
            areas=units.astype(np.float64),
            has_class_strata=True,
        )
        result = estimate(sample)
        if side == 1:
            helped = assist(sample, result.proportions, probabilities[drawn], probabilities.mean(axis=0))
            covered[4] += [covers(entry, value) for entry, value in zip(helped, truths[0].tolist(), strict=True)]
        rows = (result.proportions, result.users, result.producers)
        for row, entries, true in zip(covered, rows, truths, strict=False):
            row += [covers(entry, value) for entry, value in zip(entries, true.tolist(), strict=True)]
        covered[3] += covers(result.overall, float(hits.mean()))

    def judge(coverage: NDArray[np.float64]) -> None:
        ends = coverage.min() + CHANCE, coverage.max() - CHANCE
        assert len(coverage) and ends[0] >= LOWEST and ends[1] <= highest, coverage.round(3)

    judge(covered[3, :1] / DRAWS)
    in_reference = sum((real[own] > 0).mean(axis=0) * count for own, count in zip(members, points, strict=True))
    if side == 1:
        judge((covered[4] / DRAWS)[in_reference >= ENOUGH])
    for row, expected in zip(covered, (in_reference, points, np.minimum(points, in_reference)), strict=False):
        judge((row / DRAWS)[expected >= ENOUGH])
