"""A model is calibrated if it is right as often as it says."""

import numpy as np
import pytest

from cwsam_cli.metrics.reliability import BINS, calibration_error, count_bins


def test_each_pixel_is_in_one_bin() -> None:
    confidence = np.array([0, 0.5, 1 / BINS, 1, 0.999], np.float32)
    bins = count_bins(confidence, np.array([True, True, False, True, False]))
    assert bins.shape == (BINS, 3)
    assert bins[:, 0].sum() == 5 and bins[-1, 0] == 2 and bins[-1, 1] == 1
    assert bins[:, 2].sum() == pytest.approx(confidence.sum())


def test_the_error_is_the_weighted_distance_of_confidence_and_accuracy() -> None:
    bins = count_bins(
        np.array([0.9] * 10 + [0.3] * 30), np.array([True] * 6 + [False] * 4 + [True] * 12 + [False] * 18)
    )
    assert calibration_error(bins) == pytest.approx(0.25 * 0.3 + 0.75 * 0.1)


def test_a_calibrated_model_has_hardly_an_error_and_a_boastful_one_has() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 200_000)
    is_right = rng.random(confidence.size) < confidence
    assert calibration_error(count_bins(confidence, is_right)) < 0.01
    assert calibration_error(count_bins(np.sqrt(confidence), is_right)) > 0.1


def test_no_pixel_has_no_error() -> None:
    assert np.isnan(calibration_error(np.zeros((2, BINS, 3)))).all()
