"""No seams, no lost borders, and no more memory than a row of windows."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.geo.grid import lattice
from cwsam_cli.geo.stitch import aligned, stitch, window_weight


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1024])
def test_a_window_counts_everywhere_and_most_in_its_middle(size: int) -> None:
    weight = window_weight(size)
    assert weight.shape == (size, size)
    assert weight.min() > 0
    assert weight.max() == weight[size // 2, size // 2] == weight[(size - 1) // 2, (size - 1) // 2]
    np.testing.assert_allclose(weight, weight[::-1, ::-1], rtol=1e-5)


def test_where_windows_disagree_the_one_nearer_to_its_middle_decides() -> None:
    scores = np.zeros((2, 2, 8, 8), np.float32)
    scores[0, 0] = scores[1, 1] = 1  # the left window says 0, the right one 1
    ((top, rows),) = stitch(zip([Window(0, 0, 8, 8), Window(4, 0, 8, 8)], scores, strict=True), 12, 8)
    assert top == 0
    np.testing.assert_array_equal(rows, np.repeat([[0] * 6 + [1] * 6], 8, axis=0))


def test_the_border_of_the_scene_keeps_its_scores() -> None:
    codes = np.zeros((20, 20), np.uint8)
    codes[0], codes[-1], codes[:, 0], codes[:, -1] = 1, 2, 3, 4
    scored = (
        (window, (np.arange(5)[:, None, None] == codes[window.toslices()]).astype(np.float32))
        for window in lattice(20, 20, 8, 4)
    )
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in stitch(scored, 20, 20)]), codes)


def test_negative_scores_are_compared_as_they_are() -> None:
    scores = np.full((3, 4, 4), -5, np.float32)
    scores[1] = -2
    ((_, rows),) = stitch([(Window(0, 0, 4, 4), scores)], 4, 4)
    assert (rows == 1).all()


def test_rows_leave_as_soon_as_no_later_window_touches_them() -> None:
    taken: list[int] = []

    def scored() -> Iterator[tuple[Window, NDArray[np.float32]]]:
        for window in lattice(8, 40, 8, 2):
            taken.append(int(window.row_off))
            yield window, np.zeros((2, 8, 8), np.float32)

    runs = stitch(scored(), 8, 40)
    top, rows = next(runs)
    assert (top, len(rows)) == (0, 6)
    assert taken == [0, 6]  # the second row of windows only starts
    assert sum(len(rest) for _, rest in runs) == 34


def test_no_window_makes_no_rows() -> None:
    assert list(stitch([], 8, 8)) == []


def test_runs_fit_the_blocks_of_a_file() -> None:
    scene = np.arange(23, dtype=np.uint8)[:, None]
    rows = [(0, scene[:3]), (3, scene[3:11]), (11, scene[11:12]), (12, scene[12:])]
    runs = list(aligned(rows, 4))
    assert [(top, len(run)) for top, run in runs] == [(0, 8), (8, 4), (12, 8), (20, 3)]
    np.testing.assert_array_equal(np.concatenate([run for _, run in runs]), scene)


def test_regrouping_nothing_makes_nothing() -> None:
    assert list(aligned([], 4)) == []
