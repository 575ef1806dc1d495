"""Measure how well the borders of classes are found.

A boundary pixel has a neighbour (left, right, above or below) of another class, and both are labelled. A boundary
pixel of the map is right if a boundary pixel of the same class of the reference is near, and vice versa.
Source: Csurka et al. 2013, What is a good evaluation measure for semantic segmentation?, BMVC.
Pixels are counted over all images, so every boundary pixel has the same weight.

# K classes; H, W rows and columns
"""

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.metrics.confusion import ratio
from cwsam_cli.taxonomy import IGNORE


def count_boundaries(
    reference: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int, tolerance: int
) -> NDArray[np.int64]:
    """Count boundary pixels of each class, (K, 4).

    Args:
        reference: reference class indices (H, W); pixels of `IGNORE` are left out on both sides.
        predicted: predicted class indices (H, W).
        classes: number of classes K.
        tolerance: largest distance in pixels at which two boundary pixels match.

    Returns:
        Boundary pixels of the map, those of them near one of the reference, boundary pixels of the
        reference, those of them near one of the map.
    """
    known = reference != IGNORE
    truth, guess = _boundaries(reference, known), _boundaries(np.where(known, predicted, IGNORE), known)
    columns = []
    for own, other in ((guess, truth), (truth, guess)):
        near = own[_is_near(own, other, tolerance)]
        columns += [np.bincount(own[own != IGNORE], minlength=classes), np.bincount(near, minlength=classes)]
    return np.stack(columns, axis=1).astype(np.int64)


def boundary_f1(counts: NDArray[np.generic]) -> NDArray[np.float64]:
    """Compute F1 from counts (..., K, 4), (..., K). A class without a boundary in the reference has NaN."""
    mapped, mapped_right, real, real_found = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    recall = ratio(real_found, real)
    precision = np.nan_to_num(ratio(mapped_right, mapped))
    return np.where(real > 0, np.nan_to_num(ratio(2 * precision * recall, precision + recall)), np.nan)


def _boundaries(index: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the class index at boundary pixels and `IGNORE` elsewhere."""
    is_boundary = np.zeros(index.shape, bool)
    below = (index[1:] != index[:-1]) & known[1:] & known[:-1]
    beside = (index[:, 1:] != index[:, :-1]) & known[:, 1:] & known[:, :-1]
    is_boundary[1:] |= below
    is_boundary[:-1] |= below
    is_boundary[:, 1:] |= beside
    is_boundary[:, :-1] |= beside
    return np.where(is_boundary, index, np.uint8(IGNORE))


def _is_near(own: NDArray[np.uint8], other: NDArray[np.uint8], tolerance: int) -> NDArray[np.bool_]:
    """Return at which boundary pixels of `own` one of `other` of the same class is within the tolerance."""
    height, width = own.shape
    found = np.zeros(own.shape, bool)
    for down in range(-tolerance, tolerance + 1):
        for right in range(-tolerance, tolerance + 1):
            if down**2 + right**2 > tolerance**2 or abs(down) >= height or abs(right) >= width:
                continue
            here = np.s_[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
            there = np.s_[max(0, down) : height - max(0, -down), max(0, right) : width - max(0, -right)]
            found[here] |= own[here] == other[there]
    found &= own != IGNORE
    return found
