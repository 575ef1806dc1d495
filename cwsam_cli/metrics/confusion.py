"""Count a confusion matrix and compute metrics from it.

# K classes; rows are the reference, columns the map
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]

_CHUNK = 2**18
"""Pixels that are counted together; larger chunks do not fit the cache and are slower."""
_PAIRS = 2**16
"""Two bytes read as one number count twice as fast as products and masks. `IGNORE` has a row of its own."""
_HIGH = 1 if sys.byteorder == "little" else 0
"""Place of the byte that counts 256."""


def confusion_matrix(reference: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Matrix:
    """Count pixels by reference and predicted class index, (K, K).

    Args:
        reference: reference class indices, any shape; pixels of `IGNORE` are left out.
        predicted: predicted class indices of the same shape.
        classes: number of classes K.
    """
    reference, predicted = reference.ravel(), predicted.ravel()
    counts = np.zeros(_PAIRS, np.int64)
    for start in range(0, reference.size, _CHUNK):
        truth = reference[start : start + _CHUNK]
        pairs = np.empty((truth.size, 2), np.uint8)
        pairs[:, _HIGH], pairs[:, 1 - _HIGH] = truth, predicted[start : start + _CHUNK]
        counts += np.bincount(pairs.view(np.uint16).ravel(), minlength=_PAIRS)
    return counts.reshape(256, 256)[:classes, :classes].copy()


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Metrics of one class, 0 to 1. A metric whose denominator is 0 is None."""

    iou: float | None
    precision: float | None
    recall: float | None
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
    pixels: int
    """Number of labelled pixels."""


def compute_metrics(matrix: Matrix) -> Metrics:
    """Compute the metrics of a confusion matrix (K, K), per class and overall.

    A class without reference pixels counts as absent. It has no recall and is left out of the means.
    """
    right, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    classes = tuple(
        ClassMetrics(
            iou=_ratio(hit, truth + guess - hit) if truth else None,
            precision=_ratio(hit, guess),
            recall=_ratio(hit, truth),
            f1=_ratio(2 * hit, truth + guess) if truth else None,
            support=truth,
            predicted=guess,
        )
        for hit, truth, guess in zip(right.tolist(), support.tolist(), predicted.tolist(), strict=True)
    )
    present = [entry for entry in classes if entry.support]
    total = int(matrix.sum())
    return Metrics(
        classes=classes,
        accuracy=_ratio(int(right.sum()), total),
        mean_iou=_ratio(sum(entry.iou or 0.0 for entry in present), len(present)),
        mean_f1=_ratio(sum(entry.f1 or 0.0 for entry in present), len(present)),
        frequency_weighted_iou=_ratio(sum((entry.iou or 0.0) * entry.support for entry in present), total),
        pixels=total,
    )


def constant_matrix(matrix: Matrix, index: int) -> Matrix:
    """Return the matrix of a map that is `index` everywhere: a baseline that every model should beat."""
    constant = np.zeros_like(matrix)
    constant[:, index] = matrix.sum(axis=1)
    return constant


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
