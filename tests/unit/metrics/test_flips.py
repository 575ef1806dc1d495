"""Blocks decide whether a difference may be chance, not pixels."""

import numpy as np
import pytest

from cwsam_cli.metrics.flips import flip_signs


def test_few_blocks_are_tried_exhaustively() -> None:
    assert flip_signs(np.array([3, 1, 2])) == 2 / 8  # all of one sign, or all of the other
    assert flip_signs(np.array([3, -1, 2])) == 4 / 8
    assert flip_signs(np.array([5, 0, 0])) == 1
    assert flip_signs(np.array([0, 0])) == flip_signs(np.array([])) == 1


def test_many_blocks_of_one_sign_are_no_chance_and_the_size_of_differences_counts() -> None:
    rng = np.random.default_rng(0)
    assert flip_signs(rng.integers(1, 90, 40)) == pytest.approx(1e-4, abs=1e-4)
    small_and_many = np.array([1.0] * 30 + [-100.0] * 3)
    assert 0.1 < flip_signs(small_and_many)


def test_drawn_and_exhaustive_patterns_agree() -> None:
    own = np.array([5, -1, 4, 3, -2, 6, 2, -3, 1, 4, 2, -1, 3, 2.0])
    assert flip_signs(own) == pytest.approx(flip_signs(np.append(own, 1e-7)), abs=0.02)


def test_without_a_difference_five_in_a_hundred_are_below_5_per_cent() -> None:
    rng = np.random.default_rng(3)
    found = [flip_signs(rng.normal(0, rng.uniform(1, 50, 12))) for _ in range(600)]
    assert 0.03 <= np.mean([value < 0.05 for value in found]) <= 0.07
