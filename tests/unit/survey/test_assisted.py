"""Probabilities that agree with the reference narrow the estimate of an area; others change nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cwsam_cli.survey.assisted import assist
from cwsam_cli.survey.estimators import Units, estimate

COUNT = 400


@pytest.fixture
def units() -> Units:
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], COUNT // 2)
    reference = np.where(rng.random(COUNT) < 0.8, strata, 1 - strata)
    return Units.of_points(
        strata, strata, reference, classes=2, has_class_strata=True, pixels=np.array([30_000, 10_000])
    )


def test_perfect_probabilities_give_their_own_mean(units: Units) -> None:
    """The probabilities know each pixel's class. Their mean over the map is the area, without error."""
    plain = estimate(units).proportions
    for found in assist(units, plain, units.shares, np.array([0.61, 0.39])):
        assert found is not None and found.standard_error == pytest.approx(0, abs=1e-9)
    first, second = assist(units, plain, units.shares, np.array([0.61, 0.39]))
    assert first is not None and second is not None
    assert (first.value, second.value) == (pytest.approx(0.61), pytest.approx(0.39))


def test_useless_probabilities_change_little(units: Units) -> None:
    noise: NDArray[np.float64] = np.random.default_rng(1).random((COUNT, 2))
    plain = estimate(units).proportions
    for found, alone in zip(assist(units, plain, noise, np.array([0.5, 0.5])), plain, strict=True):
        assert found is not None and alone.standard_error is not None
        assert found.value == pytest.approx(alone.value, abs=0.1 * alone.standard_error)
        assert found.standard_error == pytest.approx(alone.standard_error, rel=0.02)


def test_a_sample_that_drew_too_high_probabilities_is_corrected_downwards(units: Units) -> None:
    half = 0.5 * units.shares + 0.2
    plain = estimate(units).proportions
    mean = units.stratified.mean(half[:, 0])
    (found, _) = assist(units, plain, half, np.array([mean - 0.01, 0.5]))
    assert found is not None and found.value == pytest.approx(plain[0].value - 0.01, abs=1e-9)  # the slope is at most 1


def test_probabilities_that_do_not_vary_cannot_help(units: Units) -> None:
    assert assist(units, estimate(units).proportions, np.full((COUNT, 2), 0.5), np.array([0.5, 0.5])) == (None, None)
