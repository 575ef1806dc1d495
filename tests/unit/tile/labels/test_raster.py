"""Label rasters of any kind come onto the scene's grid, or say why they cannot."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.warp import reproject
from rasterio.windows import Window

from cwsam_cli.errors import DataError, MissingCRS
from cwsam_cli.raster.grid import Grid
from cwsam_cli.taxonomy import LabelTable, LandCoverClass, Taxonomy
from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED
from cwsam_cli.tile.labels.raster import open_raster_labels, recode
from tests.label_places import ACROSS, GRID, SCENE, SCENE_GRIDS, WHOLE, degrees_of

MakeRaster = Callable[..., Path]


def codes(height: int = 16, width: int = 20, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 5, (height, width)).astype(np.uint8)


def on_scene(path: Path, grid: Grid = GRID, window: Window | None = None) -> NDArray[np.int16]:
    with open_raster_labels(path, grid, SCENE) as labels:
        return labels.read(window or Window(0, 0, grid.width, grid.height))


def refusal(path: Path, grid: Grid = GRID) -> DataError:
    with pytest.raises(DataError) as caught:
        on_scene(path, grid)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert str(path) in str(caught.value) or "scene.tif" in str(caught.value)
    return caught.value


# --- label rasters ---


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_labels_on_the_same_grid_pass_unchanged(make_raster: MakeRaster, dtype: str) -> None:
    read = on_scene(make_raster("same.tif", codes().astype(dtype)))
    assert read.dtype == np.int16
    np.testing.assert_array_equal(read, codes())


def test_a_window_of_labels_is_that_part_of_them(make_raster: MakeRaster) -> None:
    read = on_scene(make_raster("same.tif", codes()), window=Window(3, 5, 8, 6))
    np.testing.assert_array_equal(read, codes()[5:11, 3:11])


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 2), ("int16", -9999), ("float32", np.nan), ("uint8", 0)])
def test_the_nodata_value_of_labels_is_no_label(make_raster: MakeRaster, dtype: str, nodata: float) -> None:
    values = codes().astype(dtype)
    values[4:6] = nodata
    read = on_scene(make_raster("holes.tif", values, nodata=nodata))
    missing = np.isnan(values) if np.isnan(nodata) else values == nodata
    np.testing.assert_array_equal(read == NO_LABEL, missing)
    np.testing.assert_array_equal(read[~missing], values[~missing])


def test_255_and_nan_are_no_label_without_being_told(make_raster: MakeRaster) -> None:
    values = codes().astype("float32")
    values[0], values[1] = 255, np.nan
    read = on_scene(make_raster("gaps.tif", values))
    assert (read[:2] == NO_LABEL).all() and (read[2:] == codes()[2:]).all()


def test_a_mask_of_labels_is_honoured(make_raster: MakeRaster) -> None:
    mask = codes(seed=1) > 0
    read = on_scene(make_raster("masked.tif", codes(), mask=mask))
    np.testing.assert_array_equal(read, np.where(mask, codes().astype(int), NO_LABEL))


OTHER_GRIDS = {
    "another resolution": (CRS.from_epsg(32617), from_origin(600_003, 3_999_991, 17, 23)),
    "another CRS": (CRS.from_epsg(32618), from_origin(62_400, 4_012_000, 25, 25)),
    "degrees": (CRS.from_epsg(4326), from_origin(-79.9, 36.15, 0.0003, 0.0002)),
    "feet": (CRS.from_epsg(2264), from_origin(1_718_000, 870_000, 60, 60)),
}


def about(grid: Grid, crs: CRS, transform: Affine) -> tuple[Affine, int, int]:
    """The label grid moved so that it covers the middle of the scene, and leaves its corners bare."""
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    to_label = Transformer.from_crs(grid.crs.to_wkt(), crs.to_wkt(), always_xy=True)
    col, row = ~transform @ to_label.transform(x, y)
    return transform @ Affine.translation(round(col) - 20, round(row) - 18), 40, 36


@pytest.mark.parametrize("grid", SCENE_GRIDS.values(), ids=SCENE_GRIDS)
@pytest.mark.parametrize("place", OTHER_GRIDS.values(), ids=OTHER_GRIDS)
def test_labels_on_another_grid_equal_a_nearest_neighbour_warp(
    make_raster: MakeRaster, place: tuple[CRS, Affine], grid: Grid
) -> None:
    transform, width, height = about(grid, *place)
    values = codes(height, width)
    path = make_raster("other.tif", values, crs=place[0], transform=transform, nodata=255)
    expected = np.full((grid.height, grid.width), 255, np.int32)
    reproject(
        values.astype(np.int32),
        expected,
        src_transform=transform,
        src_crs=place[0],
        src_nodata=255,
        dst_transform=grid.transform,
        dst_crs=grid.crs,
        dst_nodata=255,
        resampling=Resampling.nearest,
    )
    labelled = expected != 255
    assert 0 < labelled.mean() < 1
    differs = on_scene(path, grid) != np.where(labelled, expected, NO_LABEL)
    assert differs.sum() <= 2  # `reproject` takes places as good to an eighth of a pixel


@pytest.mark.parametrize("grid", SCENE_GRIDS.values(), ids=SCENE_GRIDS)
@pytest.mark.parametrize("place", OTHER_GRIDS.values(), ids=OTHER_GRIDS)
def test_a_label_is_the_one_under_the_pixel_centre(
    make_raster: MakeRaster, place: tuple[CRS, Affine], grid: Grid
) -> None:
    transform, width, height = about(grid, *place)
    values = codes(height, width)
    path = make_raster("other.tif", values, crs=place[0], transform=transform, nodata=255)
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform @ (cols.ravel(), rows.ravel())
    to_label = Transformer.from_crs(grid.crs.to_wkt(), place[0].to_wkt(), always_xy=True)
    col, row = ~transform @ to_label.transform(x, y)
    inside = (col >= 0) & (col < width) & (row >= 0) & (row < height)
    expected = np.full(col.shape, NO_LABEL)
    expected[inside] = values[np.floor(row[inside]).astype(int), np.floor(col[inside]).astype(int)]
    on_an_edge = np.minimum(np.abs(col - np.rint(col)), np.abs(row - np.rint(row))) < 1e-4
    clear = ~on_an_edge.reshape(cols.shape)
    assert clear.mean() > 0.85
    np.testing.assert_array_equal(on_scene(path, grid)[clear], expected.reshape(cols.shape)[clear])


def test_windows_of_warped_labels_agree_with_the_whole(make_raster: MakeRaster) -> None:
    grid = SCENE_GRIDS["rotated"]
    transform, width, height = about(grid, *OTHER_GRIDS["degrees"])
    path = make_raster("other.tif", codes(height, width), crs="EPSG:4326", transform=transform, nodata=255)
    whole = on_scene(path, grid)
    for window in (Window(0, 0, 7, 5), Window(13, 11, 20, 9), Window(33, 25, 7, 5)):
        np.testing.assert_array_equal(on_scene(path, grid, window), whole[window.toslices()])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_ground_beyond_the_label_raster_is_unlabelled_even_without_nodata(make_raster: MakeRaster, dtype: str) -> None:
    path = make_raster("small.tif", np.ones((8, 8), dtype), transform=from_origin(600_060, 3_999_940, 15, 15))
    read = on_scene(path)
    assert (read[2:6, 2:6] == 1).all()
    assert (read == NO_LABEL).sum() == read.size - 16


def test_real_labels_of_another_datum_come_onto_the_scene_exactly(landcover: Path) -> None:
    folder = landcover / "zion_landsat8_nlcd"
    with ExitStack() as stack:
        image, label = (stack.enter_context(rasterio.open(folder / name)) for name in ("image.tif", "label.tif"))
        grid, expected = Grid.of(image), label.read(1).astype(np.int32)
    expected[expected == 255] = NO_LABEL
    np.testing.assert_array_equal(on_scene(folder / "label_native_grid.tif", grid), expected)


def test_whole_numbers_in_a_float_raster_are_codes(make_raster: MakeRaster) -> None:
    read = on_scene(make_raster("float.tif", codes().astype("float64")))
    np.testing.assert_array_equal(read, codes())


def test_a_fraction_in_a_label_raster_is_refused(make_raster: MakeRaster) -> None:
    values = codes().astype("float32")
    values[3, 3] = 1.5
    assert "1.5" in str(refusal(make_raster("float.tif", values)))


@pytest.mark.parametrize(
    ("dtype", "odd"),
    [("int16", -1), ("int16", -9999), ("uint16", 256), ("int32", 70_000), ("float32", 300), ("int64", 2**62)],
)
def test_values_that_no_class_can_have_are_counted(make_raster: MakeRaster, dtype: str, odd: int) -> None:
    values = codes().astype(dtype)
    values[3, 3:5] = odd
    with open_raster_labels(make_raster("odd.tif", values), GRID, SCENE) as labels:
        assert (labels.read(WHOLE) == UNEXPECTED).sum() == 2
        assert labels.unexpected(WHOLE) == {odd: 2}


@pytest.mark.parametrize("bands", [2, 4, 7])
def test_labels_of_several_bands_are_refused(make_raster: MakeRaster, bands: int) -> None:
    path = make_raster("many.tif", np.ones((bands, 16, 20), np.uint8), photometric="MINISBLACK", alpha="NO")
    assert f"{bands} bands" in str(refusal(path))


NLCD = Taxonomy(
    classes=(
        LandCoverClass(code=1, name="water", color="#0000ff"),
        LandCoverClass(code=4, name="forest", color="#006400"),
    )
)
GROUPED = LabelTable.of(NLCD, {4: [41, 42, -43, 2**40]}, unlabelled=[-9999, 90_000])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float32", "float64"])
def test_values_of_the_table_become_their_classes(make_raster: MakeRaster, dtype: str) -> None:
    values = np.ones((16, 20), dtype)
    values[1], values[2], values[3], values[4] = 41, 42, -43, 4
    expected = np.ones((16, 20))
    expected[1:4], expected[4] = 4, UNEXPECTED  # a class with values of its own does not take its code
    with open_raster_labels(make_raster("values.tif", values), GRID, SCENE, GROUPED) as labels:
        np.testing.assert_array_equal(labels.read(WHOLE), expected)
        assert labels.unexpected(WHOLE) == {4: 20}


def test_values_of_the_table_may_be_negative_or_need_64_bits(make_raster: MakeRaster) -> None:
    values = np.ones((16, 20), "int64")
    values[1], values[2], values[3] = 2**40, -9999, 90_000
    expected = np.ones((16, 20))
    expected[1], expected[2:4] = 4, NO_LABEL
    with open_raster_labels(make_raster("values.tif", values), GRID, SCENE, GROUPED) as labels:
        np.testing.assert_array_equal(labels.read(WHOLE), expected)


def test_255_is_no_label_unless_a_class_has_it(make_raster: MakeRaster) -> None:
    path = make_raster("values.tif", np.full((16, 20), 255, np.uint8))
    for table, code in ((GROUPED, NO_LABEL), (LabelTable.of(NLCD, {1: [255]}), 1)):
        with open_raster_labels(path, GRID, SCENE, table) as labels:
            assert (labels.read(WHOLE) == code).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_recoding_equals_a_loop_over_the_values(dtype: str) -> None:
    rng = np.random.default_rng(5)
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, (50, 40), dtype, endpoint=True)
    values[:20] = rng.integers(0, 9, (20, 40))
    table = {int(value): int(rng.integers(-1, 255)) for value in rng.choice(values.ravel(), 60)} | {-7: 3, 2**50: 4}
    expected = [[table.get(value, UNEXPECTED) for value in row] for row in values.tolist()]
    np.testing.assert_array_equal(recode(values, table), expected)


PALETTE = np.array([[0, 0, 255], [0, 100, 0], [1, 2, 3], [0, 0, 0]], np.uint8)


@pytest.mark.parametrize("warped", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_colors_become_the_classes_of_the_table(make_raster: MakeRaster, alpha: bool, warped: bool) -> None:
    which = codes() % 2
    bands = np.moveaxis(PALETTE[which], -1, 0)
    expected = np.where(which == 0, 1, 4).astype(int)
    if alpha:
        bands = np.concatenate([bands, np.where(codes(seed=2) > 0, 255, 0).astype(np.uint8)[None]])
        expected[codes(seed=2) == 0] = NO_LABEL
    place = {"transform": from_origin(600_001, 4_000_001, 30, 30)} if warped else {}
    path = make_raster("rgb.tif", bands, photometric="RGB", alpha="YES" if alpha else "NO", **place)
    with open_raster_labels(path, GRID, SCENE, GROUPED) as labels:
        np.testing.assert_array_equal(labels.read(WHOLE), expected)


def test_colors_without_a_class_are_counted(make_raster: MakeRaster) -> None:
    which = codes() % 2
    which[0, :3], which[5, 5] = 2, 3
    table = LabelTable.of(NLCD, unlabelled=["#000000"])
    with open_raster_labels(make_raster("rgb.tif", np.moveaxis(PALETTE[which], -1, 0)), GRID, SCENE, table) as labels:
        assert labels.unexpected(WHOLE) == {"#010203": 3}
        assert labels.read(WHOLE)[5, 5] == NO_LABEL


def test_colors_need_a_table_that_tells_them_apart(make_raster: MakeRaster) -> None:
    path = make_raster("rgb.tif", np.moveaxis(PALETTE[codes() % 2], -1, 0))
    assert "--classes" in refusal(path).hint
    twins = Taxonomy(classes=tuple(LandCoverClass(code=i, name=f"c{i}", color="#0000ff") for i in (1, 2)))
    with pytest.raises(DataError, match="#0000ff"), open_raster_labels(path, GRID, SCENE, LabelTable.of(twins)):
        pass


def test_complex_labels_are_refused(make_raster: MakeRaster) -> None:
    assert "complex" in str(refusal(make_raster("complex.tif", np.ones((16, 20), "complex64"))))


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    assert "no file" in str(refusal(tmp_path / "missing.tif"))


def test_labels_without_a_crs_on_the_scenes_pixels_are_taken_with_a_warning(
    make_raster: MakeRaster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cwsam"), "propagate", True)
    path = make_raster("nocrs.tif", codes(), crs=None)
    with caplog.at_level(logging.WARNING, logger="cwsam"):
        np.testing.assert_array_equal(on_scene(path), codes())
    assert "nocrs.tif" in caplog.text and "no CRS" in caplog.text


def test_labels_without_a_crs_on_other_pixels_are_refused(make_raster: MakeRaster) -> None:
    path = make_raster("nocrs.tif", codes(), crs=None, transform=from_origin(600_015, 4_000_000, 30, 30))
    assert isinstance(refusal(path), MissingCRS)


def test_labels_with_a_crs_on_a_scene_without_one_need_the_same_pixels(make_raster: MakeRaster) -> None:
    bare = Grid(None, GRID.transform, GRID.width, GRID.height)
    np.testing.assert_array_equal(on_scene(make_raster("label.tif", codes()), bare), codes())
    error = refusal(make_raster("label.tif", codes(10, 10)), bare)
    assert isinstance(error, MissingCRS) and "scene.tif" in str(error)


def test_a_raster_has_no_conflicts(make_raster: MakeRaster) -> None:
    with open_raster_labels(make_raster("label.tif", codes()), GRID, SCENE) as labels:
        assert labels.conflicts(WHOLE).total() == 0


def halves(grid: Grid) -> NDArray[np.int16]:
    """3 where a pixel's centre lies west of the antimeridian, 7 east of it."""
    return np.where(degrees_of(grid)[0] % 360 < 180, 3, 7)


