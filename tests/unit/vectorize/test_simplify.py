"""Borders become simpler, and stay shared."""

import numpy as np
import pytest
import shapely

from cwsam_cli.maps.codes import NODATA, Strip
from cwsam_cli.vectorize.coverage import Coverage
from cwsam_cli.vectorize.polygonize import Regions, Simplify, polygonize

SQUARE = np.eye(2)[None]


def simple(codes: np.ndarray, tolerance: float, metres: np.ndarray = SQUARE) -> Regions:
    height, width = codes.shape
    strips = [Strip(codes.astype(np.int32))]
    return Regions.concatenate(
        list(polygonize(strips, width, height, simplify=Simplify(tolerance, metres), outline=True))
    )


def test_a_staircase_becomes_a_straight_line() -> None:
    codes = np.tril(np.ones((30, 30), int))
    below, above = sorted(simple(codes, 1).polygons(), key=lambda polygon: -polygon.centroid.y)
    assert len(below.exterior.coords) <= 7 and len(above.exterior.coords) <= 7
    assert below.area == pytest.approx(465, abs=16)


def test_the_maps_corners_stay() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (8, 9)).repeat(5, axis=0).repeat(5, axis=1)
    codes[:7, :11] = NODATA  # one corner is not the map's, but nodata's
    whole = shapely.union_all(simple(codes, 6).polygons())
    assert whole.bounds == (0, 0, 45, 40)
    for corner in [(45, 0), (45, 40), (0, 40)]:
        assert shapely.Point(corner).distance(whole.boundary) == 0


def test_a_pixel_alone_stays_a_square() -> None:
    codes = np.ones((9, 9), int)
    codes[4, 4] = 2
    island = simple(codes, 5).polygons()[0]
    assert island.equals(shapely.box(4, 4, 5, 5))


def test_a_lens_between_two_nodes_does_not_collapse() -> None:
    codes = np.ones((9, 30), int)
    codes[5:] = 2
    codes[4, 5:25] = 3  # one pixel high, both its borders run from node to node
    regions = simple(codes, 5)
    lens = regions.polygons()[regions.codes == 3][0]
    assert lens.is_valid and lens.area > 5


def test_narrow_strips_do_not_cross() -> None:
    rows, cols = np.mgrid[:60, :60]
    codes = (rows + cols // 2 + (3 * np.sin(cols / 5)).astype(int)) // 2 % 4
    regions = simple(codes, 3)
    coverage = Coverage()
    coverage.add_rings(regions.xy, regions.ring_offsets)
    coverage.add_edges(regions.outline[:, 0], regions.outline[:, 1])
    coverage.add_polygons(regions.polygons())
    assert (coverage.unmatched, coverage.invalid) == (0, 0)


def test_the_tolerance_is_in_metres_whatever_a_pixel_is() -> None:
    codes = np.tril(np.ones((30, 30), int))
    fine, coarse = (len(simple(codes, 1, SQUARE * metres).xy) for metres in (0.5, 30))
    assert fine < 20 and coarse > 100


def test_by_line_a_degree_of_longitude_can_be_shorter() -> None:
    codes = np.ones((40, 12), int)
    codes[1:-1:2, 6:] = codes[::2, 5:] = 2  # a border that jumps one pixel east and west
    steps = np.tile(SQUARE, (41, 1, 1))
    steps[:20, 0, 0] = 0.1  # in the upper half that is not far
    regions = simple(codes, 0.5, steps)
    assert len(regions.xy) > 0
    upper = len(simple(codes, 0.5, SQUARE * [[0.1, 1], [1, 1]]).xy)
    lower = len(simple(codes, 0.5).xy)
    assert upper < lower


def test_in_degrees_no_part_of_a_long_border_moves_too_far() -> None:
    codes = np.ones((60, 30), int)
    codes[:, 15:] = 2
    for row in (10, 20, 50):  # bays, one of them far from the border's middle
        codes[row : row + 3, 14] = 2
    metres = np.tile(SQUARE, (61, 1, 1))
    metres[45:, 0, 0] = 4  # where a column is wide
    regions = simple(codes, 2, metres)
    (east,) = regions.polygons()[regions.codes == 2]
    assert east.contains(shapely.box(14, 50, 15, 53))
