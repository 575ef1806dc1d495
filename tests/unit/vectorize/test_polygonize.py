"""Polygons follow the edges of pixels."""

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from cwsam_cli.maps.codes import NODATA, Strip
from cwsam_cli.vectorize.polygonize import Regions, polygonize


def regions_of(codes: list[list[int]] | NDArray[np.int32], rows: int = 100) -> Regions:
    whole = np.asarray(codes, np.int32)
    strips = [Strip(whole[top : top + rows]) for top in range(0, len(whole), rows)]
    return Regions.concatenate(list(polygonize(strips, whole.shape[1], len(whole))))


def test_a_region_with_a_hole_keeps_it() -> None:
    codes = np.ones((5, 5), np.int32)
    codes[2, 2] = 2
    regions = regions_of(codes)
    assert regions.codes.tolist() == [2, 1]  # as they close
    island, around = regions.polygons()
    assert len(around.interiors) == 1 and around.area == 24
    assert island.equals(shapely.box(2, 2, 3, 3))


def test_pixels_that_touch_at_a_corner_are_two_regions() -> None:
    assert regions_of([[1, NODATA], [NODATA, 1]]).pixels.tolist() == [1, 1]


def test_a_region_that_meets_itself_at_a_corner_has_a_hole_there_and_is_valid() -> None:
    (ring,) = regions_of([[1, 1, 1], [1, NODATA, 1], [1, 1, NODATA]]).polygons()
    assert ring.is_valid and len(ring.interiors) == 1 and ring.area == 7


def test_a_vertex_stands_where_three_regions_meet_on_a_straight_edge() -> None:
    below = regions_of([[1, 2], [3, 3]]).polygons()[2]
    assert (1, 1) in below.exterior.coords


def test_outer_rings_run_against_the_clock_on_a_map_with_north_up() -> None:
    regions = regions_of([[1, 1, 1], [1, 2, 1], [1, 1, 1]])
    upright = shapely.transform(regions.polygons(), lambda xy: xy * [1, -1])
    assert shapely.is_ccw(shapely.get_exterior_ring(upright)).all()


def test_regions_come_as_they_close_and_not_later() -> None:
    codes = np.ones((6, 4), np.int32)
    codes[0, 0], codes[3, 2] = 5, 7
    seen = [part.codes.tolist() for part in polygonize([Strip(row[None]) for row in codes], 4, 6)]
    assert seen == [[5], [7], [1]]


def test_pairs_of_arms_that_join_below_are_one_region() -> None:
    codes = np.full((9, 17), 2, np.int32)
    codes[:, ::2] = 1
    codes[-1] = 1
    regions = regions_of(codes, rows=1)
    assert regions.codes.tolist() == [2] * 8 + [1]
    assert regions.pixels.tolist() == [8] * 8 + [9 * 17 - 64]


@pytest.mark.parametrize("code", [-(2**31) + 2, -1, 0, 300, 2**31 - 1])
def test_codes_may_be_any_but_the_two_that_mean_nothing(code: int) -> None:
    assert regions_of([[code, 1]]).codes.tolist() == [code, 1]


def test_a_map_of_nodata_alone_has_no_polygons() -> None:
    assert list(polygonize([Strip(np.full((4, 4), NODATA, np.int32))], 4, 4)) == []


def test_some_regions_can_be_taken_in_any_order() -> None:
    regions = regions_of(np.random.default_rng(0).integers(0, 3, (20, 30)))
    order = np.random.default_rng(1).permutation(len(regions))[:50]
    taken = regions.take(order)
    assert taken.codes.tolist() == regions.codes[order].tolist()
    assert shapely.equals_exact(taken.polygons(), regions.polygons()[order]).all()
    assert len(regions.take(np.array([], np.int64))) == 0


def test_statistics_are_those_of_the_regions_pixels() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (30, 40)).astype(np.int32).repeat(2, axis=0)
    values = rng.normal(5, 2, (2, *codes.shape)).astype(np.float32)
    values[0, rng.random(codes.shape) < 0.3] = np.nan
    strips = [Strip(codes[top : top + 7], values[:, top : top + 7]) for top in range(0, 60, 7)]
    regions = Regions.concatenate(list(polygonize(strips, 40, 60, statistics=2)))
    rows, cols = np.mgrid[:60, :40] + 0.5
    for polygon, found in zip(regions.polygons(), regions.statistics, strict=True):
        inside = shapely.contains_xy(polygon, cols, rows)
        for statistic in range(2):
            own = values[statistic][inside]
            own = own[~np.isnan(own)].astype(float)
            expected = [len(own), own.sum(), own.min(initial=np.inf), own.max(initial=-np.inf)]
            assert found[statistic].tolist() == pytest.approx(expected)


def test_what_is_open_is_all_that_is_kept() -> None:
    """Ten times the rows need no more room for vertices, ends and regions."""
    from cwsam_cli.vectorize import borders

    rooms = []
    for rows in (200, 2000):
        codes = np.random.default_rng(0).integers(0, 5, (rows, 50)).astype(np.int32)
        codes[::10] = np.arange(rows // 10)[:, None] + 100  # nothing is open across these rows
        largest = []
        original = borders.with_capacity

        def watched(state: borders.Borders, *wanted: int) -> borders.Borders:
            grown = original(state, *wanted)  # noqa: B023
            largest.append((len(grown.vertices), len(grown.ends), len(grown.regions)))  # noqa: B023
            return grown

        try:
            borders.with_capacity = watched
            for _ in polygonize([Strip(codes[top : top + 20]) for top in range(0, rows, 20)], 50, rows):
                pass
        finally:
            borders.with_capacity = original
        rooms.append(largest[-1])
    assert rooms[0] == rooms[1]
