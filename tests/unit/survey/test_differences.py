"""Differences of two maps are paired: errors that both make at the same points do not widen them."""

import numpy as np
import pytest

from cwsam_cli.survey.differences import Differences, compare
from cwsam_cli.survey.estimators import Units, estimate

PIXELS = np.array([60_000, 40_000])


def maps(changed: int) -> tuple[Units, Units]:
    """400 points. The second map is wrong at `changed` points of class 0 at which the first one is right."""
    rng = np.random.default_rng(0)
    mapped = np.repeat([0, 1], [240, 160])
    reference = np.where(rng.random(400) < 0.8, mapped, 1 - mapped)
    other = mapped.copy()
    other[np.flatnonzero((mapped == 0) & (reference == 0))[:changed]] = 1
    return tuple(  # type: ignore[return-value]
        Units(
            strata=mapped,
            mapped=own,
            shares=np.eye(2)[reference],
            sizes=np.ones(400),
            units=PIXELS,
            areas=PIXELS.astype(np.float64),
            has_class_strata=own is mapped,
        )
        for own in (mapped, other)
    )


def compared(changed: int) -> Differences:
    return compare(*maps(changed))


def test_the_difference_is_that_of_the_two_estimates() -> None:
    one, two = (estimate(units) for units in maps(30))
    found = compared(30)
    assert found.overall.value == pytest.approx(one.overall.value - two.overall.value)
    assert (found.better, found.worse) == (30, 0)
    for k in range(2):
        a, b, c, d = one.users[k], two.users[k], one.producers[k], two.producers[k]
        assert a and b and c and d
        assert found.users[k].value == pytest.approx(a.value - b.value)
        assert found.producers[k].value == pytest.approx(c.value - d.value)


def test_the_paired_interval_is_narrower_than_two_separate_ones() -> None:
    one, two = (estimate(units).overall for units in maps(30))
    found = compared(30).overall
    assert one.standard_error and two.standard_error and found.low is not None and found.high is not None
    separate = 2 * 1.96 * np.hypot(one.standard_error, two.standard_error)
    assert found.high - found.low < 0.6 * separate
    assert 0 < found.low < 30 / 400 < found.high


def test_maps_that_no_point_tells_apart_may_still_differ() -> None:
    """The limits are those of a proportion of which 400 points show nothing: about 0.8 %."""
    found = compared(0)
    for entry in (found.overall, found.producers[0]):
        assert entry.value == 0 and entry.differing == 0
        assert entry.low is not None and entry.high is not None
        assert -0.03 < entry.low < -0.003 and 0.003 < entry.high < 0.03
    assert compared(9).overall.differing == 9
