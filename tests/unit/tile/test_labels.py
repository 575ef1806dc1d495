"""Labels of any kind come onto the scene's grid, or say why they cannot."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
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
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from cwsam_cli.tile.labels import (
    NO_LABEL,
    VectorLabels,
    is_vector,
    open_raster_labels,
    place_polygons,
    read_polygons,
)

MakeRaster = Callable[..., Path]
UTM = CRS.from_epsg(32617)
SCENE = Path("scene.tif")
GRID = Grid(UTM, from_origin(600_000, 4_000_000, 30, 30), 20, 16)
WHOLE = Window(0, 0, 20, 16)
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=3, name="water", color="#0000ff"),
        LandCoverClass(code=7, name="林地", color="#00ff00"),
    ),
    unlabelled=(9,),
)


def codes(height: int = 16, width: int = 20, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 5, (height, width)).astype(np.uint8)


def on_scene(path: Path, grid: Grid = GRID, window: Window | None = None) -> NDArray[np.int32]:
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
    assert read.dtype == np.int32
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
SCENE_GRIDS = {
    "north-up": Grid(UTM, from_origin(600_000, 4_000_000, 30, 30), 40, 30),
    "south-up": Grid(UTM, Affine(30, 0, 600_000, 0, 30, 3_999_100), 40, 30),
    "rotated": Grid(UTM, Affine.translation(600_100, 3_999_900) @ Affine.rotation(20) @ Affine.scale(25, -25), 40, 30),
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


@pytest.mark.parametrize(("dtype", "odd"), [("int16", -1), ("uint16", 256), ("int32", 70_000), ("float32", 300)])
def test_a_code_that_no_class_can_have_is_refused(make_raster: MakeRaster, dtype: str, odd: int) -> None:
    values = codes().astype(dtype)
    values[3, 3] = odd
    error = refusal(make_raster("odd.tif", values))
    assert f"code {odd}" in str(error).replace("7e+04", "70000")
    assert "0-254" in error.hint


@pytest.mark.parametrize("bands", [2, 3])
def test_labels_of_several_bands_are_refused(make_raster: MakeRaster, bands: int) -> None:
    assert f"{bands} bands" in str(refusal(make_raster("rgb.tif", np.ones((bands, 16, 20), np.uint8))))


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


ACROSS = {
    "UTM 60": Grid(CRS.from_epsg(32660), from_origin(800_000, 1_150_000, 1000, 1000), 100, 100),
    "beyond 180": Grid(CRS.from_epsg(4326), from_origin(179.5, 10.5, 0.01, 0.01), 100, 100),
    "beyond -180": Grid(CRS.from_epsg(4326), from_origin(-180.5, 10.5, 0.01, 0.01), 100, 100),
    "Pacific Mercator": Grid(CRS.from_epsg(3832), from_origin(3_290_000, 1_200_000, 1000, 1000), 100, 100),
    "Web Mercator": Grid(CRS.from_epsg(3857), from_origin(20_037_508 - 50_000, 1_200_000, 1000, 1000), 100, 100),
}
"""Scenes whose middle column lies near the antimeridian, at 10 degrees north."""


def halves(grid: Grid) -> NDArray[np.int32]:
    """3 where a pixel's centre lies west of the antimeridian, 7 east of it."""
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    way = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
    longitude, _ = way.transform(*grid.transform @ (cols, rows))
    return np.where(np.asarray(longitude) % 360 < 180, 3, 7)


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


# --- polygons ---


@pytest.mark.parametrize("grid", ACROSS.values(), ids=ACROSS)
@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:4326", "EPSG:3832"])
@pytest.mark.parametrize("first", [178, -182])
def test_polygons_that_cross_the_antimeridian_label_both_sides(grid: Grid, crs: str, first: int) -> None:
    whole = shapely.segmentize(shapely.box(first, 8, first + 4, 12), 0.5)
    hole = shapely.segmentize(shapely.box(first + 1.9, 9.8, first + 2.1, 10.2), 0.05)
    degrees = geopandas.GeoSeries([whole.difference(hole), hole], crs="EPSG:4326")
    frame = geopandas.GeoDataFrame({"code": [3, 7]}, geometry=degrees, crs="EPSG:4326").to_crs(crs)
    found = place_polygons(frame, grid, SCENE).read(Window(0, 0, 100, 100))
    cols, rows = np.meshgrid(np.arange(100) + 0.5, np.arange(100) + 0.5)
    way = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
    longitude, latitude = (np.asarray(axis) for axis in way.transform(*grid.transform @ (cols, rows)))
    inside = (np.abs(longitude % 360 - 180) < 0.1) & (np.abs(latitude - 10) < 0.2)
    assert (found == np.where(inside, 7, 3)).mean() > 0.995, "straight edges bend a little"
    assert NO_LABEL not in found


