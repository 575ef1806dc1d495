"""A virtual raster shows its sources at their places, and explains its classes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.raster.class_vrt import Source, write_class_vrt
from cwsam_cli.raster.grid import Grid
from cwsam_cli.raster.style import band_names, read_taxonomy
from cwsam_cli.taxonomy import from_names


def test_sources_lie_at_their_places_and_gaps_are_nodata(make_raster: Callable[..., Path], tmp_path: Path) -> None:
    codes = np.arange(20, dtype=np.uint8).reshape(4, 5)
    make_raster("a.tif", codes)
    make_raster("b.tif", codes + np.uint8(100))
    taxonomy = from_names(["<water> & ice", "森林"])
    grid = Grid(CRS.from_epsg(4326), from_origin(10.1, 50.2, 0.1, 0.1), 8, 6)
    sources = [
        Source("a.tif", (5, 4), Window(0, 0, 5, 4), Window(0, 0, 5, 4)),
        Source("b.tif", (5, 4), Window(2, 1, 3, 2), Window(5, 4, 3, 2)),
    ]
    write_class_vrt(tmp_path / "both.vrt", grid, sources, taxonomy, {"MADE": "a < b"})
    with rasterio.open(tmp_path / "both.vrt") as view:
        expected = np.full((6, 8), 255, np.uint8)
        expected[:4, :5] = codes
        expected[4:, 5:] = codes[1:3, 2:] + 100
        np.testing.assert_array_equal(view.read(1), expected)
        assert view.transform.almost_equals(Affine(0.1, 0, 10.1, 0, -0.1, 50.2))  # longitude first
        assert view.crs.to_epsg() == 4326
        assert view.nodata == 255
        assert view.tags()["MADE"] == "a < b"
        assert band_names(view) == {0: "<water> & ice", 1: "森林"}
        assert read_taxonomy(view, ()) == taxonomy
        assert view.colormap(1)[1] == (*taxonomy.classes[1].rgb, 255)
        assert view.colormap(1)[7][3] == 0
