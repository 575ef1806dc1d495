"""Windows cover a scene, and blending them equals an accumulator of the whole, whatever the sizes and parts."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.predict.blend import Blender, WindowScores, cut_rows, shares
from cwsam_cli.predict.layers import best_index
from cwsam_cli.raster.grid import lattice
from cwsam_cli.raster.lattice import Lattice

modest = settings(max_examples=40, deadline=None, database=None)

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """A scene's size and how it is cut."""

    width: int
    height: int
    size: int
    overlap: int
    margin: int = 0

    @property
    def windows(self) -> list[Window]:
        """Of training tiles, which end at the scene's edge by shifting the last one."""
        return list(lattice(self.width, self.height, self.size, self.overlap))

    @property
    def lattice(self) -> Lattice:
        """Of a map, spread evenly."""
        return Lattice.over(self.width, self.height, self.size, self.overlap, self.margin)

    def around(self, pixels: Bits) -> Bits:
        """Pixels of the scene, with none in the margin."""
        return np.pad(pixels, [(-starts[0], -starts[0]) for starts in (self.lattice.rows, self.lattice.cols)])

    def within(self, place: tuple[int, int]) -> tuple[slice, slice]:
        """A window in the scene with its margin."""
        window = self.lattice.window(*place)
        top, left = window.row_off - self.lattice.rows[0], window.col_off - self.lattice.cols[0]
        return slice(top, top + window.height), slice(left, left + window.width)

    @property
    def places(self) -> list[tuple[int, int]]:
        return [(row, col) for row in range(len(self.lattice.rows)) for col in range(len(self.lattice.cols))]


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    size = draw(st.integers(1, 32))
    side = st.integers(1, 80)  # often smaller than the window
    return Cut(draw(side), draw(side), size, draw(st.integers(0, size - 1)))


@st.composite
def parts(draw: st.DrawFn, cut: Cut) -> Window:
    left, top = draw(st.integers(0, cut.width - 1)), draw(st.integers(0, cut.height - 1))
    return Window(left, top, draw(st.integers(1, cut.width - left)), draw(st.integers(1, cut.height - top)))


def one_hot(codes: NDArray[np.uint8], window: Window, size: int, classes: int) -> NDArray[np.float32]:
    """Scores (K, S, S) as a model gives them: what lies beyond a small scene is nonsense."""
    seen = codes[window.toslices()]
    scores = np.full((classes, size, size), 7, np.float32)
    scores[:, : seen.shape[0], : seen.shape[1]] = np.arange(classes)[:, None, None] == seen
    return scores


def blend(
    cut: Cut, scores: dict[tuple[int, int], NDArray[np.float32]], wanted: Bits, area: Window
) -> NDArray[np.uint8]:
    """The blender's map of an area, from the windows in which anything is wanted."""
    scored = (
        WindowScores(row, col, torch.from_numpy(own.copy()), torch.from_numpy(~seen * np.uint8(255)))
        for (row, col), own in scores.items()
        if (seen := cut.around(wanted)[cut.within((row, col))]).any()
    )
    blender = Blender(cut.lattice, lambda blended: best_index(blended)[None].to(torch.uint8), device="cpu")
    return torch.cat([rows for _, rows in blender.blend(scored, area)], dim=1)[0].numpy()


@modest
@given(cuts())
def test_windows_cover_every_pixel_and_lie_inside_the_scene(cut: Cut) -> None:
    for windows in (cut.windows, [cut.lattice.window(*place) for place in cut.places]):
        seen = np.zeros((cut.height, cut.width), int)
        for window in windows:
            assert 0 <= window.col_off and window.col_off + window.width <= cut.width
            assert 0 <= window.row_off and window.row_off + window.height <= cut.height
            seen[window.toslices()] += 1
        assert seen.min() >= 1


@modest
@given(cuts())
def test_every_window_has_the_full_size_unless_the_scene_is_smaller(cut: Cut) -> None:
    for windows in (cut.windows, [cut.lattice.window(*place) for place in cut.places]):
        assert {(window.width, window.height) for window in windows} == {
            (min(cut.size, cut.width), min(cut.size, cut.height))
        }


@modest
@given(cuts())
def test_neighbouring_windows_share_at_least_the_overlap(cut: Cut) -> None:
    columns = sorted({window.col_off for window in cut.windows})
    rows = sorted({window.row_off for window in cut.windows})
    for starts in (columns, rows, cut.lattice.cols, cut.lattice.rows):
        gaps = np.diff(starts)
        assert (cut.size - gaps >= cut.overlap).all()
        assert (gaps > 0).all()


