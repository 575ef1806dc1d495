"""Tiles placed on sparse labels contain all of them, do not overlap, and are fewer than a lattice's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cwsam_cli.tile.split.placement import place_on_labels


def known(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels in boxes (top, left, height, width) are labelled."""
    mask = np.zeros((height, width), bool)
    for top, left, high, wide in boxes:
        mask[top : top + high, left : left + wide] = True
    return mask


def test_a_cluster_that_a_lattice_cuts_lies_in_the_middle_of_one_tile() -> None:
    assert place_on_labels(known(256, 256, (60, 50, 10, 20)), 64) == [(33, 28)]


def test_a_cluster_at_the_edge_lies_in_a_tile_at_the_edge() -> None:
    assert place_on_labels(known(256, 256, (0, 60, 5, 10)), 64) == [(0, 33)]
    assert place_on_labels(known(256, 256, (250, 60, 6, 10)), 64) == [(192, 33)]


def test_clusters_side_by_side_get_tiles_of_their_own() -> None:
    found = place_on_labels(known(256, 256, (60, 10, 8, 8), (66, 100, 8, 8), (200, 60, 8, 8)), 64)
    assert found == [(35, 0), (35, 72), (172, 32)]


@pytest.mark.parametrize(
    "mask",
    [
        known(256, 256, (0, 0, 256, 256)),
        known(256, 256, (10, 10, 8, 8)),
        known(64, 64, (1, 1, 3, 3)),
        known(256, 256),
        known(100, 100, (0, 0, 1, 1), (99, 99, 1, 1), (50, 50, 1, 1)),
    ],
    ids=["full", "inside one tile of the lattice", "one tile", "none", "no room"],
)
def test_a_lattice_is_kept_where_it_needs_no_more_tiles(mask: np.ndarray) -> None:
    assert place_on_labels(mask, 64) is None


@settings(max_examples=100, deadline=None, database=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(16, 120),
    width=st.integers(16, 120),
    count=st.integers(1, 12),
    size=st.integers(4, 16),
)
def test_tiles_contain_every_label_once(seed: int, height: int, width: int, count: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    mask[rng.integers(0, height, count), rng.integers(0, width, count)] = True
    found = place_on_labels(mask, size)
    if found is None:
        return
    shown = np.zeros(mask.shape, int)
    for row, column in found:
        assert 0 <= row <= height - size and 0 <= column <= width - size
        tile = (slice(row, row + size), slice(column, column + size))
        assert mask[tile].any()
        shown[tile] += 1
    assert shown.max() == 1 and shown[mask].all()