def test_polygons_cut_at_the_antimeridian_label_both_sides() -> None:
    halved = shapely.MultiPolygon([shapely.box(178, 8, 180, 12), shapely.box(-180, 8, -178, 12)])
    frame = geopandas.GeoDataFrame({"code": [3]}, geometry=[halved], crs="EPSG:4326")
    for grid in ACROSS.values():
        assert (place_polygons(frame, grid, SCENE).read(Window(0, 0, 100, 100)) == 3).all()


@pytest.mark.parametrize("crs", [4326, 3857, 3832])
def test_a_polygon_round_the_whole_globe_labels_it_all(crs: int) -> None:
    frame = geopandas.GeoDataFrame({"code": [3]}, geometry=[shapely.box(-180, -80, 180, 80)], crs="EPSG:4326")
    wide = 360 if crs == 4326 else 40_000_000
    grid = Grid(CRS.from_epsg(crs), from_origin(-wide / 2, wide / 8, wide / 100, wide / 100), 100, 20)
    assert (place_polygons(frame, grid, SCENE).read(Window(0, 0, 100, 20)) == 3).all()


def square(col: float, row: float, width: float, height: float) -> shapely.Polygon:
    """A rectangle given in the scene's pixels."""
    return shapely.box(
        600_000 + 30 * col, 4_000_000 - 30 * (row + height), 600_000 + 30 * (col + width), 4_000_000 - 30 * row
    )


def layer(tmp_path: Path, rows: Sequence[tuple[object, shapely.Geometry]], *, crs: str = "EPSG:32617") -> Path:
    path = tmp_path / "polygons.gpkg"
    frame = geopandas.GeoDataFrame(
        {"class": [value for value, _ in rows]}, geometry=[shape for _, shape in rows], crs="EPSG:32617"
    )
    frame.to_crs(crs).to_file(path, driver="GPKG")
    return path


def laid(path: Path, taxonomy: Taxonomy | None = None, grid: Grid = GRID) -> VectorLabels:
    return place_polygons(read_polygons(path, "class", taxonomy)[0], grid, SCENE)


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [(3, square(2.4, 3.4, 4, 5)), (7, square(10.6, 0.6, 3, 2))]))
    expected = np.full((16, 20), NO_LABEL)
    expected[3:8, 2:6] = 3
    expected[1:3, 11:14] = 7
    read = labels.read(WHOLE)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(labels.read(Window(4, 2, 9, 7)), expected[2:9, 4:13])


def test_ground_outside_all_polygons_is_unlabelled(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [(0, square(0, 0, 3, 3))]))
    assert (labels.read(Window(8, 8, 6, 6)) == NO_LABEL).all()
    assert (labels.read(WHOLE)[:3, :3] == 0).all()


@pytest.mark.parametrize("grid", SCENE_GRIDS.values(), ids=SCENE_GRIDS)
def test_polygons_lie_right_on_any_grid(tmp_path: Path, grid: Grid) -> None:
    disc = shapely.Point(grid.transform @ (20, 15)).buffer(300)
    labels = laid(layer(tmp_path, [(5, disc)]), grid=grid)
    cols, rows = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    x, y = grid.transform @ (cols, rows)
    inside = shapely.contains_xy(disc, x, y)
    assert 0 < inside.mean() < 1
    np.testing.assert_array_equal(labels.read(Window(0, 0, 40, 30)) == 5, inside)


def test_pixels_in_polygons_of_different_classes_are_counted_as_conflicts(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [(7, square(0, 0, 6, 6)), (3, square(4, 4, 6, 6)), (5, square(5, 5, 1, 1))]))
    assert labels.conflicts(WHOLE).total() == 4
    assert labels.conflicts(Window(0, 0, 5, 5)).total() == 1
    assert labels.conflicts(Window(12, 12, 4, 4)).total() == 0


