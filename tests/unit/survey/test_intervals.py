"""Limits of single proportions are those of their source; sums and ratios of one stratum agree with them."""

from math import comb

import numpy as np
import pytest

from cwsam_cli.survey.intervals import limits, of_ratio, of_sum

ONE = np.ones(1)


@pytest.mark.parametrize(("points", "share"), [(20, 0.1), (20, 0.5), (84, 0.02), (84, 0.9), (400, 0.02), (400, 0.5)])
def test_limits_of_a_proportion_cover(points: int, share: float) -> None:
    """Coverage is summed over all outcomes of a binomial draw. It oscillates around 0.95."""
    found = np.arange(points + 1)
    chances = np.array([comb(points, k) * share**k * (1 - share) ** (points - k) for k in range(points + 1)])
    ends = limits(found / points, np.full(points + 1, float(points)))
    covered = chances[(ends.low <= share) & (share <= ends.high)].sum()
    assert 0.92 <= covered <= 0.99
    assert (ends.low <= found / points).all() and (found / points <= ends.high).all()


def test_the_limits_of_a_proportion_are_symmetric() -> None:
    found = np.linspace(0, 1, 21)
    ends = limits(found, np.full(21, 40.0))
    assert ends.low == pytest.approx(1 - ends.high[::-1])
    assert (ends.low[0], ends.high[-1]) == (0, 1)


def test_a_ratio_within_one_stratum_is_a_proportion() -> None:
    """All points are one or the other, so the ratio has the limits of the proportion."""
    for share in (0.3, 0.9, 1.0):
        one, other = (limits(np.array([value]), np.array([50.0])) for value in (share, 1 - share))
        low, high = of_ratio(one, other, ONE, ONE)
        assert low == pytest.approx(one.low[0], abs=1e-6)
        assert high == pytest.approx(one.high[0], abs=1e-6)


def test_a_sum_of_one_stratum_is_a_proportion() -> None:
    parts = limits(np.array([0.2]), np.array([50.0]))
    assert of_sum(parts, ONE, ONE) == pytest.approx((parts.low[0], parts.high[0]))


def test_more_points_and_a_larger_sampled_share_narrow_the_limits() -> None:
    widths = []
    for points, rest in ((50.0, 1.0), (50.0, 0.5), (500.0, 1.0)):
        low, high = of_sum(limits(np.array([0.2, 0.6]), np.full(2, points)), np.array([0.5, 0.5]), np.full(2, rest))
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 2)
    assert widths[2] < widths[0] / 3


def test_what_cannot_vary_adds_no_width() -> None:
    parts = limits(np.array([0.2, 0.0]), np.full(2, 50.0), np.array([True, False]))
    assert (parts.low[1], parts.high[1]) == (0, 0)


def test_the_limits_of_a_ratio_are_where_the_sum_that_it_makes_zero_may_be_zero() -> None:
    """Fieller's principle, checked at the limits: numerator × (1 - ratio) - rest × ratio."""
    weights, ones = np.array([0.3, 0.7]), np.ones(2)
    one = limits(np.array([0.8, 0.0]), np.array([30.0, 200.0]), np.array([True, False]))
    other = limits(np.array([0.0, 0.02]), np.array([30.0, 200.0]), np.array([False, True]))
    low, high = of_ratio(one, other, weights, ones)
    assert 0 < low < 0.24 / (0.24 + 0.014) < high < 1
    for ratio, upper in ((low, False), (high, True)):
        a = (1 - ratio) * weights[0] * ((one.high if upper else one.low)[0] - 0.8)
        b = ratio * weights[1] * ((other.low if upper else other.high)[1] - 0.02)
        assert abs(0.24 * (1 - ratio) - 0.014 * ratio) == pytest.approx(np.hypot(a, b))
