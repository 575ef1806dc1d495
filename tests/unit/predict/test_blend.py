"""No seams, no lost borders, no more memory than the overlaps, and the very sums of a whole accumulator."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from cwsam_cli.predict.blend import Blender, WindowScores, cut_rows, shares
from cwsam_cli.predict.layers import best_index
from cwsam_cli.raster.lattice import Lattice


def indices(scores: Tensor) -> Tensor:
    return best_index(scores)[None].to(torch.uint8)


def blender(lattice: Lattice) -> Blender:
    return Blender(lattice, indices, device="cpu")


def scored(row: int, col: int, scores: NDArray[np.float32], wanted: NDArray[np.bool_]) -> WindowScores:
    hidden = np.where(wanted, 0, 255).astype(np.uint8)
    return WindowScores(row, col, torch.from_numpy(scores), torch.from_numpy(hidden))


def blended(lattice: Lattice, windows: dict[tuple[int, int], NDArray[np.float32]]) -> NDArray[np.uint8]:
    """The best class of every pixel of the scene."""
    whole = Window(0, 0, lattice.width, lattice.height)
    wanted = np.ones((min(lattice.size, lattice.height), min(lattice.size, lattice.width)), bool)
    every = [scored(row, col, scores, wanted) for (row, col), scores in windows.items()]
    return torch.cat([rows for _, rows in blender(lattice).blend(every, whole)], dim=1)[0].numpy()


@pytest.mark.parametrize(
    ("length", "size", "overlap"), [(1, 1, 0), (7, 32, 8), (100, 32, 0), (1000, 512, 128), (9, 2, 1)]
)
def test_a_pixels_weights_sum_to_one_and_none_is_zero(length: int, size: int, overlap: int) -> None:
    starts = Lattice.over(length, 1, size, overlap).cols
    total = np.zeros(length)
    for start, share in zip(starts, shares(starts, size, length), strict=True):
        assert share.min() > 0
        total[start : start + len(share)] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_a_window_alone_keeps_its_scores_bit_for_bit() -> None:
    first, middle, last = shares([0, 6, 12], 8, 20)
    assert (first[:6] == 1).all() and (middle[2:6] == 1).all() and (last[2:] == 1).all()
    assert (middle[:2] < 1).all() and (np.diff(middle[:3]) > 0).all()


def test_where_windows_disagree_the_one_nearer_to_its_middle_decides() -> None:
    scores = np.zeros((2, 2, 8, 8), np.float32)
    scores[0, 0] = scores[1, 1] = 1  # the left window says 0, the right one 1
    lattice = Lattice(12, 8, 8, (0,), (0, 4))
    codes = blended(lattice, {(0, 0): scores[0], (0, 1): scores[1]})
    np.testing.assert_array_equal(codes, np.repeat([[0] * 6 + [1] * 6], 8, axis=0))


def test_the_border_of_the_scene_keeps_its_scores() -> None:
    codes = np.zeros((20, 20), np.uint8)
    codes[0], codes[-1], codes[:, 0], codes[:, -1] = 1, 2, 3, 4
    lattice = Lattice.over(20, 20, 8, 4)
    windows = {
        (row, col): (np.arange(5)[:, None, None] == codes[lattice.window(row, col).toslices()]).astype(np.float32)
        for row in range(len(lattice.rows))
        for col in range(len(lattice.cols))
    }
    np.testing.assert_array_equal(blended(lattice, windows), codes)


def test_negative_scores_are_compared_as_they_are() -> None:
    scores = np.full((3, 4, 4), -5, np.float32)
    scores[1] = -2
    assert (blended(Lattice.over(4, 4, 4, 0), {(0, 0): scores}) == 1).all()


def test_rows_leave_as_soon_as_no_later_window_touches_them() -> None:
    lattice = Lattice.over(8, 38, 8, 2)
    taken: list[int] = []

    def one_by_one() -> Iterator[WindowScores]:
        for row in range(len(lattice.rows)):
            taken.append(lattice.rows[row])
            yield scored(row, 0, np.zeros((2, 8, 8), np.float32), np.ones((8, 8), bool))

    runs = blender(lattice).blend(one_by_one(), Window(0, 0, 8, 38))
    top, rows = next(runs)
    assert (top, rows.shape[1]) == (0, 6)
    assert taken == [0, 6]  # the second row of windows only starts
    assert sum(rest.shape[1] for _, rest in runs) == 32


def test_what_is_not_wanted_is_nodata_and_needs_no_window() -> None:
    lattice = Lattice.over(30, 30, 8, 2)
    wanted = np.zeros((30, 30), bool)
    wanted[12:15, 3:9] = True
    every = [
        scored(row, col, np.ones((1, 8, 8), np.float32), seen)
        for row in range(len(lattice.rows))
        for col in range(len(lattice.cols))
        if (seen := wanted[lattice.window(row, col).toslices()]).any()
    ]
    assert len(every) < 6
    runs = blender(lattice).blend(every, Window(0, 0, 30, 30))
    codes = torch.cat([rows for _, rows in runs], dim=1)[0].numpy()
    np.testing.assert_array_equal(codes, np.where(wanted, 0, 255))


def test_no_window_at_all_makes_rows_of_nodata() -> None:
    runs = list(blender(Lattice.over(9, 9, 4, 1)).blend([], Window(0, 0, 9, 9)))
    assert sum(rows.shape[1] for _, rows in runs) == 9
    assert all((rows == 255).all() for _, rows in runs)


def test_pieces_lie_between_the_cuts() -> None:
    scene = np.arange(23, dtype=np.uint8)[None, :, None]
    runs = [(0, scene[:, :3]), (3, scene[:, 3:11]), (11, scene[:, 11:12]), (12, scene[:, 12:])]
    pieces = list(cut_rows(runs, (0, 4, 8, 12, 16, 20, 23)))
    assert [(number, piece.shape[1]) for number, piece in pieces] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4), (5, 3)]
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces], axis=1), scene)


def test_cutting_nothing_makes_nothing() -> None:
    assert list(cut_rows([], (0, 4))) == []
