"""Sizes of samples and their shares, as their sources give them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwsam_cli.survey.allocation import (
    allocate,
    deviations_of,
    overall_error,
    points_for_areas,
    points_for_overall,
    shares,
)

PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
EXPECTED = np.array([0.70, 0.60, 0.90, 0.95])


def test_olofssons_example_needs_641_points() -> None:
    parts = shares("neyman", PIXELS, deviations_of(EXPECTED))
    assert points_for_overall(0.01, PIXELS, parts, EXPECTED) == 641


def test_proportional_allocation_needs_as_many_points_as_cochran_says() -> None:
    """Section 5.9, proportional allocation: n = (Σ W S²) / (V + Σ W S² / N)."""
    weights, variances = PIXELS / PIXELS.sum(), EXPECTED * (1 - EXPECTED)
    mean = (weights * variances).sum()
    expected = mean / (0.01**2 + mean / PIXELS.sum())
    parts = shares("proportional", PIXELS, deviations_of(EXPECTED))
    assert points_for_overall(0.01, PIXELS, parts, EXPECTED) == int(np.ceil(expected))


@pytest.mark.parametrize("allocation", ["proportional", "neyman", "equal"])
def test_the_points_that_a_target_needs_reach_it(allocation) -> None:
    parts = shares(allocation, PIXELS, deviations_of(EXPECTED))
    count = points_for_overall(0.01, PIXELS, parts, EXPECTED)
    points = np.maximum(1, np.ceil(parts * count)).astype(int)
    assert overall_error(points, PIXELS, EXPECTED) <= 0.01
    fewer = np.maximum(1, np.floor(parts * count * 0.97)).astype(int)
    assert overall_error(fewer, PIXELS, EXPECTED) > 0.01


def test_neymans_allocation_has_the_smallest_error_of_the_overall_accuracy() -> None:
    errors = {}
    for allocation in ("proportional", "neyman", "equal"):
        parts = shares(allocation, PIXELS, deviations_of(EXPECTED))  # type: ignore[arg-type]
        points = allocate(640, parts, np.full(4, 2), PIXELS)
        errors[allocation] = overall_error(points, PIXELS, EXPECTED)
    assert errors["neyman"] < errors["proportional"] < errors["equal"]


def test_the_target_of_areas_holds_for_the_class_with_the_largest_error() -> None:
    parts = shares("equal", PIXELS, deviations_of(EXPECTED))
    count = points_for_areas(0.005, PIXELS, parts, EXPECTED)
    weights = PIXELS / PIXELS.sum()
    errors = []
    for k in range(4):
        found = np.where(np.arange(4) == k, EXPECTED, (1 - EXPECTED) * weights[k] / (1 - weights))
        errors.append(np.sqrt((weights**2 * found * (1 - found) / (parts * count)).sum()))
    assert max(errors) == pytest.approx(0.005, rel=0.01)


@given(st.data())
def test_points_sum_to_the_total_within_their_limits(data: st.DataObject) -> None:
    strata = data.draw(st.integers(1, 12))
    parts = np.array(data.draw(st.lists(st.floats(0, 1), min_size=strata, max_size=strata)))
    most = np.array(data.draw(st.lists(st.integers(1, 500), min_size=strata, max_size=strata)))
    least = np.minimum(data.draw(st.integers(0, 30)), most)
    total = data.draw(st.integers(int(least.sum()), int(most.sum())))
    points = allocate(total, parts, least, most)
    assert points.sum() == total
    assert (points >= least).all() and (points <= most).all()


def test_points_follow_the_shares() -> None:
    assert allocate(100, np.array([0.5, 0.3, 0.2]), np.zeros(3, int), np.full(3, 1000)).tolist() == [50, 30, 20]
    assert allocate(100, np.array([0.9, 0.09, 0.01]), np.full(3, 10), np.full(3, 1000)).tolist() == [80, 10, 10]
