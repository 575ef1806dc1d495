"""The summary says in words what the figures say."""

import numpy as np

from cwsam_cli.assess.words import describe_blocks, list_limits, summarize
from cwsam_cli.taxonomy import from_names
from tests.unit.assess.counted import evaluation, places

CLASSES = from_names(["water", "forest", "rock"])
MATRIX = np.array([[80, 20, 0], [10, 90, 0], [0, 0, 0]], np.int64)


def test_a_summary_names_accuracy_blocks_best_and_worst_class_and_the_commonest_error() -> None:
    text = " ".join(summarize(evaluation(np.stack([MATRIX, MATRIX + 10, MATRIX]), CLASSES)))
    assert (
        text.startswith("Overall accuracy 0.7")
        and " ± 0.0" in text
        and "from 3 blocks with 690 labelled pixels" in text
    )
    assert "forest is mapped best" in text
    assert "21 % of water is mapped as forest" in text


def test_a_spread_below_a_hundredth_has_three_digits() -> None:
    (first, *_) = summarize(evaluation(np.stack([MATRIX * 1000 + number for number in range(30)]), CLASSES))
    assert first.startswith("Overall accuracy 0.8") and "± 0.000 from" in first


def test_a_summary_of_one_block_has_no_spread() -> None:
    (first, *_) = summarize(evaluation(MATRIX[None], CLASSES))
    assert first == "Overall accuracy 0.85 from 1 block with 200 labelled pixels."


def test_the_summary_says_whether_the_model_is_too_sure() -> None:
    assert "not sure enough: confidence 0.62, accuracy 0.85" in summarize(evaluation(MATRIX[None], CLASSES))[-1]


def test_a_perfect_map_of_one_class_has_nothing_to_compare() -> None:
    sentences = summarize(evaluation(np.diag([9, 0, 0])[None], CLASSES))
    assert not any("error" in text or "worst" in text for text in sentences)


def test_few_blocks_and_unnamed_blocks_are_told() -> None:
    few = evaluation(np.stack([MATRIX] * 4), CLASSES)
    assert "not reliable" in describe_blocks(few)
    tiles = places(*(("scene.tif", str(number)) for number in range(12)), has_blocks=False)
    unnamed = describe_blocks(evaluation(np.stack([MATRIX] * 12), CLASSES, tiles))
    assert "names no blocks" in unnamed and "not reliable" not in unnamed
    assert "no intervals" in describe_blocks(evaluation(MATRIX[None], CLASSES))


def test_limits_name_classes_without_labels_and_classes_in_few_blocks() -> None:
    limits = " ".join(list_limits(evaluation(np.stack([MATRIX] * 4), CLASSES)))
    assert "without labelled pixels: rock" in limits
    assert "fewer than 10 blocks: water, forest" in limits
