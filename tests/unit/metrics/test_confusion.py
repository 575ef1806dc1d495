"""Figures against scikit-learn's, and absent classes that count for nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from cwsam_cli.metrics import confusion
from cwsam_cli.metrics.confusion import compute_metrics, compute_scores, confusion_matrix, constant_matrix, or_none
from cwsam_cli.taxonomy import IGNORE

Pixels = NDArray[np.uint8]


def _pixels(classes: int, shape: tuple[int, ...] = (37, 53), seed: int = 0) -> tuple[Pixels, Pixels]:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, classes, shape, dtype=np.uint8)
    wrong = rng.integers(0, classes, shape, dtype=np.uint8)
    predicted = np.where(rng.random(shape) < 0.6, reference, wrong)
    reference[rng.random(shape) < 0.2] = IGNORE
    return reference, predicted


def _known(reference: Pixels, predicted: Pixels) -> tuple[Pixels, Pixels]:
    known = reference != IGNORE
    return reference[known], predicted[known]


@pytest.mark.parametrize("classes", [2, 7, 33, 255])
def test_the_matrix_is_scikit_learns_without_ignored_pixels(classes: int) -> None:
    reference, predicted = _pixels(classes)
    expected = metrics.confusion_matrix(*_known(reference, predicted), labels=range(classes))
    matrix = confusion_matrix(reference, predicted, classes)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == expected.tolist()


@pytest.mark.parametrize("chunk", [1, 7, 53, 1960, 1961, 1962])
def test_chunks_do_not_change_the_matrix(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    reference, predicted = _pixels(5)
    whole = confusion_matrix(reference, predicted, 5)
    monkeypatch.setattr(confusion, "_CHUNK", chunk)
    assert confusion_matrix(reference, predicted, 5).tolist() == whole.tolist()


def test_rows_are_the_reference_and_columns_the_map() -> None:
    matrix = confusion_matrix(np.array([0, 0, 1], np.uint8), np.array([1, 1, 1], np.uint8), 2)
    assert matrix.tolist() == [[0, 2], [0, 1]]


@pytest.mark.parametrize("pixels", [np.zeros(0, np.uint8), np.full((4, 4), IGNORE, np.uint8)])
def test_nothing_labelled_gives_an_empty_matrix_and_no_figures(pixels: Pixels) -> None:
    matrix = confusion_matrix(pixels, np.zeros_like(pixels), 3)
    assert matrix.tolist() == np.zeros((3, 3)).tolist()
    scores = compute_metrics(matrix)
    assert scores.pixels == 0
    assert (scores.accuracy, scores.mean_iou, scores.mean_f1, scores.frequency_weighted_iou) == (None,) * 4


@pytest.mark.parametrize("classes", [2, 7, 33])
def test_figures_are_scikit_learns(classes: int) -> None:
    reference, predicted = _pixels(classes, seed=classes)
    scores = compute_metrics(confusion_matrix(reference, predicted, classes))
    truth, guess = _known(reference, predicted)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(truth, guess, labels=range(classes))
    iou = metrics.jaccard_score(truth, guess, labels=range(classes), average=None)
    assert [row.iou for row in scores.classes] == pytest.approx(iou.tolist())
    assert [row.precision for row in scores.classes] == pytest.approx(precision.tolist())
    assert [row.recall for row in scores.classes] == pytest.approx(recall.tolist())
    assert [row.f1 for row in scores.classes] == pytest.approx(f1.tolist())
    assert [row.support for row in scores.classes] == support.tolist()
    assert [row.predicted for row in scores.classes] == np.bincount(guess, minlength=classes).tolist()
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(truth, guess))
    assert scores.mean_iou == pytest.approx(iou.mean())
    assert scores.mean_f1 == pytest.approx(f1.mean())
    assert scores.frequency_weighted_iou == pytest.approx(
        metrics.jaccard_score(truth, guess, labels=range(classes), average="weighted")
    )
    assert scores.pixels == truth.size
    assert scores.kappa == pytest.approx(metrics.cohen_kappa_score(truth, guess))


# Class 1 is neither there nor mapped; class 2 is mapped but not there; class 3 is there but not mapped.
GAPS = np.array([[6, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]], np.int64)


def test_a_class_neither_there_nor_mapped_has_no_figures() -> None:
    row = compute_metrics(GAPS).classes[1]
    assert (row.iou, row.precision, row.recall, row.f1) == (None, None, None, None)
    assert (row.support, row.predicted) == (0, 0)


def test_a_class_mapped_but_not_there_has_precision_0_and_no_other_figure() -> None:
    row = compute_metrics(GAPS).classes[2]
    assert (row.iou, row.precision, row.recall, row.f1) == (None, 0.0, None, None)
    assert (row.support, row.predicted) == (0, 2)


def test_a_class_there_but_never_mapped_scores_0_and_has_no_precision() -> None:
    row = compute_metrics(GAPS).classes[3]
    assert (row.iou, row.precision, row.recall, row.f1) == (0.0, None, 0.0, 0.0)
    assert (row.support, row.predicted) == (4, 0)


def test_means_are_taken_over_classes_that_are_there() -> None:
    scores = compute_metrics(GAPS)
    assert scores.classes[0].iou == pytest.approx(6 / 12)
    assert scores.mean_iou == pytest.approx((6 / 12 + 0) / 2)
    assert scores.mean_f1 == pytest.approx((12 / 18 + 0) / 2)
    assert scores.frequency_weighted_iou == pytest.approx(6 / 12 * 8 / 12)
    assert scores.accuracy == pytest.approx(6 / 12)


def test_a_perfect_map_scores_1_everywhere() -> None:
    scores = compute_metrics(np.diag([5, 9]).astype(np.int64))
    assert (scores.accuracy, scores.mean_iou, scores.mean_f1, scores.frequency_weighted_iou) == (1.0, 1.0, 1.0, 1.0)


def test_counts_beyond_32_bits_stay_exact() -> None:
    scores = compute_metrics(np.array([[2**40, 1], [1, 2**40]], np.int64))
    assert scores.pixels == 2**41 + 2
    assert scores.classes[0].support == 2**40 + 1


@pytest.mark.parametrize("index", [0, 2])
def test_the_constant_matrix_is_that_of_a_map_of_one_class(index: int) -> None:
    reference, predicted = _pixels(3)
    constant = constant_matrix(confusion_matrix(reference, predicted, 3), index)
    assert constant.tolist() == confusion_matrix(reference, np.full_like(predicted, index), 3).tolist()
    assert compute_metrics(constant).accuracy == pytest.approx((_known(reference, predicted)[0] == index).mean())


def test_kappa_of_a_map_that_knows_nothing_is_0_and_that_of_one_single_class_is_undefined() -> None:
    assert compute_metrics(np.array([[30, 10], [30, 10]], np.int64)).kappa == pytest.approx(0)
    assert compute_metrics(np.array([[9, 0], [0, 0]], np.int64)).kappa is None


def test_scores_of_many_matrices_are_those_of_each() -> None:
    matrices = np.stack([GAPS, np.diag([5, 9, 0, 1]), np.zeros((4, 4), np.int64)])
    many = compute_scores(matrices)
    for number, matrix in enumerate(matrices):
        one = compute_metrics(matrix)
        assert [or_none(value) for value in many.iou[number]] == [row.iou for row in one.classes]
        assert or_none(many.mean_iou[number]) == one.mean_iou
        assert or_none(many.kappa[number]) == one.kappa