@modest
@given(cuts())
def test_a_maps_windows_are_spread_evenly_and_no_more_than_needed(cut: Cut) -> None:
    for starts, length in ((cut.lattice.cols, cut.width), (cut.lattice.rows, cut.height)):
        gaps = np.diff(starts)
        assert not gaps.size or gaps.max() - gaps.min() <= 1
        assert len(starts) == len(range(0, max(1, length - cut.size), cut.size - cut.overlap)) + (length > cut.size)


@modest
@given(cuts())
def test_windows_come_in_row_order_and_each_once(cut: Cut) -> None:
    places = [(window.row_off, window.col_off) for window in cut.windows]
    assert places == sorted(set(places))


@modest
@given(cuts(), st.data())
def test_the_windows_that_touch_an_area_are_found(cut: Cut, data: st.DataObject) -> None:
    area = data.draw(parts(cut))
    inside = np.zeros((cut.height, cut.width), bool)
    inside[area.toslices()] = True
    rows, cols = cut.lattice.touching(area)
    found = {(row, col) for row in rows for col in cols}
    assert found == {place for place in cut.places if inside[cut.lattice.window(*place).toslices()].any()}


@modest
@given(cuts(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_stitching_overlapping_windows_restores_the_scene(cut: Cut, classes: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, classes, (cut.height, cut.width)).astype(np.uint8)
    scores = {place: one_hot(codes, cut.lattice.window(*place), cut.size, classes) for place in cut.places}
    everywhere, whole = np.ones(codes.shape, bool), Window(0, 0, cut.width, cut.height)
    np.testing.assert_array_equal(blend(cut, scores, everywhere, whole), codes)


@modest
@given(cuts(), st.integers(1, 5), st.integers(0, 2**32 - 1), st.data())
def test_any_part_equals_an_accumulator_of_the_whole_scene_exactly(
    cut: Cut, classes: int, seed: int, data: st.DataObject
) -> None:
    cut = replace(cut, margin=data.draw(st.sampled_from([0, 1, cut.size // 2])))
    rng = np.random.default_rng(seed)
    scores = {place: rng.normal(size=(classes, cut.size, cut.size)).astype(np.float32) for place in cut.places}
    wanted = rng.random((cut.height, cut.width)) < data.draw(st.sampled_from([0.02, 0.5, 1]))

    # The oracle keeps all of the scene at once and adds in the windows' order.
    rows = shares(cut.lattice.rows, cut.size, cut.height)
    cols = shares(cut.lattice.cols, cut.size, cut.width)
    around = cut.around(np.ones(wanted.shape, bool))
    total = np.zeros((classes, *around.shape), np.float32)
    for (row, col), own in scores.items():
        window = cut.lattice.window(row, col)
        seen = own[:, : window.height, : window.width]
        total[:, *cut.within((row, col))] += seen * np.outer(rows[row], cols[col])
    best = total.argmax(axis=0)[around].reshape(wanted.shape)
    expected = np.where(wanted, best, 255)

    area = data.draw(parts(cut))
    np.testing.assert_array_equal(blend(cut, scores, wanted, area), expected[area.toslices()])


@modest
@given(cuts(), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_blending_is_a_weighted_mean(cut: Cut, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = {place: rng.normal(size=(classes, cut.size, cut.size)).astype(np.float32) for place in cut.places}

    # Another oracle, as textbooks have it: float64, and divided by the weights' sum.
    edge = np.sin(np.pi * (np.arange(cut.size) + 0.5) / cut.size) ** 2
    weight = np.outer(edge, edge)
    total, weights = np.zeros((classes, cut.height, cut.width)), np.zeros((cut.height, cut.width))
    for place, own in scores.items():
        window = cut.lattice.window(*place)
        total[:, *window.toslices()] += (own * weight)[:, : window.height, : window.width]
        weights[window.toslices()] += weight[: window.height, : window.width]
    mean = total / weights

    whole = Window(0, 0, cut.width, cut.height)
    chosen = blend(cut, scores, np.ones(weights.shape, bool), whole)
    lost = mean.max(axis=0) - np.take_along_axis(mean, chosen[None].astype(int), axis=0)[0]
    assert lost.max() < 1e-5  # float32 may decide a tie otherwise


@modest
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 25), st.integers(1, 4))
def test_cutting_regroups_rows_without_loss(lengths: list[int], block: int, width: int) -> None:
    height = sum(lengths)
    scene = np.arange(height * width).reshape(1, height, width).astype(np.uint8)
    tops = np.cumsum([0, *lengths])
    rows = [(int(a), scene[:, a:b]) for a, b in pairwise(tops)]
    edges = (*range(0, height, block), height)
    pieces = list(cut_rows(rows, edges))
    assert [number for number, _ in pieces] == list(range(len(edges) - 1))
    assert [piece.shape[1] for _, piece in pieces] == np.diff(edges).tolist()
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces], axis=1), scene)
