"""Windows cover a scene, and stitching is their inverse, whatever the sizes."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.geo.grid import lattice
from cwsam_cli.geo.stitch import aligned, stitch

modest = settings(max_examples=40, deadline=None, database=None)


@dataclass(frozen=True)
class Cut:
    """A scene's size and how it is cut."""

    width: int
    height: int
    size: int
    overlap: int

    @property
    def windows(self) -> list[Window]:
        return list(lattice(self.width, self.height, self.size, self.overlap))


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    size = draw(st.integers(1, 32))
    side = st.integers(1, 80)  # often smaller than the window
    return Cut(draw(side), draw(side), size, draw(st.integers(0, size - 1)))


def placed(window: Window) -> tuple[slice, slice]:
    return window.toslices()


def one_hot(codes: NDArray[np.uint8], window: Window, size: int, classes: int) -> NDArray[np.float32]:
    """Scores (K, S, S) as a model gives them: what lies beyond a small scene is nonsense."""
    seen = codes[placed(window)]
    scores = np.full((classes, size, size), 7, np.float32)
    scores[:, : seen.shape[0], : seen.shape[1]] = np.arange(classes)[:, None, None] == seen
    return scores


@modest
@given(cuts())
def test_windows_cover_every_pixel_and_lie_inside_the_scene(cut: Cut) -> None:
    seen = np.zeros((cut.height, cut.width), int)
    for window in cut.windows:
        assert 0 <= window.col_off and window.col_off + window.width <= cut.width
        assert 0 <= window.row_off and window.row_off + window.height <= cut.height
        seen[placed(window)] += 1
    assert seen.min() >= 1


@modest
@given(cuts())
def test_every_window_has_the_full_size_unless_the_scene_is_smaller(cut: Cut) -> None:
    shapes = {(window.width, window.height) for window in cut.windows}
    assert shapes == {(min(cut.size, cut.width), min(cut.size, cut.height))}


@modest
@given(cuts())
def test_neighbouring_windows_share_at_least_the_overlap(cut: Cut) -> None:
    columns = sorted({window.col_off for window in cut.windows})
    rows = sorted({window.row_off for window in cut.windows})
    for starts in (columns, rows):
        gaps = np.diff(starts)
        assert (cut.size - gaps >= cut.overlap).all()
        assert (gaps > 0).all()


@modest
@given(cuts())
def test_windows_come_in_row_order_and_each_once(cut: Cut) -> None:
    places = [(window.row_off, window.col_off) for window in cut.windows]
    assert places == sorted(set(places))


@modest
@given(cuts(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_stitching_overlapping_windows_restores_the_scene(cut: Cut, classes: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, classes, (cut.height, cut.width)).astype(np.uint8)
    scored = ((window, one_hot(codes, window, cut.size, classes)) for window in cut.windows)
    runs = list(stitch(scored, cut.width, cut.height))
    assert [top for top, _ in runs] == np.cumsum([0, *(len(rows) for _, rows in runs[:-1])]).tolist()
    restored = np.concatenate([rows for _, rows in runs])
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, codes)


@modest
@given(cuts(), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_stitching_agrees_with_an_accumulator_of_the_whole_scene(cut: Cut, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    windows = cut.windows
    scores = [rng.normal(size=(classes, cut.size, cut.size)).astype(np.float32) for _ in windows]

    # The oracle keeps everything at once, in float64, and divides by the weights' sum.
    edge = np.sin(np.pi * (np.arange(cut.size) + 0.5) / cut.size) ** 2
    weight = np.outer(edge, edge)
    total = np.zeros((classes, cut.height, cut.width))
    weights = np.zeros((cut.height, cut.width))
    for window, score in zip(windows, scores, strict=True):
        rows, cols = window.height, window.width
        total[:, *placed(window)] += (score * weight)[:, :rows, :cols]
        weights[placed(window)] += weight[:rows, :cols]
    blended = total / weights

    chosen = np.concatenate([rows for _, rows in stitch(zip(windows, scores, strict=True), cut.width, cut.height)])
    assert chosen.shape == weights.shape
    lost = blended.max(axis=0) - np.take_along_axis(blended, chosen[None].astype(int), axis=0)[0]
    assert lost.max() < 1e-5  # float32 may decide a tie otherwise


@modest
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 25), st.integers(1, 4))
def test_aligned_regroups_rows_on_block_boundaries_without_loss(lengths: list[int], block: int, width: int) -> None:
    scene = np.arange(sum(lengths) * width).reshape(-1, width).astype(np.uint8)
    tops = np.cumsum([0, *lengths])
    rows = [(int(a), scene[a:b]) for a, b in pairwise(tops)]
    runs = list(aligned(rows, block))
    np.testing.assert_array_equal(np.concatenate([run for _, run in runs]), scene)
    assert [top for top, _ in runs] == np.cumsum([0, *(len(run) for _, run in runs[:-1])]).tolist()
    assert all(top % block == 0 for top, _ in runs)
    assert all(len(run) > 0 and len(run) % block == 0 for _, run in runs[:-1])


@modest
@given(cuts(), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_aligned_after_stitching_still_restores_the_scene(cut: Cut, block: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 3, (cut.height, cut.width)).astype(np.uint8)
    scored = ((window, one_hot(codes, window, cut.size, 3)) for window in cut.windows)
    restored = np.full_like(codes, 255)
    for top, run in aligned(stitch(scored, cut.width, cut.height), block):
        assert top % block == 0
        restored[top : top + len(run)] = run
    np.testing.assert_array_equal(restored, codes)
