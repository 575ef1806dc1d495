"""Polygons hold exactly the ground of their pixels, on any grid."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize

from cwsam_cli.geo.grid import Grid
from cwsam_cli.geo.polygonize import Region, polygonize

modest = settings(max_examples=40, deadline=None, database=None)
NODATA = 255

TRANSFORMS = {
    "north-up": Affine(30, 0, 600_000, 0, -30, 4_000_000),
    "south-up": Affine(30, 0, 600_000, 0, 30, 4_000_000),
    "oblong pixels": Affine(2.5, 0, 431_111.3, 0, -0.7, 5_000_123.4),
    "rotated": Affine.translation(600_000, 4_000_000) @ Affine.rotation(33) @ Affine.scale(30, -20),
    "quarter turn": Affine(0, 30, 600_000, 30, 0, 4_000_000),
}

maps = arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 1, 2, NODATA]),  # few codes make long and holed regions
)
everywhere = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


def polygons(codes: NDArray[np.uint8], transform: Affine) -> tuple[list[Region], Grid]:
    grid = Grid(CRS.from_epsg(32617), transform, codes.shape[1], codes.shape[0])
    return list(polygonize(codes, grid, valid=codes != NODATA)), grid


@everywhere
@modest
@given(maps)
def test_areas_of_a_class_sum_to_its_pixels(transform: Affine, codes: NDArray[np.uint8]) -> None:
    regions, grid = polygons(codes, transform)
    for code in (0, 1, 2):
        pixels = np.count_nonzero(codes == code)
        area = sum(region.area_m2 for region in regions if region.code == code)
        assert area == pytest.approx(pixels * abs(transform.determinant), rel=1e-9, abs=0)
        drawn = sum(region.geometry.area for region in regions if region.code == code)
        assert drawn == pytest.approx(area, rel=1e-6, abs=0)  # coordinates of millions leave fewer digits
    assert grid.pixel_area_m2 == pytest.approx(abs(transform.determinant), rel=1e-12)


@everywhere
@modest
@given(maps)
def test_rasterising_polygons_restores_the_map(transform: Affine, codes: NDArray[np.uint8]) -> None:
    regions, _ = polygons(codes, transform)
    restored = np.full_like(codes, NODATA)
    for region in regions:
        inside = rasterize([region.geometry], out_shape=codes.shape, transform=transform, dtype="uint8") == 1
        assert (restored[inside] == NODATA).all()  # regions do not overlap
        restored[inside] = region.code
    np.testing.assert_array_equal(restored, codes)


@everywhere
@modest
@given(maps)
def test_nodata_makes_no_polygon(transform: Affine, codes: NDArray[np.uint8]) -> None:
    regions, _ = polygons(codes, transform)
    assert {region.code for region in regions} == set(np.unique(codes).tolist()) - {NODATA}
    assert all(region.geometry.geom_type == "Polygon" and region.area_m2 > 0 for region in regions)


@modest
@given(maps)
def test_polygons_are_valid_and_neighbours_of_one_class_are_one(codes: NDArray[np.uint8]) -> None:
    regions, _ = polygons(codes, TRANSFORMS["north-up"])
    assert all(region.geometry.is_valid for region in regions)
    for code in (0, 1, 2):
        own = [region.geometry for region in regions if region.code == code]
        for number, one in enumerate(own):
            for other in own[number + 1 :]:  # 4-connected: at most corners are shared
                assert shapely.intersection(one, other).length == 0
