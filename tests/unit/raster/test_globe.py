"""Where x starts again at the antimeridian, and what a projection does to geometries there."""

import numpy as np
import pytest
import shapely
from pyproj import CRS

from cwsam_cli.raster.globe import globe_width, unwrap


@pytest.mark.parametrize(
    ("crs", "width"),
    [
        ("EPSG:4326", 360),
        ("EPSG:4807", 400),  # in grads
        ("EPSG:3857", 40075016.68557849),
        ("EPSG:3832", 40075016.68557849),
        ("EPSG:6933", 34735060.89032264),
    ],
)
def test_x_starts_again_after_the_length_of_a_parallel(crs: str, width: float) -> None:
    assert globe_width(CRS.from_user_input(crs).to_wkt()) == pytest.approx(width)


@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:3035", "EPSG:3031", "ESRI:54009"])
def test_where_meridians_bend_or_converge_x_does_not_start_again(crs: str) -> None:
    assert globe_width(CRS.from_user_input(crs).to_wkt()) is None


def test_a_local_crs_does_not_know_the_globe() -> None:
    assert globe_width('LOCAL_CS["site",UNIT["metre",1]]') is None


def test_a_jump_is_undone_in_rings_holes_and_lines() -> None:
    before = shapely.Polygon([(0, 0), (20, 0), (20, 10), (0, 10)], [[(12, 2), (18, 2), (18, 8)]])
    moved = shapely.Polygon([(170, 0), (-170, 0), (-170, 10), (170, 10)], [[(-178, 2), (-172, 2), (-172, 8)]])
    lines = shapely.MultiLineString([[(170, 0), (-170, 0)], [(1, 1), (2, 2)]])
    flat = shapely.MultiLineString([[(0, 0), (20, 0)], [(1, 1), (2, 2)]])
    polygon, line = unwrap(np.array([moved, lines]), np.array([before, flat]), 360, None)
    assert polygon.equals(shapely.Polygon(shapely.box(170, 0, 190, 10).exterior, [[(182, 2), (188, 2), (188, 8)]]))
    assert line.equals(shapely.MultiLineString([[(170, 0), (190, 0)], [(1, 1), (2, 2)]]))


def test_a_ring_round_a_pole_takes_it_in() -> None:
    turn = np.arange(0, 361, 10)
    before = shapely.Polygon(np.stack([np.cos(np.radians(turn)), np.sin(np.radians(turn))], axis=1).round(9))
    moved = shapely.Polygon([((x + 180) % 360 - 180, 80) for x in turn])
    (cap,) = unwrap(np.array([moved]), np.array([before]), 360, None)
    assert cap.intersection(shapely.box(0, -90, 360, 90)).equals(shapely.box(0, 80, 360, 90))


def test_a_polygon_that_is_wide_on_both_maps_is_left_alone() -> None:
    globe, map_ = shapely.box(-180, -80, 180, 80), shapely.box(-2000, -1000, 2000, 1000)
    (kept,) = unwrap(np.array([map_]), np.array([globe]), 4000, 360)
    assert kept.equals(map_)
