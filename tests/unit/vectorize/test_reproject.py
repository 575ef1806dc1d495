"""Neighbours share their borders in any CRS."""

import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.maps.codes import Strip
from cwsam_cli.raster.grid import Grid
from cwsam_cli.vectorize.coverage import Coverage
from cwsam_cli.vectorize.measure import to_ground
from cwsam_cli.vectorize.polygonize import Regions, polygonize
from cwsam_cli.vectorize.reproject import LONGEST, Reprojection, crs_of, densify, densify_edges, split_at_antimeridian

UTM = CRS.from_epsg(32617)


def regions() -> Regions:
    codes = np.random.default_rng(0).integers(0, 3, (4, 5)).repeat(37, axis=0).repeat(23, axis=1)
    strips = [Strip(codes.astype(np.int32))]
    return Regions.concatenate(list(polygonize(strips, codes.shape[1], len(codes), outline=True)))


def test_long_edges_get_vertices_and_keep_their_own() -> None:
    before = regions()
    after = densify(before)
    assert np.hypot(*np.diff(before.xy, axis=0).T).max() > LONGEST
    for one, other in zip(before.polygons(), after.polygons(), strict=True):
        assert shapely.equals(one, other) and one.area == pytest.approx(other.area)
        xy = shapely.get_coordinates(shapely.get_exterior_ring(other))
        assert np.hypot(*np.diff(xy, axis=0).T).max() <= LONGEST
        assert set(map(tuple, shapely.get_coordinates(one))) <= set(map(tuple, shapely.get_coordinates(other)))


def test_both_sides_of_an_edge_get_the_same_vertices_to_the_last_bit() -> None:
    whole = regions()
    move = Reprojection(UTM, crs_of("EPSG:3035"))
    dense = densify(whole)
    coverage = Coverage()
    coverage.add_rings(move(dense.xy * 10.1 + [5e5, 4e6]), dense.ring_offsets)
    edges = densify_edges(whole.outline)
    ends = move(edges.reshape(-1, 2) * 10.1 + [5e5, 4e6]).reshape(-1, 2, 2)
    coverage.add_edges(ends[:, 0], ends[:, 1])
    assert coverage.unmatched == 0


def test_points_are_those_of_proj() -> None:
    xy = np.array([[6e5, 4e6], [6.1e5, 4.1e6]])
    lon, lat = Transformer.from_crs(32617, 4326, always_xy=True).transform(*xy.T)
    np.testing.assert_allclose(Reprojection(UTM, crs_of("EPSG:4326"))(xy), np.stack([lon, lat], axis=1))


def test_an_unknown_crs_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match="EPSG:1"):
        crs_of("EPSG:1")


def test_ground_without_a_place_there_is_refused() -> None:
    with pytest.raises(DataError, match="lies outside"):
        Reprojection(CRS.from_epsg(4326), crs_of("EPSG:3857"))(np.array([[0.0, 95.0]]))


def test_a_crs_that_is_none_is_told_in_one_short_sentence() -> None:
    long = '{"type": "ProjectedCRS", "name": "' + "x" * 1000
    with pytest.raises(UsageError) as caught:
        crs_of(long)
    assert len(str(caught.value)) < 200
    with pytest.raises(UsageError, match="`nonsense` is not a CRS: proj_create: unrecognized format"):
        crs_of("nonsense")


def test_an_engineering_crs_leads_nowhere() -> None:
    with pytest.raises(DataError, match="no transformation"):
        Reprojection(CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]'), CRS.from_epsg(4326))


@pytest.mark.parametrize(
    ("crs", "x", "y", "crosses"),
    [
        ("EPSG:32660", 650_000, 7_000_000, True),
        ("EPSG:32660", 500_000, 7_000_000, False),
        ("EPSG:3413", 0, 0, True),
        ("+proj=ortho +lat_0=45", 0, 0, True),  # all its edges lie beside the Earth
        ("+proj=ortho +lat_0=0", 0, 0, False),
    ],
)
def test_a_map_is_known_to_cross_the_antimeridian(crs: str, x: float, y: float, crosses: bool) -> None:
    pixel = 75_000 if "ortho" in crs else 1000
    grid = Grid(None, Affine.translation(x, y) @ Affine.scale(pixel) @ Affine.translation(-100, -100), 200, 200)
    move = Reprojection(CRS.from_user_input(crs), crs_of("EPSG:4326"))
    assert any(move.jumps(to_ground(line, grid.transform)) for line in grid.transects()) == crosses


def test_a_polygon_across_the_antimeridian_becomes_one_on_either_side() -> None:
    across = shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)], [[(179.5, 0.2), (-179.5, 0.2), (180, 0.8)]])
    beside = shapely.box(10, 0, 12, 1)
    split, kept = split_at_antimeridian(np.array([across, beside]), wrapped=True)
    assert kept.equals(beside)
    assert split.geom_type == "MultiPolygon" and split.is_valid
    assert split.area == pytest.approx(2 - 0.3) and len(split.geoms) == 2
    assert split.bounds == (-180, 0, 180, 1)
    assert not any(part.bounds[2] - part.bounds[0] > 1.01 for part in split.geoms)


def test_a_polygon_that_is_wide_without_crossing_it_is_left_alone() -> None:
    wide = shapely.segmentize(shapely.box(-170, 0, 170, 1), 10)
    assert split_at_antimeridian(np.array([wide]), wrapped=True)[0].equals(wide)


def test_a_grid_in_degrees_is_cut_where_it_goes_on_beyond_180_and_nowhere_else() -> None:
    globe = shapely.Polygon(shapely.box(-180, -90, 180, 90).exterior, [shapely.box(-80, 10, 20, 40).exterior])
    pacific = shapely.box(170, 0, 190, 10)
    kept, split = split_at_antimeridian(np.array([globe, pacific]), wrapped=False)
    assert kept.equals(globe)
    assert split.equals(shapely.MultiPolygon([shapely.box(170, 0, 180, 10), shapely.box(-180, 0, -170, 10)]))


@pytest.mark.parametrize("first", [-180, -100, 7])
def test_rings_round_a_pole_take_it_in(first: float) -> None:
    def circle(latitude: float) -> list[tuple[float, float]]:
        return [((first + 180 + 10 * step) % 360 - 180, latitude) for step in range(37)]

    polygons = np.array([shapely.Polygon(circle(80), [circle(85)]), shapely.Polygon(circle(-85))])
    belt, cap = split_at_antimeridian(polygons, wrapped=True)
    assert belt.equals(shapely.box(-180, 80, 180, 85))
    assert cap.equals(shapely.box(-180, -90, 180, -85))


def test_a_polygon_may_cross_both_the_antimeridian_and_greenwich() -> None:
    xs = [*range(-20, 181, 10), *range(-170, -99, 10)]
    band = shapely.Polygon([*((x, 0) for x in xs), *((x, 10) for x in reversed(xs))])
    (split,) = split_at_antimeridian(np.array([band]), wrapped=True)
    assert split.equals(shapely.MultiPolygon([shapely.box(-20, 0, 180, 10), shapely.box(-180, 0, -100, 10)]))
