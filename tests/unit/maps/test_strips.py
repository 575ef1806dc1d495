"""Maps are read by strips, whatever their file is cut into."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from cwsam_cli.errors import DataError
from cwsam_cli.maps import strips
from cwsam_cli.maps.codes import NODATA
from cwsam_cli.maps.strips import on_grid, open_classes

MakeRaster = Callable[..., Path]


@pytest.mark.parametrize("block", [16, 64])
def test_strips_are_the_map_and_cover_blocks_that_are_large(
    make_raster: MakeRaster, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    codes = np.random.default_rng(0).integers(0, 5, (150, 130)).astype(np.uint8)
    path = make_raster("map.tif", codes, nodata=0, tiled=True, blockxsize=block, blockysize=block)
    monkeypatch.setattr(strips, "_PIXELS", 3 * 130)
    monkeypatch.setattr(strips, "_BLOCK_BYTES", 50 * 130)
    with open_classes(path) as source:
        parts = [strip.codes for strip in source.strips("rows")]
    assert len(parts[0]) == (3 if block == 16 else 64)
    np.testing.assert_array_equal(np.concatenate(parts), np.where(codes == 0, NODATA, codes.astype(int)))


def test_a_row_of_blocks_is_read_from_the_file_once(make_raster: MakeRaster, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 5, (128, 4000)).astype(np.uint8)
    path = make_raster("map.tif", codes, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    monkeypatch.setattr(strips, "_PIXELS", 3 * 4000)
    with rasterio.Env(GDAL_CACHEMAX=64), open_classes(path) as source:  # 64 bytes: rasterio does not count in MB
        rows = iter(source.strips("rows"))
        first = next(rows).codes
        with path.open("r+b") as file:  # what is not in GDAL's cache is lost
            file.write(bytes(path.stat().st_size))
        parts = [first, *(next(rows).codes for _ in range(20))]
    np.testing.assert_array_equal(np.concatenate(parts), codes[:63])


def test_a_mask_counts_as_nodata(make_raster: MakeRaster) -> None:
    codes, mask = np.ones((6, 8), np.uint8), np.full((6, 8), 255, np.uint8)
    mask[2:4] = 0
    with open_classes(make_raster("map.tif", codes, mask=mask)) as source:
        (strip,) = source.strips("rows")
    np.testing.assert_array_equal(strip.codes == NODATA, mask == 0)


@pytest.mark.parametrize("code", [-(2**31), -(2**31) + 1, -(2**31) + 2])
@pytest.mark.parametrize("nodata", [None, -9999, -(2**31) + 1])
def test_codes_that_mean_something_else_here_are_refused(make_raster: MakeRaster, code: int, nodata: int) -> None:
    codes = np.full((6, 8), 5, np.int32)
    codes[2, 3] = code
    with open_classes(make_raster("map.tif", codes, nodata=nodata)) as source:
        if code == nodata:
            (strip,) = source.strips("rows")
            assert np.argwhere(strip.codes == NODATA).tolist() == [[2, 3]]
        else:
            with pytest.raises(DataError, match=rf"map\.tif. holds the code {code}"):
                list(source.strips("rows"))


@pytest.mark.parametrize("nodata", [3.5, np.nan, 300])
def test_nodata_that_no_code_can_be_hides_none(make_raster: MakeRaster, nodata: float) -> None:
    codes = np.arange(48, dtype=np.uint8).reshape(6, 8)
    path = make_raster("map.tif", codes)
    metadata = f"<PAMDataset><PAMRasterBand band='1'><NoDataValue>{nodata}</NoDataValue></PAMRasterBand></PAMDataset>"
    path.with_name("map.tif.aux.xml").write_text(metadata)
    with open_classes(path) as source:
        (strip,) = source.strips("rows")
    np.testing.assert_array_equal(strip.codes, codes)


def test_other_rasters_are_read_on_the_maps_grid(make_raster: MakeRaster) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    values[0, 0] = -1
    other = make_raster("other.tif", values, nodata=-1, transform=from_origin(600_060, 4_000_000, 60, 60))
    with (
        open_classes(make_raster("map.tif", np.ones((4, 8), np.uint8))) as source,
        on_grid([other], source) as rasters,
    ):
        (strip,) = source.strips("rows", rasters)
    assert strip.values is not None
    found = strip.values[0]
    assert np.isnan(found[:, :2]).all() and np.isnan(found[:2, 2:4]).all()
    np.testing.assert_array_equal(found[:, 4:], values[:2, 1:3].repeat(2, axis=0).repeat(2, axis=1))


def test_control_points_alone_are_refused(tmp_path: Path) -> None:
    points = [GroundControlPoint(r, c, 600_000 + c, 4_000_000 - r) for r, c in ((0, 0), (0, 9), (9, 0), (9, 9))]
    with rasterio.open(
        tmp_path / "map.tif", "w", driver="GTiff", width=10, height=10, count=1, dtype="uint8", gcps=points, crs=32617
    ) as target:
        target.write(np.ones((1, 10, 10), np.uint8))
    with pytest.raises(DataError, match="control points"), open_classes(tmp_path / "map.tif"):
        pass


def test_reading_a_class_raster_does_not_load_the_compiler() -> None:
    program = "import sys, cwsam_cli.maps.strips; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("west", [179.0, -181.0])
@pytest.mark.parametrize("other", [178.0, -182.0])
def test_other_rasters_are_read_on_both_sides_of_the_antimeridian(
    make_raster: MakeRaster, west: float, other: float
) -> None:
    here, there = from_origin(west, 10, 0.1, 0.1), from_origin(other, 11, 0.1, 0.1)
    values = np.arange(40 * 40, dtype=np.float32).reshape(40, 40)
    path = make_raster("other.tif", values, crs="EPSG:4326", transform=there)
    map_ = make_raster("map.tif", np.ones((10, 20), np.uint8), crs="EPSG:4326", transform=here)
    with open_classes(map_) as source, on_grid([path], source) as rasters:
        (strip,) = source.strips("rows", rasters)
    assert strip.values is not None
    np.testing.assert_array_equal(strip.values[0], values[10:20, 10:30])


def test_a_projected_map_across_the_antimeridian_reads_a_raster_in_degrees_on_both_sides(
    make_raster: MakeRaster,
) -> None:
    degrees = {"crs": "EPSG:4326", "transform": from_origin(178, 12, 0.01, 0.01)}
    path = make_raster("other.tif", np.ones((400, 400), np.float32), **degrees)
    utm = {"crs": "EPSG:32660", "transform": from_origin(800_000, 1_150_000, 1000, 1000)}
    with (
        open_classes(make_raster("map.tif", np.ones((80, 80), np.uint8), **utm)) as source,
        on_grid([path], source) as rasters,
    ):
        (strip,) = source.strips("rows", rasters)
    assert strip.values is not None and (strip.values == 1).all()
