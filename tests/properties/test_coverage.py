"""The 95 % intervals of a sample hold the truth in 93 to 97 % of 1,000 samples of a known reference.

Pixels of a stratum are drawn with replacement from its shares, which for strata of millions of pixels is the same.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cwsam_cli.sample.draw import further_allocation
from cwsam_cli.survey.allocation import Allocation, allocate, deviations_of, shares
from cwsam_cli.survey.estimators import Estimate, Units, estimate

SAMPLES = 1_000
EXPECTED = 30
"""Expected points from which a class counts."""
Counts = NDArray[np.int64]
MAPPED = np.array([0.45, 0.27, 0.16, 0.08, 0.04])
ACCURACY = np.array([0.92, 0.85, 0.8, 0.75, 0.7])
WRONG = (1 - ACCURACY)[:, None] * MAPPED * (1 - np.eye(5)) / (1 - MAPPED)[:, None]
TRUTH = MAPPED[:, None] * (WRONG + np.diag(ACCURACY))
"""Shares of the ground: rows are map classes, columns the reference."""
PIXELS = np.round(MAPPED * 10_000_000).astype(np.int64)

Draw = Callable[[np.random.Generator], Counts]


def classes_as_strata(points: Counts) -> Draw:
    def draw(rng: np.random.Generator) -> Counts:
        counts = np.zeros((5, 5, 5), np.int64)
        for k, count in enumerate(points):
            counts[k, k] = rng.multinomial(count, TRUTH[k] / MAPPED[k])
        return counts

    return draw


def by_allocation(allocation: Allocation, total: int) -> tuple[Draw, Counts]:
    parts = shares(allocation, PIXELS, deviations_of(ACCURACY))
    points = allocate(total, parts, np.full(5, 10), PIXELS)
    return classes_as_strata(points), points


def continued(first: int, more: int) -> tuple[Draw, Counts]:
    """Draw a first sample, and further points by what it found."""
    _, points = by_allocation("proportional", first)

    def draw(rng: np.random.Generator) -> Counts:
        counts = classes_as_strata(points)(rng)
        right = np.trace(counts, axis1=1, axis2=2)
        added = further_allocation(more, PIXELS, points, right, points)
        return counts + classes_as_strata(added)(rng)

    return draw, np.round(points * (first + more) / first).astype(np.int64)


def regions(points: Counts, mixture: NDArray[np.float64]) -> tuple[Draw, Counts]:
    """Strata are regions in which the map's classes have other shares."""

    def draw(rng: np.random.Generator) -> Counts:
        return np.stack(
            [
                rng.multinomial(count, (TRUTH / MAPPED[:, None] * row[:, None]).ravel()).reshape(5, 5)
                for count, row in zip(points, mixture, strict=True)
            ]
        )

    return draw, points


def covered(
    draw: Draw, pixels: Counts, truth: NDArray[np.float64], *, has_class_strata: bool
) -> dict[str, NDArray[np.float64]]:
    """Return how often each interval holds the truth, and the mean points of each class, (K,)."""
    rng = np.random.default_rng(0)
    right, in_map, real = np.diag(truth), truth.sum(axis=1), truth.sum(axis=0)
    hits = {name: np.zeros(5) for name in ("areas", "users", "producers", "overall", "points", "mapped")}

    def holds(entry: Estimate | None, value: float) -> bool:
        return entry is not None and entry.low is not None and entry.low <= value <= (entry.high or 0)

    for _ in range(SAMPLES):
        counts = draw(rng)
        points = np.repeat(np.indices(counts.shape).reshape(3, -1), counts.ravel(), axis=1)
        found = estimate(Units.of_points(*points, classes=5, has_class_strata=has_class_strata, pixels=pixels))
        hits["overall"] += holds(found.overall, right.sum())
        hits["points"] += counts.sum(axis=(0, 1))
        hits["mapped"] += counts.sum(axis=(0, 2))
        for k in range(5):
            hits["areas"][k] += holds(found.proportions[k], real[k])
            hits["users"][k] += holds(found.users[k], right[k] / in_map[k])
            hits["producers"][k] += holds(found.producers[k], right[k] / real[k])
    return {name: values / SAMPLES for name, values in hits.items()}


MIXTURE = np.array([[0.65, 0.2, 0.1, 0.04, 0.01], [0.2, 0.4, 0.25, 0.1, 0.05], [0.4, 0.2, 0.15, 0.13, 0.12]])
AREAS = np.array([5_000_000, 4_000_000, 1_000_000])
DESIGNS = {
    "proportional": (*by_allocation("proportional", 800), PIXELS, TRUTH),
    "neyman": (*by_allocation("neyman", 800), PIXELS, TRUTH),
    "equal": (*by_allocation("equal", 800), PIXELS, TRUTH),
    "more": (*continued(400, 400), PIXELS, TRUTH),
    "regions": (
        *regions(np.array([400, 320, 80]), MIXTURE),
        AREAS,
        TRUTH / MAPPED[:, None] * (AREAS @ MIXTURE / AREAS.sum())[:, None],
    ),
    "equal regions": (
        *regions(np.array([270, 270, 260]), MIXTURE),
        AREAS,
        TRUTH / MAPPED[:, None] * (AREAS @ MIXTURE / AREAS.sum())[:, None],
    ),
    "random": (*regions(np.array([800]), MAPPED[None]), np.array([10_000_000]), TRUTH),
}


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_hold_the_truth_in_19_of_20_samples(design: str) -> None:
    """Of accuracies up to 98 %: regions of unequal shares are joined as if they were alike, which widens intervals."""
    draw, _, pixels, truth = DESIGNS[design]
    rates = covered(draw, pixels, truth, has_class_strata=pixels is PIXELS)
    often, mapped = rates["points"] >= EXPECTED, rates["mapped"] >= EXPECTED
    assert often.sum() >= 4
    for name, counts, most in (
        ("areas", often, 0.97),
        ("users", mapped, 0.98),
        ("producers", often, 0.98),
        ("overall", often, 0.97),
    ):
        rates_of_common, rare = rates[name][counts], rates[name][~counts]
        assert ((0.93 <= rates_of_common) & (rates_of_common <= most)).all(), (name, rates)
        assert (rare >= 0.93).all(), (name, rates)
