"""Polygons hold exactly the ground of their pixels, on any grid and by strips of any height."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes
from shapely.geometry import shape

from cwsam_cli.maps.codes import NODATA, Strip
from cwsam_cli.raster.grid import Grid
from cwsam_cli.vectorize.coverage import Coverage
from cwsam_cli.vectorize.measure import measure_regions, to_ground
from cwsam_cli.vectorize.polygonize import Regions, Simplify, polygonize

modest = settings(max_examples=60, deadline=None, database=None)
METRES = np.eye(2)[None]

TRANSFORMS = {
    "north-up": Affine(30, 0, 600_000, 0, -30, 4_000_000),
    "south-up": Affine(30, 0, 600_000, 0, 30, 4_000_000),
    "oblong pixels": Affine(2.5, 0, 431_111.3, 0, -0.7, 5_000_123.4),
    "rotated": Affine.translation(600_000, 4_000_000) @ Affine.rotation(33) @ Affine.scale(30, -20),
    "quarter turn": Affine(0, 30, 600_000, 30, 0, 4_000_000),
}
everywhere = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


@st.composite
def maps(draw: st.DrawFn) -> NDArray[np.int32]:
    """Few codes make long and holed regions, many make nodes; doubled pixels make both."""
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    classes = draw(st.sampled_from([1, 2, 3, 5, 40]))
    codes = draw(arrays(np.int32, (height, width), elements=st.integers(0, classes)))
    codes[codes == 0] = NODATA if draw(st.booleans()) else 0
    grain = draw(st.integers(1, 3))
    return codes.repeat(grain, axis=0).repeat(grain, axis=1)


heights = st.integers(1, 45)


def strips(codes: NDArray[np.int32], rows: int) -> list[Strip]:
    return [Strip(codes[top : top + rows]) for top in range(0, len(codes), rows)]


def regions_of(codes: NDArray[np.int32], rows: int, tolerance: float = 0, smooth: bool = False) -> Regions:
    simplify = Simplify(tolerance, METRES, smooth) if tolerance or smooth else None
    height, width = codes.shape
    parts = list(polygonize(strips(codes, rows), width, height, simplify=simplify, outline=True))
    return Regions.concatenate(parts or list(polygonize(strips(codes * 0, rows), width, height)))


def told(regions: Regions) -> list[tuple[int, int, str]]:
    polygons = shapely.to_wkt(shapely.normalize(regions.polygons()))
    return list(zip(regions.codes.tolist(), regions.pixels.tolist(), polygons, strict=True))


def without_straight_vertices(polygon: shapely.Polygon) -> shapely.Polygon:
    def ring(line: shapely.LinearRing) -> NDArray[np.float64]:
        xy = np.asarray(line.coords)[:-1]
        before, after = xy - np.roll(xy, 1, axis=0), np.roll(xy, -1, axis=0) - xy
        return xy[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]

    return shapely.normalize(shapely.Polygon(ring(polygon.exterior), [ring(hole) for hole in polygon.interiors]))


@modest
@given(maps(), heights)
def test_polygons_equal_those_of_gdal_by_any_strip_height(codes: NDArray[np.int32], rows: int) -> None:
    if (codes == NODATA).all():
        return
    found = regions_of(codes, rows)
    ours = [
        (code, without_straight_vertices(p).wkt) for code, p in zip(found.codes.tolist(), found.polygons(), strict=True)
    ]
    theirs = [
        (int(code), shapely.normalize(shape(rings)).wkt)
        for rings, code in shapes(codes, codes != NODATA, connectivity=4)
    ]
    assert sorted(ours) == sorted(theirs)


@modest
@given(maps(), heights, st.sampled_from([0.0, 0.8, 1.5, 4.0]))
def test_strips_change_neither_polygons_nor_their_order(codes: NDArray[np.int32], rows: int, tolerance: float) -> None:
    if (codes != NODATA).any():
        assert told(regions_of(codes, rows, tolerance)) == told(regions_of(codes, len(codes), tolerance))


@everywhere
@modest
@given(maps())
def test_areas_of_a_class_sum_to_its_pixels(transform: Affine, codes: NDArray[np.int32]) -> None:
    if (codes == NODATA).all():
        return
    grid = Grid(CRS.from_epsg(32617), transform, codes.shape[1], codes.shape[0])
    regions = regions_of(codes, 5)
    areas, _ = measure_regions(regions, grid)
    drawn = shapely.area(shapely.transform(regions.polygons(), lambda xy: to_ground(xy, transform)))
    for code in set(codes.ravel().tolist()) - {NODATA}:
        own = regions.codes == code
        expected = np.count_nonzero(codes == code) * abs(transform.determinant)
        assert areas[own].sum() == pytest.approx(expected, rel=1e-12)
        assert drawn[own].sum() == pytest.approx(expected, rel=1e-6)  # coordinates of millions leave fewer digits
        assert regions.pixels[own].sum() == np.count_nonzero(codes == code)


@everywhere
@modest
@given(maps())
def test_rasterising_polygons_restores_the_map(transform: Affine, codes: NDArray[np.int32]) -> None:
    if (codes == NODATA).all():
        return
    regions = regions_of(codes, 7)
    restored = np.full_like(codes, NODATA)
    placed = shapely.transform(regions.polygons(), lambda xy: to_ground(xy, transform))
    for code, polygon in zip(regions.codes, placed, strict=True):
        inside = rasterize([polygon], out_shape=codes.shape, transform=transform, dtype="uint8") == 1
        assert (restored[inside] == NODATA).all()  # regions do not overlap
        restored[inside] = code
    np.testing.assert_array_equal(restored, codes)


@modest
@given(maps(), heights, st.sampled_from([0.0, 0.5, 0.8, 1.5, 4.0, 20.0]), st.booleans())
def test_every_edge_has_its_opposite_and_every_polygon_is_valid(
    codes: NDArray[np.int32], rows: int, tolerance: float, smooth: bool
) -> None:
    if (codes == NODATA).all():
        return
    regions = regions_of(codes, rows, tolerance, smooth)
    coverage = Coverage()
    coverage.add_rings(regions.xy, regions.ring_offsets)
    coverage.add_edges(regions.outline[:, 0], regions.outline[:, 1])
    coverage.add_polygons(regions.polygons())
    assert (coverage.unmatched, coverage.invalid) == (0, 0)
    assert (shapely.area(regions.polygons()) > 0).all()


@modest
@given(maps(), st.sampled_from([0.5, 0.8, 1.5, 4.0, 20.0]))
def test_no_border_moves_farther_than_the_tolerance(codes: NDArray[np.int32], tolerance: float) -> None:
    if (codes == NODATA).all():
        return
    before, after = regions_of(codes, 9), regions_of(codes, 9, tolerance)
    assert before.codes.tolist() == after.codes.tolist()
    for exact, simple in zip(before.polygons(), after.polygons(), strict=True):
        assert len(shapely.get_rings(exact)) == len(shapely.get_rings(simple))
        assert shapely.hausdorff_distance(exact.boundary, simple.boundary) <= tolerance + 1e-9


@modest
@given(maps())
def test_pixels_that_touch_at_corners_only_are_two_regions(codes: NDArray[np.int32]) -> None:
    if (codes == NODATA).all():
        return
    regions = regions_of(codes, 3)
    polygons = regions.polygons()
    for code in set(regions.codes.tolist()):
        own = polygons[regions.codes == code]
        for number, one in enumerate(own):
            for other in own[number + 1 :]:
                assert shapely.intersection(one, other).length == 0
