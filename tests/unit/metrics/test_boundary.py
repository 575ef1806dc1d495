"""Borders match within the tolerance, class by class, and only between labelled pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cwsam_cli.metrics.boundary import boundary_f1, count_boundaries
from cwsam_cli.taxonomy import IGNORE


def halves(edge: int, size: int = 12) -> NDArray[np.uint8]:
    """Class 0 left of a vertical edge, class 1 right of it."""
    return (np.arange(size)[None, :] >= edge).repeat(size, axis=0).astype(np.uint8)


def by_distances(reference: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int, tolerance: int) -> list[int]:
    """The same counts from all pairs of boundary pixels."""

    def pixels(index: NDArray[np.uint8], of: int) -> list[tuple[int, int]]:
        found = []
        for y, x in np.argwhere((index == of) & (reference != IGNORE)).tolist():
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= ny < index.shape[0] and 0 <= nx < index.shape[1]
                if inside and reference[ny, nx] != IGNORE and index[ny, nx] != of:
                    found.append((y, x))
                    break
        return found

    def near(own: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
        return sum(any((y - v) ** 2 + (x - u) ** 2 <= tolerance**2 for v, u in other) for y, x in own)

    counts = []
    for of in range(classes):
        mapped, real = pixels(predicted, of), pixels(reference, of)
        counts.append([len(mapped), near(mapped, real), len(real), near(real, mapped)])
    return counts


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3, 40])
def test_counts_are_those_of_all_pairs_of_boundary_pixels(tolerance: int) -> None:
    rng = np.random.default_rng(tolerance)
    blocks = rng.integers(0, 4, (6, 5)).repeat(3, axis=0).repeat(4, axis=1).astype(np.uint8)
    reference, predicted = blocks.copy(), np.roll(blocks, 1, axis=0)
    reference[rng.random(reference.shape) < 0.1] = IGNORE
    counts = count_boundaries(reference, predicted, 4, tolerance)
    assert counts.tolist() == by_distances(reference, predicted, 4, tolerance)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (1, 1), (2, 1), (3, 0)])
def test_an_edge_counts_as_found_up_to_the_tolerance(shift: int, expected: int) -> None:
    assert boundary_f1(count_boundaries(halves(6), halves(6 + shift), 2, 2)).tolist() == [expected, expected]


def test_an_edge_beside_unlabelled_pixels_is_no_boundary() -> None:
    reference = halves(6)
    reference[:, 6] = IGNORE
    assert not count_boundaries(reference, halves(6), 2, 2).any()


def test_f1_follows_from_pooled_counts() -> None:
    counts = np.array([[10, 5, 20, 8], [0, 0, 4, 0], [6, 0, 0, 0], [0, 0, 0, 0]])
    found = boundary_f1(counts)
    assert found[0] == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert found[1] == 0
    assert np.isnan(found[2:]).all()
