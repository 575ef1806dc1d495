"""Count a confusion matrix and compute metrics from it.

# K classes; rows are the reference, columns the map
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]

_CHUNK = 2**16
"""Pixels that are counted together; larger chunks do not fit the cache and are slower."""


def confusion_matrix(reference: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Matrix:
    """Count pixels by reference and predicted class index, (K, K).

    Args:
        reference: reference class indices, any shape; pixels of `IGNORE` are left out.
        predicted: predicted class indices of the same shape, all below `classes`.
        classes: number of classes K, at most 255.
    """
    reference, predicted = reference.ravel(), predicted.ravel()
    # Both indices become one number of as few bits as K needs, so that few counters are in use. The bits of `IGNORE`
    # are all 1, and no class has this index, so it has a row of its own.
    bits = classes.bit_length()
    counts = np.zeros(1 << 2 * bits, np.int64)
    for start in range(0, reference.size, _CHUNK):
        pairs = reference[start : start + _CHUNK].astype(np.uint16)
        pairs <<= bits
        pairs |= predicted[start : start + _CHUNK]
        pairs &= len(counts) - 1
        counts += np.bincount(pairs, minlength=len(counts))
    return counts.reshape(1 << bits, -1)[:classes, :classes].copy()


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Metrics of one class, 0 to 1. A metric whose denominator is 0 is None."""

    iou: float | None
    precision: float | None
    """User's accuracy."""
    recall: float | None
    """Producer's accuracy."""
    f1: float | None
    support: int
    """Number of reference pixels of the class."""
    predicted: int
    """Number of pixels predicted as the class."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a confusion matrix, 0 to 1. Means are over the classes that occur in the reference."""

    classes: tuple[ClassMetrics, ...]
    accuracy: float | None
    """Share of correct pixels."""
    mean_iou: float | None
    mean_f1: float | None
    frequency_weighted_iou: float | None
    kappa: float | None
    """Cohen's kappa, -1 to 1; None if reference and map both have one and the same class."""
    pixels: int
    """Number of labelled pixels."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of many confusion matrices at once; NaN where a denominator is 0. See `Metrics`."""

    iou: NDArray[np.float64]
    """(..., K), as are the next three."""
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    """(...), as are the next four."""
    mean_iou: NDArray[np.float64]
    mean_f1: NDArray[np.float64]
    frequency_weighted_iou: NDArray[np.float64]
    kappa: NDArray[np.float64]


def compute_scores(matrices: NDArray[Any]) -> Scores:
    """Compute the metrics of confusion matrices (..., K, K).

    A class without reference pixels counts as absent. It has no recall and is left out of the means.
    """
    counts = matrices.astype(np.float64)
    right, support, predicted = np.einsum("...ii->...i", counts), counts.sum(axis=-1), counts.sum(axis=-2)
    total, hits = support.sum(axis=-1), right.sum(axis=-1)
    is_present = support > 0
    present = is_present.sum(axis=-1)
    iou = ratio(right, np.where(is_present, support + predicted - right, 0))
    f1 = ratio(2 * right, np.where(is_present, support + predicted, 0))
    known_iou, known_f1 = (np.where(is_present, values, 0) for values in (iou, f1))
    accuracy = ratio(hits, total)
    by_chance = ratio((support * predicted).sum(axis=-1), total**2)
    return Scores(
        iou=iou,
        precision=ratio(right, predicted),
        recall=ratio(right, support),
        f1=f1,
        accuracy=accuracy,
        mean_iou=ratio(known_iou.sum(axis=-1), present),
        mean_f1=ratio(known_f1.sum(axis=-1), present),
        frequency_weighted_iou=ratio((known_iou * support).sum(axis=-1), total),
        kappa=ratio(accuracy - by_chance, 1 - by_chance),
    )


def compute_metrics(matrix: Matrix) -> Metrics:
    """Compute the metrics of a confusion matrix (K, K), per class and overall; see `compute_scores`."""
    scores = compute_scores(matrix)
    support, predicted = matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist()
    names = ("iou", "precision", "recall", "f1")
    return Metrics(
        classes=tuple(
            ClassMetrics(
                **{name: or_none(getattr(scores, name)[index]) for name in names},
                support=support[index],
                predicted=predicted[index],
            )
            for index in range(len(matrix))
        ),
        accuracy=or_none(scores.accuracy),
        mean_iou=or_none(scores.mean_iou),
        mean_f1=or_none(scores.mean_f1),
        frequency_weighted_iou=or_none(scores.frequency_weighted_iou),
        kappa=or_none(scores.kappa),
        pixels=int(matrix.sum()),
    )


def constant_matrix(matrix: Matrix, index: int) -> Matrix:
    """Return the matrix of a map that is `index` everywhere: a baseline that every model should beat."""
    constant = np.zeros_like(matrix)
    constant[:, index] = matrix.sum(axis=1)
    return constant


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide, with NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(np.shape(part), np.shape(whole)), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) != 0)
    return result


def or_none(value: float | NDArray[np.float64]) -> float | None:
    """Return a plain number, or None for NaN."""
    number = float(value)
    return None if math.isnan(number) else number