@pytest.mark.parametrize("grid", ACROSS.values(), ids=ACROSS)
@pytest.mark.parametrize(
    ("crs", "west", "pixel"),
    [
        ("EPSG:4326", 178, 0.01),
        ("EPSG:4326", -182, 0.01),
        ("EPSG:3857", 20037508.342789244 - 200_000, 1000),
        ("EPSG:3832", 3339584.7237981806 - 200_000, 1000),
    ],
)
def test_label_rasters_that_cross_the_antimeridian_label_both_sides(
    make_raster: MakeRaster, grid: Grid, crs: str, west: float, pixel: float
) -> None:
    north = 12 if crs == "EPSG:4326" else 1_300_000
    values = np.repeat([3, 7], 200)[None].repeat(400, 0).astype(np.uint8)
    path = make_raster("label.tif", values, crs=crs, transform=from_origin(west, north, pixel, pixel))
    np.testing.assert_array_equal(on_scene(path, grid), halves(grid))


def test_labels_with_several_pages_are_read_with_a_warning(
    make_raster: MakeRaster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cwsam"), "propagate", True)
    path = make_raster("pages.tif", codes())
    other = make_raster("other.tif", codes(seed=1))
    rasterio.shutil.copy(other, path, driver="GTiff", APPEND_SUBDATASET="YES")
    with caplog.at_level(logging.WARNING, logger="cwsam"):
        np.testing.assert_array_equal(on_scene(path), codes())
    assert "pages.tif` has 2 pages: only the first is read" in caplog.text
