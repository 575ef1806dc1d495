"""Compare how sure a model says it is with how often it is right.

Pixels are grouped by the probability of the predicted class, in bins of equal width. The expected calibration error
is the mean distance between a bin's mean probability and its share of correct pixels, weighted by pixels.
Source: Guo et al. 2017, On calibration of modern neural networks, ICML.

# N bins
"""

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.metrics.confusion import ratio

BINS = 15


def count_bins(confidence: NDArray[np.float32], is_right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Count pixels by confidence, (N, 3): pixels, correct pixels, sum of the confidence.

    Args:
        confidence: probability of the predicted class, 0 to 1, any shape.
        is_right: whether the predicted class is the reference class, of the same shape.
    """
    number = np.minimum((confidence.ravel() * BINS).astype(np.int64), BINS - 1)
    weights = (None, is_right.ravel(), confidence.ravel())
    return np.stack([np.bincount(number, weight, BINS).astype(np.float64) for weight in weights], axis=1)


def calibration_error(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the expected calibration error from counts (..., N, 3), (...). It is NaN without pixels."""
    pixels, right, confidence = np.moveaxis(bins, -1, 0)
    return ratio(np.abs(right - confidence).sum(axis=-1), pixels.sum(axis=-1))
