"""Thresholds are the largest that keep the wanted share of each class."""

import math

import numpy as np
import pytest

from cwsam_cli.assess.sets import _LEVELS, find_thresholds


def counted(*classes: list[float]) -> np.ndarray:
    """Counts of the probabilities that the pixels of each class give to it."""
    counts = np.zeros((len(classes), _LEVELS + 1), np.int64)
    for row, values in zip(counts, classes, strict=True):
        np.add.at(row, (np.array(values, np.float64) * _LEVELS).astype(int), 1)
    return counts


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("pixels", [1, 9, 10, 99, 1000])
def test_the_wanted_share_of_each_class_reaches_its_threshold_and_no_larger_one_would_do(
    coverage: float, pixels: int
) -> None:
    values = np.random.default_rng(pixels).random(pixels)
    (threshold,) = find_thresholds(counted(values.tolist()), coverage)
    needed = math.ceil((pixels + 1) * coverage)
    levels = (values * _LEVELS).astype(int)
    if needed > pixels:
        assert threshold == 0
        return
    assert (levels >= round(threshold * _LEVELS)).sum() >= needed
    assert (levels >= round(threshold * _LEVELS) + 1).sum() < needed


def test_sets_hold_the_truth_as_often_as_promised_on_ground_of_the_same_kind() -> None:
    rng = np.random.default_rng(0)
    fitted, fresh = rng.beta(4, 2, (2, 50_000))
    (threshold,) = find_thresholds(counted(fitted.tolist()), 0.9)
    assert (fresh >= threshold).mean() == pytest.approx(0.9, abs=0.01)


def test_a_class_without_pixels_is_in_every_set_and_a_hidden_one_in_none() -> None:
    thresholds = find_thresholds(counted([0.5] * 100, [], []), 0.9, hidden_class=2)
    assert thresholds[0] == 0.5
    assert thresholds[1] == 0
    assert thresholds[2] > 1
