"""Differences are paired: both models are drawn on the same blocks."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.assess.compare import Comparison, compare_counts, comparison_dict, comparison_table
from cwsam_cli.taxonomy import from_names
from tests.unit.assess.counted import counted, evaluation, places

CLASSES = from_names(["water", "forest", "rock"])


def matrices(right: NDArray[Any]) -> NDArray[Any]:
    """Blocks of 200 pixels, of which so many per class are right, water and forest."""
    found = np.zeros((len(right), 3, 3), np.int64)
    found[:, 0, 0], found[:, 0, 1] = right, 100 - right
    found[:, 1, 1], found[:, 1, 2] = right, 100 - right
    return found


def comparison(first: NDArray[Any], second: NDArray[Any]) -> Comparison:
    where = places(*(("scene.tif", str(number)) for number in range(len(first))))
    both = matrices(first), matrices(second)
    results = tuple(evaluation(own, CLASSES, where) for own in both)
    return compare_counts((Path("a.pth"), Path("b.pth")), results, tuple(counted(own, where) for own in both), where)


HARD = np.random.default_rng(0).integers(20, 95, 30)  # some blocks are harder for every model


def test_a_model_equals_itself() -> None:
    result = comparison(HARD, HARD)
    assert (result.better, result.worse, result.p_value) == (0, 0, 1)
    assert result.intervals["accuracy"] == (0, 0)
    assert "may be chance" in comparison_table(result)


def test_a_small_gain_in_every_block_is_found_though_blocks_differ_widely() -> None:
    result = comparison(HARD + 3, HARD)
    assert (result.better, result.worse) == (30, 0)
    assert result.p_value < 0.001
    low, high = result.intervals["accuracy"]
    assert 0.0299 <= low <= high <= 0.0301
    alone = result.first.intervals["accuracy"]
    assert alone[1] - alone[0] > 0.1  # unpaired, the models could not be told apart
    low, high = result.class_intervals["recall"][0]
    assert low > 0


def test_signs_follow_the_order_of_the_models() -> None:
    result = comparison(HARD, HARD + 3)
    assert (result.better, result.worse) == (0, 30)
    assert result.intervals["accuracy"][1] < 0
    figures = {(row["class"], row["figure"]): row for row in comparison_dict(result)["figures"]}
    assert round(figures["", "accuracy"]["difference"], 6) == -0.03
    assert "second in 30, of 30" in comparison_table(result)


def test_an_absent_class_has_no_difference() -> None:
    figures = {(row["class"], row["figure"]): row for row in comparison_dict(comparison(HARD + 1, HARD))["figures"]}
    row = figures["rock", "iou"]
    assert (row["difference"], row["low"], row["high"]) == (None, None, None)
