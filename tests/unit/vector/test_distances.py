"""Distances of outlines, in the plane of a CRS or from degrees."""

import numpy as np
import pytest
import shapely
from pyproj import Geod

from cwsam_cli.vector.distances import distances, near_pairs, nearest_distances


def boxes(*corners: tuple[float, float], side: float = 1.0) -> np.ndarray:
    return np.array([shapely.box(x, y, x + side, y + side) for x, y in corners], object)


def test_pairs_within_reach_in_a_plane() -> None:
    ours, theirs = boxes((0, 0), (10, 0)), boxes((2, 0), (10, 3.5), (30, 0))
    one, other = near_pairs(ours, theirs, np.array([1.0, 2.6]))
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("latitude", [0.0, 48.0, -75.0])
@pytest.mark.parametrize("east", [True, False])
def test_distances_in_metres_from_degrees(latitude: float, east: bool) -> None:
    side = 0.01
    step = (side + 0.005, 0.0) if east else (0.0, side + 0.005)
    first, second = boxes((7, latitude), side=side), boxes((7 + step[0], latitude + step[1]), side=side)
    middle = latitude + side / 2
    ends = (7, middle, 7.005, middle) if east else (7, latitude + side, 7, latitude + side + 0.005)
    expected = Geod(ellps="WGS84").inv(*ends)[2]
    (found,) = distances(first, second, in_degrees=True)
    assert found == pytest.approx(expected, rel=1e-3)
    for reach, pairs in ((1.002 * expected, 1), (0.998 * expected, 0)):
        assert len(near_pairs(first, second, np.array([reach]), in_degrees=True)[0]) == pairs


def test_nothing_is_near_nothing() -> None:
    one, other = near_pairs(boxes(), boxes((0, 0)), np.zeros(0))
    assert len(one) == len(other) == 0


def test_the_nearest_outline_is_found_at_any_latitude() -> None:
    """A degree of longitude is short at 70°, however far south other outlines lie."""
    ours = boxes((10, 70), (10, 0), side=0.01)
    theirs = boxes((11.01, 70), (10, 70.51), (10, 1), side=0.01)
    every = [distances(np.repeat(ours[i : i + 1], 3), theirs, in_degrees=True).min() for i in range(2)]
    np.testing.assert_array_equal(nearest_distances(ours, theirs, in_degrees=True), every)
