"""What a raster says of its place must be possible."""

from math import inf, nan

import pytest
from affine import Affine
from rasterio.crs import CRS

from cwsam_cli.errors import DataError
from cwsam_cli.geo.grid import Grid
from cwsam_cli.geo.place import refuse_impossible


def on(crs: str, transform: Affine, width: int = 100, height: int = 80) -> Grid:
    return Grid(CRS.from_user_input(crs), transform, width, height)


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (on("EPSG:4326", Affine(30, 0, 600_000, 0, -30, 4_000_000)), r"upper left corner.*latitude 4,000,000°"),
        (on("EPSG:4326", Affine(0.1, 0, 10, 0, -10, 60)), r"lower right corner.*latitude -740°"),
        (on("EPSG:4326", Affine(10, 0, 10, 0, -0.1, 60)), r"upper right corner.*longitude 1,010°.*round the Earth"),
        (on("EPSG:4807", Affine(0.1, 0, 10, 0, -0.1, 108)), r"upper left corner.*latitude 97.2°"),
        (on("EPSG:32617", Affine(nan, 0, 600_000, 0, -30, 4_000_000)), "upper left corner.*nan"),
        (on("EPSG:32617", Affine(30, 0, 600_000, 0, -30, inf)), "upper left corner.*inf"),
        (on("EPSG:32617", Affine(30, 0, 1e12, 0, -30, 4_000_000)), r"corners.*1e\+12.*no point"),
        (on("EPSG:3857", Affine(1e8, 0, -5e9, 0, -1e5, 4e6)), r"corners.*-5e\+09.*larger than the Earth"),
    ],
)
def test_impossible_coordinates_are_refused_by_their_corner(grid: Grid, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        refuse_impossible(grid, "map.tif")
    assert "`map.tif`" in str(caught.value) and "gdal_translate" in caught.value.hint


@pytest.mark.parametrize(
    "grid",
    [
        on("EPSG:4326", Affine(0.25, 0, -0.125, 0, -0.25, 90.125), 1440, 721),  # middles on the poles
        on("EPSG:4326", Affine(10, 0, 100, 0, -10, 90), 36, 18),
        on("EPSG:4326", Affine(10, 0, -180, 0, 10, -90), 36, 18),
        on("EPSG:4807", Affine(0.1, 0, 10, 0, -0.1, 99)),
        on("EPSG:3857", Affine(4e5, 0, -2e7, 0, -4e5, 2e7), 100, 100),
        on("ESRI:54008", Affine(4e5, 0, -2e7, 0, -2e5, 1e7), 100, 100),
        on("EPSG:3413", Affine(4e5, 0, -2e7, 0, -4e5, 2e7), 100, 100),
        on("+proj=ortho +lat_0=45", Affine(2e5, 0, -1e7, 0, -2e5, 1e7), 100, 100),
        Grid(None, Affine(1e9, 0, 1e12, 0, 1e9, 1e12), 100, 80),
        Grid(CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]'), Affine(1e9, 0, 0, 0, 1e9, 0), 100, 80),
    ],
    ids=str,
)
def test_whole_earths_and_places_of_their_own_are_possible(grid: Grid) -> None:
    refuse_impossible(grid, "map.tif")