def test_conflicts_are_told_by_feature_id(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [(7, square(0, 0, 6, 6)), (3, square(4, 4, 6, 6)), (5, square(5, 5, 1, 1))]))
    assert labels.conflicts(WHOLE) == {(1, 2): 3, (1, 2, 3): 1}  # a GeoPackage counts from 1


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (square(0, 0, 6.5, 16), square(6.5, 0, 6, 16)),
        (square(0, 0, 20, 6.5), square(0, 6.5, 20, 5)),
        (square(0, 0, 6.5, 16), shapely.segmentize(square(6.5, 0, 6, 16), 17)),  # more vertices on the same edge
        (
            shapely.Polygon([(600_000, 4_000_000), (600_480, 3_999_520), (600_000, 3_999_520)]),
            shapely.Polygon([(600_000, 4_000_000), (600_480, 3_999_520), (600_480, 4_000_000)]),
        ),
    ],
    ids=["vertical", "horizontal", "unlike vertices", "slanted"],
)
@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326"])
def test_a_centre_on_a_shared_edge_goes_to_one_of_the_polygons(
    tmp_path: Path, left: shapely.Polygon, right: shapely.Polygon, crs: str
) -> None:
    labels = laid(layer(tmp_path, [(3, left), (7, right)], crs=crs))
    assert labels.conflicts(WHOLE).total() == 0
    burnt = labels.read(WHOLE)
    assert {3, 7} <= set(np.unique(burnt).tolist())


def test_a_hole_filled_by_another_class_is_no_conflict(tmp_path: Path) -> None:
    hole = square(3.5, 3.5, 4, 4)
    labels = laid(layer(tmp_path, [(3, square(0, 0, 12, 12).difference(hole)), (7, hole)]))
    assert labels.conflicts(WHOLE).total() == 0
    assert (labels.read(WHOLE)[:12, :12] != NO_LABEL).all()


def test_points_of_two_classes_in_one_pixel_conflict(tmp_path: Path) -> None:
    first, second = (square(4 + d, 4, 0.2, 0.2).centroid for d in (0.1, 0.6))
    labels = laid(
        layer(tmp_path, [(3, first), (7, second), (3, square(9, 9, 3, 3)), (7, square(10, 10, 1, 1).centroid)])
    )
    assert labels.conflicts(WHOLE) == {(1, 2): 1, (3, 4): 1}


def test_polygons_of_one_class_may_overlap(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [(3, square(0, 0, 6, 6)), (3, square(2, 2, 6, 6)), (7, square(8, 2, 3, 3))]))
    assert labels.conflicts(WHOLE).total() == 0
    assert (labels.read(WHOLE) == 3).sum() == 36 + 36 - 16


def test_polygons_that_only_share_a_border_do_not_conflict(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [(3, square(0, 0, 6, 6)), (7, square(6, 0, 6, 6))]))
    assert labels.conflicts(WHOLE).total() == 0


def test_polygons_in_another_crs_are_brought_to_the_scenes(tmp_path: Path) -> None:
    rows = [(3, square(2.3, 3.3, 4, 5)), (7, square(9.3, 1.3, 6, 9))]
    here = laid(layer(tmp_path, rows)).read(WHOLE)
    there = laid(layer(tmp_path, rows, crs="EPSG:4326")).read(WHOLE)
    assert set(np.unique(here)) == {NO_LABEL, 3, 7}
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("values", [["water", "林地"], [3, 7], [3.0, 7.0], ["3", "7"], [" water ", "7"]])
def test_a_class_field_may_hold_names_or_codes_of_the_table(tmp_path: Path, values: list[object]) -> None:
    path = layer(tmp_path, [(values[0], square(0, 0, 2, 2)), (values[1], square(4, 4, 2, 2))])
    frame, taxonomy = read_polygons(path, "class", TAXONOMY)
    assert taxonomy is TAXONOMY
    assert frame["code"].tolist() == [3, 7]


def test_codes_of_the_table_that_mean_unlabelled_are_left_out(tmp_path: Path) -> None:
    path = layer(tmp_path, [(9, square(0, 0, 2, 2)), (3, square(4, 4, 2, 2))])
    frame, _ = read_polygons(path, "class", TAXONOMY)
    assert frame["code"].tolist() == [3]


def test_polygons_without_a_class_are_left_out(tmp_path: Path) -> None:
    path = layer(tmp_path, [(None, square(0, 0, 2, 2)), ("water", square(4, 4, 2, 2))])
    frame, _ = read_polygons(path, "class", TAXONOMY)
    assert frame["code"].tolist() == [3]


def test_unknown_classes_are_refused_by_name(tmp_path: Path) -> None:
    path = layer(tmp_path, [("lava", square(0, 0, 2, 2)), ("water", square(4, 4, 2, 2)), ("冰川", square(8, 8, 2, 2))])
    with pytest.raises(DataError, match=r"`lava`, `冰川`") as caught:
        read_polygons(path, "class", TAXONOMY)
    assert caught.value.exit_code == 4
    assert "water, 林地" in caught.value.hint


def test_a_missing_field_is_answered_with_the_fields_there_are(tmp_path: Path) -> None:
    path = layer(tmp_path, [("water", square(0, 0, 2, 2))])
    with pytest.raises(DataError, match="`landuse`") as caught:
        read_polygons(path, "landuse", TAXONOMY)
    assert caught.value.exit_code == 4
    assert caught.value.hint == "its fields are: class"


def test_without_a_table_names_make_one(tmp_path: Path) -> None:
    path = layer(tmp_path, [("水体", square(0, 0, 2, 2)), ("林地", square(4, 4, 2, 2)), ("水体", square(8, 8, 2, 2))])
    frame, taxonomy = read_polygons(path, "class", None)
    assert sorted(taxonomy.names) == sorted(["林地", "水体"])
    assert sorted(taxonomy.codes) == [1, 2]
    burnt = place_polygons(frame, GRID, SCENE).read(WHOLE)
    by_name = dict(zip(taxonomy.names, taxonomy.codes, strict=True))
    assert (burnt[0, 0], burnt[4, 4], burnt[8, 8]) == (by_name["水体"], by_name["林地"], by_name["水体"])


def test_without_a_table_codes_keep_their_value(tmp_path: Path) -> None:
    path = layer(tmp_path, [(30, square(0, 0, 2, 2)), (4, square(4, 4, 2, 2))])
    frame, taxonomy = read_polygons(path, "class", None)
    assert taxonomy.codes == [4, 30]
    assert taxonomy.names == ["class 4", "class 30"]
    assert frame["code"].tolist() == [4, 30]


@pytest.mark.parametrize("values", [[-1, 2], [2, 255], [None, None]])
def test_a_field_that_holds_no_codes_makes_no_table(tmp_path: Path, values: list[object]) -> None:
    path = layer(tmp_path, [(value, square(i, i, 1, 1)) for i, value in enumerate(values)])
    with pytest.raises(DataError, match="`class`"):
        read_polygons(path, "class", None)


def test_polygons_without_a_crs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nocrs.shp"
    geopandas.GeoDataFrame({"class": [3]}, geometry=[square(0, 0, 2, 2)]).to_file(path)
    with pytest.raises(DataError, match=r"nocrs\.shp"):
        read_polygons(path, "class", TAXONOMY)


def test_polygons_on_a_scene_without_a_crs_are_refused(tmp_path: Path) -> None:
    frame, _ = read_polygons(layer(tmp_path, [(3, square(0, 0, 2, 2))]), "class", TAXONOMY)
    with pytest.raises(MissingCRS, match=r"scene\.tif"):
        place_polygons(frame, Grid(None, Affine.identity(), 5, 5), SCENE)


def test_labels_tell_whether_they_are_polygons(tmp_path: Path, make_raster: MakeRaster) -> None:
    assert is_vector(layer(tmp_path, [(3, square(0, 0, 2, 2))]))
    assert not is_vector(make_raster("label.tif", codes()))
    text = tmp_path / "notes.txt"
    text.write_text("neither")
    for path in (text, tmp_path / "missing.gpkg"):
        with pytest.raises(DataError, match=path.name):
            is_vector(path)


@pytest.mark.parametrize(
    "odd",
    [
        shapely.Point(np.inf, 4_000_000),
        shapely.LineString([(600_000, 4_000_000), (600_030, -np.inf)]),
        shapely.Polygon([(600_000, 4_000_000), (np.inf, 4_000_000), (600_300, 3_999_000)]),
    ],
    ids=["point", "line", "polygon"],
)
def test_coordinates_that_are_not_finite_are_refused_by_feature_id(tmp_path: Path, odd: shapely.Geometry) -> None:
    path = tmp_path / "polygons.gpkg"
    shapes = [square(0, 0, 2, 2), odd]
    geopandas.GeoDataFrame({"class": [3, 7]}, geometry=shapes, crs="EPSG:32617").to_file(path)
    with pytest.raises(DataError, match=r"polygons\.gpkg`: feature\(s\) 2 "):
        read_polygons(path, "class", TAXONOMY)


def test_features_that_have_no_place_in_the_scenes_crs_are_refused(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"code": [3]}, geometry=[shapely.box(0, -90, 10, 10)], crs="EPSG:4326")
    grid = Grid(CRS.from_epsg(3034), from_origin(4_000_000, 2_000_000, 1000, 1000), 10, 10)
    with pytest.raises(DataError, match=r"feature\(s\) 0 .* `scene\.tif`"):
        place_polygons(frame, grid, SCENE)


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
