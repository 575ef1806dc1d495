"""Features become labels of the pixels that they contain, and only those near the scene are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.errors import DataError, MissingCRS, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.taxonomy import LabelTable, LandCoverClass, Taxonomy
from cwsam_cli.tile.labels.codes import NO_LABEL, UNEXPECTED
from cwsam_cli.tile.labels.fields import field_table
from cwsam_cli.tile.labels.vector import VectorLabels, VectorSource, place_polygons
from tests.label_places import ACROSS, GRID, SCENE, SCENE_GRIDS, TABLE, WHOLE, degrees_of


def square(col: float, row: float, width: float, height: float) -> shapely.Polygon:
    """A rectangle given in the scene's pixels."""
    return shapely.box(
        600_000 + 30 * col, 4_000_000 - 30 * (row + height), 600_000 + 30 * (col + width), 4_000_000 - 30 * row
    )


def layer(
    tmp_path: Path,
    rows: Sequence[tuple[object, shapely.Geometry]],
    *,
    crs: str = "EPSG:32617",
    name: str = "polygons.gpkg",
) -> Path:
    path = tmp_path / name
    frame = geopandas.GeoDataFrame(
        {"class": [value for value, _ in rows]}, geometry=[shape for _, shape in rows], crs="EPSG:32617"
    )
    frame.to_crs(crs).to_file(path)
    return path


def source(path: Path, **options: Any) -> VectorSource:
    return VectorSource(path=path, layer=pyogrio.list_layers(path)[0, 0], class_field="class", **options)


def laid(path: Path, table: LabelTable | None = None, grid: Grid = GRID, **options: Any) -> VectorLabels:
    own = source(path, **options)
    with own.opened(grid, SCENE, table or field_table([own])) as labels:
        assert isinstance(labels, VectorLabels)
        return labels


def codes_of(path: Path, table: LabelTable = TABLE, grid: Grid = GRID, **options: Any) -> list[int]:
    """Codes of the features near the scene, by feature id."""
    return source(path, **options).near(grid, table).sort_index()["code"].tolist()


@pytest.mark.parametrize("grid", ACROSS.values(), ids=ACROSS)
@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:4326", "EPSG:3832"])
@pytest.mark.parametrize("first", [178, -182])
def test_polygons_that_cross_the_antimeridian_label_both_sides(grid: Grid, crs: str, first: int) -> None:
    whole = shapely.segmentize(shapely.box(first, 8, first + 4, 12), 0.5)
    hole = shapely.segmentize(shapely.box(first + 1.9, 9.8, first + 2.1, 10.2), 0.05)
    degrees = geopandas.GeoSeries([whole.difference(hole), hole], crs="EPSG:4326")
    frame = geopandas.GeoDataFrame({"code": [3, 7], "rank": 0}, geometry=degrees, crs="EPSG:4326").to_crs(crs)
    found = place_polygons(frame, grid, SCENE).read(Window(0, 0, 100, 100))
    longitude, latitude = degrees_of(grid)
    inside = (np.abs(longitude % 360 - 180) < 0.1) & (np.abs(latitude - 10) < 0.2)
    assert (found == np.where(inside, 7, 3)).mean() > 0.995, "straight edges bend a little"
    assert NO_LABEL not in found


def test_polygons_cut_at_the_antimeridian_label_both_sides() -> None:
    halved = shapely.MultiPolygon([shapely.box(178, 8, 180, 12), shapely.box(-180, 8, -178, 12)])
    frame = geopandas.GeoDataFrame({"code": [3], "rank": 0}, geometry=[halved], crs="EPSG:4326")
    for grid in ACROSS.values():
        assert (place_polygons(frame, grid, SCENE).read(Window(0, 0, 100, 100)) == 3).all()


@pytest.mark.parametrize("crs", [4326, 3857, 3832])
def test_a_polygon_round_the_whole_globe_labels_it_all(crs: int) -> None:
    frame = geopandas.GeoDataFrame(
        {"code": [3], "rank": 0}, geometry=[shapely.box(-180, -80, 180, 80)], crs="EPSG:4326"
    )
    wide = 360 if crs == 4326 else 40_000_000
    grid = Grid(CRS.from_epsg(crs), from_origin(-wide / 2, wide / 8, wide / 100, wide / 100), 100, 20)
    assert (place_polygons(frame, grid, SCENE).read(Window(0, 0, 100, 20)) == 3).all()


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [(3, square(2.4, 3.4, 4, 5)), (7, square(10.6, 0.6, 3, 2))]))
    expected = np.full((16, 20), NO_LABEL)
    expected[3:8, 2:6] = 3
    expected[1:3, 11:14] = 7
    read = labels.read(WHOLE)
    assert read.dtype == np.int16
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
    assert codes_of(path) == [3, 7]


def test_codes_of_the_table_that_mean_unlabelled_are_left_out(tmp_path: Path) -> None:
    path = layer(tmp_path, [(9, square(0, 0, 2, 2)), (3, square(4, 4, 2, 2))])
    assert codes_of(path) == [3]


def test_polygons_without_a_class_are_left_out(tmp_path: Path) -> None:
    path = layer(tmp_path, [(None, square(0, 0, 2, 2)), ("water", square(4, 4, 2, 2))])
    assert codes_of(path) == [3]


def test_values_without_a_class_are_counted_in_pixels(tmp_path: Path) -> None:
    rows = [("lava", square(0, 0, 2, 2)), ("water", square(4, 4, 2, 2)), ("冰川", square(8, 8, 3, 2))]
    labels = laid(layer(tmp_path, rows), TABLE)
    assert labels.unexpected(WHOLE) == {"lava": 4, "冰川": 6}
    assert (labels.read(WHOLE) == UNEXPECTED).sum() == 10


def test_values_without_a_class_are_counted_in_touched_pixels_too(tmp_path: Path) -> None:
    labels = laid(layer(tmp_path, [("lava", square(0.6, 0.6, 0.3, 0.3))]), TABLE, all_touched=True)
    assert labels.read(WHOLE)[0, 0] == UNEXPECTED
    assert labels.unexpected(WHOLE) == {"lava": 1}


def test_without_a_table_names_make_one(tmp_path: Path) -> None:
    path = layer(tmp_path, [("水体", square(0, 0, 2, 2)), ("林地", square(4, 4, 2, 2)), ("水体", square(8, 8, 2, 2))])
    taxonomy = field_table([source(path)]).taxonomy
    assert sorted(taxonomy.names) == sorted(["林地", "水体"])
    assert sorted(taxonomy.codes) == [1, 2]
    burnt = laid(path).read(WHOLE)
    by_name = dict(zip(taxonomy.names, taxonomy.codes, strict=True))
    assert (burnt[0, 0], burnt[4, 4], burnt[8, 8]) == (by_name["水体"], by_name["林地"], by_name["水体"])


def test_without_a_table_codes_keep_their_value(tmp_path: Path) -> None:
    path = layer(tmp_path, [(30, square(0, 0, 2, 2)), (4, square(4, 4, 2, 2))])
    table = field_table([source(path)])
    assert table.taxonomy.codes == [4, 30]
    assert table.taxonomy.names == ["class 4", "class 30"]
    assert codes_of(path, table) == [30, 4]


@pytest.mark.parametrize("values", [[-1, 2], [2, 255], [None, None]])
def test_a_field_that_holds_no_codes_makes_no_table(tmp_path: Path, values: list[object]) -> None:
    path = layer(tmp_path, [(value, square(i, i, 1, 1)) for i, value in enumerate(values)])
    with pytest.raises(DataError, match="`class`"):
        field_table([source(path)])


def test_polygons_on_a_scene_without_a_crs_are_refused(tmp_path: Path) -> None:
    path = layer(tmp_path, [(3, square(0, 0, 2, 2))])
    with pytest.raises(MissingCRS, match=r"scene\.tif"):
        laid(path, TABLE, Grid(None, Affine.identity(), 5, 5))


@pytest.mark.parametrize(
    "odd",
    [
        shapely.LineString([(600_000, 4_000_000), (600_030, -np.inf)]),
        shapely.Polygon([(600_000, 4_000_000), (np.inf, 4_000_000), (600_300, 3_999_000)]),
    ],
    ids=["line", "polygon"],
)
def test_coordinates_that_are_not_finite_are_refused_by_feature_id(tmp_path: Path, odd: shapely.Geometry) -> None:
    path = tmp_path / "polygons.gpkg"
    shapes = [square(0, 0, 2, 2), odd]
    geopandas.GeoDataFrame({"class": [3, 7]}, geometry=shapes, crs="EPSG:32617").to_file(path)
    with pytest.raises(DataError, match=r"polygons\.gpkg`: feature\(s\) 2 "):
        laid(path, TABLE, Grid(GRID.crs, from_origin(0, 9e6, 1e5, 1e5), 90, 90))


def test_features_that_have_no_place_in_the_scenes_crs_are_refused(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"code": [3], "rank": 0}, geometry=[shapely.box(0, -90, 10, 10)], crs="EPSG:4326")
    grid = Grid(CRS.from_epsg(3034), from_origin(4_000_000, 2_000_000, 1000, 1000), 10, 10)
    with pytest.raises(DataError, match=r"feature\(s\) 0 .* `scene\.tif`"):
        place_polygons(frame, grid, SCENE)


# --- which features are read ---


@pytest.mark.parametrize("name", ["p.gpkg", "p.fgb", "p.shp", "p.geojson"])
@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326", "EPSG:3857"])
def test_only_features_near_the_scene_are_read(tmp_path: Path, name: str, crs: str) -> None:
    rng = np.random.default_rng(1)
    near = [(3, square(2, 3, 4, 5)), (7, square(9, 1, 6, 9))]
    far = [(3, square(col, row, 3, 3)) for col, row in rng.uniform(100, 4000, (300, 2))]
    path = layer(tmp_path, [*far[:150], *near, *far[150:]], crs=crs, name=name)
    labels = laid(path, TABLE)
    assert len(labels.frame) == 2
    np.testing.assert_array_equal(labels.read(WHOLE), laid(layer(tmp_path, near, crs=crs), TABLE).read(WHOLE))


@pytest.mark.parametrize("grid", ACROSS.values(), ids=ACROSS)
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3832", "EPSG:32660"])
def test_features_on_both_sides_of_the_antimeridian_are_found(tmp_path: Path, grid: Grid, crs: str) -> None:
    wraps = crs in ("EPSG:4326", "EPSG:3857")
    places = [179.8, -179.8] if wraps else [179.8, 180.2]
    shapes = [shapely.box(x - 0.1, 9.9, x + 0.1, 10.1) for x in places]
    frame = geopandas.GeoDataFrame({"class": [3, 7]}, geometry=shapes, crs="EPSG:4326").to_crs(crs)
    far = geopandas.GeoDataFrame({"class": [3]}, geometry=[shapely.box(170, 9, 171, 10)], crs="EPSG:4326").to_crs(crs)
    path = tmp_path / "across.gpkg"
    geopandas.GeoDataFrame(pandas.concat([frame, far]), crs=frame.crs).to_file(path)
    assert codes_of(path, TABLE, grid) == [3, 7]
    longitude, latitude = degrees_of(grid)
    expected = np.full(longitude.shape, NO_LABEL)
    for code, x in zip((3, 7), places, strict=True):
        away = np.abs((longitude - x + 180) % 360 - 180)
        expected[(away < 0.1) & (np.abs(latitude - 10) < 0.1)] = code
    found = laid(path, TABLE, grid).read(Window(0, 0, 100, 100))
    assert {3, 7} <= set(np.unique(found).tolist())
    assert (found == expected).mean() > 0.99, "straight edges bend a little"


def test_features_round_a_pole_are_found(tmp_path: Path) -> None:
    shapes = [shapely.segmentize(shapely.box(-180, 88, 180, 90), 1), shapely.box(0, 60, 10, 70)]
    path = tmp_path / "arctic.gpkg"
    geopandas.GeoDataFrame({"class": [3, 7]}, geometry=shapes, crs="EPSG:4326").to_file(path)
    grid = Grid(CRS.from_epsg(3413), from_origin(-100_000, 100_000, 10_000, 10_000), 20, 20)
    assert codes_of(path, TABLE, grid) == [3]


def test_a_condition_chooses_features(tmp_path: Path) -> None:
    path = layer(tmp_path, [(3, square(0, 0, 2, 2)), (7, square(4, 4, 2, 2)), (99, square(8, 8, 2, 2))])
    assert codes_of(path, where="class <> 99") == [3, 7]
    assert field_table([source(path, where='"class" > 5')]).taxonomy.codes == [7, 99]


def test_a_wrong_condition_is_told(tmp_path: Path) -> None:
    path = layer(tmp_path, [(3, square(0, 0, 2, 2))])
    with pytest.raises(UsageError, match="--where `year = 2020`"):
        codes_of(path, where="year = 2020")


def test_values_of_the_table_stand_for_classes_in_fields_too(tmp_path: Path) -> None:
    table = LabelTable.of(TABLE.taxonomy, {3: ["Wasser", 41], 7: [42]}, unlabelled=["unbekannt"])
    values = ["Wasser", "41", "42", "unbekannt", "water", "3"]
    path = layer(tmp_path, [(value, square(2 * i, 0, 2, 2)) for i, value in enumerate(values)])
    assert codes_of(path, table) == [3, 3, 7, 3, UNEXPECTED]


# --- overlaps, touched pixels, points and lines ---


THREE = LabelTable.of(
    Taxonomy(classes=tuple(LandCoverClass(code=code, name=f"c{code}", color="#0000ff") for code in (3, 5, 7)))
)


@pytest.mark.parametrize("priority", [(3, 5, 7), (7, 3, 5), (5, 7, 3)])
def test_a_class_with_priority_wins(tmp_path: Path, priority: tuple[int, ...]) -> None:
    path = layer(tmp_path, [(3, square(0, 0, 6, 6)), (7, square(4, 4, 6, 6)), (5, square(5, 5, 3, 3))])
    labels = laid(path, THREE, priority=priority)
    assert labels.conflicts(WHOLE).total() == 0
    read = labels.read(WHOLE)
    assert (read[5, 5], read[0, 0], read[9, 9]) == (priority[0], 3, 7)
    assert read[7, 7] == min((5, 7), key=priority.index)


def test_classes_without_priority_conflict_where_none_with_priority_lies_above_them(tmp_path: Path) -> None:
    path = layer(tmp_path, [(3, square(0, 0, 6, 6)), (7, square(4, 4, 6, 6)), (5, square(5, 4, 1, 2))])
    assert laid(path, THREE, priority=(5,)).conflicts(WHOLE) == {(1, 2): 2}


def test_touched_pixels_are_labelled_where_no_polygon_has_their_centre(tmp_path: Path) -> None:
    path = layer(tmp_path, [(3, square(2.6, 2.6, 3, 3)), (7, square(5.6, 2.6, 0.3, 3))])
    touched = laid(path, TABLE, all_touched=True)
    assert touched.conflicts(WHOLE).total() == 0
    before, after = laid(path, TABLE).read(WHOLE), touched.read(WHOLE)
    assert (before == 3).sum() == 9 and (before == 7).sum() == 0
    np.testing.assert_array_equal(after[before != NO_LABEL], before[before != NO_LABEL])
    expected = np.zeros((16, 20), bool)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(after != NO_LABEL, expected)
    assert 7 in after


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("scene", ["UTM", "degrees"])
def test_a_buffer_makes_discs_of_points_and_strips_of_lines(tmp_path: Path, crs: str, scene: str) -> None:
    point = square(5, 3, 1, 1).centroid
    line = shapely.LineString([(600_000, 3_999_700), (600_600, 3_999_700)])
    area = square(15.6, 0.6, 3, 2)
    path = layer(tmp_path, [(3, point), (7, line), (3, area)], crs=crs)
    grid = GRID
    if scene == "degrees":
        grid = Grid(CRS.from_epsg(4326), from_origin(-79.8890, 36.1400, 0.0001, 0.0001), 70, 60)
    longitude, latitude = (axis.ravel() for axis in degrees_of(grid))
    centres = geopandas.GeoSeries.from_xy(longitude, latitude, crs="EPSG:4326").to_crs("EPSG:32617").to_numpy()
    expected = np.full(len(centres), NO_LABEL)
    expected[(shapely.distance(centres, point) < 60) | shapely.contains(area, centres)] = 3
    expected[shapely.distance(centres, line) < 60] = 7
    found = laid(path, TABLE, grid, buffer_m=60.0).read(Window(0, 0, grid.width, grid.height)).ravel()
    assert {3, 7} <= set(found.tolist())
    assert (found == expected).mean() > 0.99, "discs have 64 corners, and a UTM's scale is wrong by 0.04 %"


def test_a_point_beside_the_scene_labels_the_ground_within_its_buffer(tmp_path: Path) -> None:
    path = layer(tmp_path, [(3, shapely.Point(600_000 - 2_000, 3_999_800))], crs="EPSG:4326")
    assert (laid(path, TABLE, buffer_m=2_100.0).read(WHOLE) == 3).sum() > 20


@pytest.mark.parametrize("grid", SCENE_GRIDS.values(), ids=SCENE_GRIDS)
@pytest.mark.parametrize("all_touched", [False, True])
def test_large_polygons_label_each_window_as_the_whole(tmp_path: Path, grid: Grid, all_touched: bool) -> None:
    rng = np.random.default_rng(2)
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radii = rng.uniform(150, 450, 400)
    x, y = grid.transform @ (20, 15)
    star = shapely.Polygon(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))
    path = layer(tmp_path, [(3, star), (7, shapely.box(x - 2000, y - 2000, x + 2000, y + 2000).difference(star))])
    labels = laid(path, TABLE, grid, all_touched=all_touched)
    whole = labels.read(Window(0, 0, 40, 30))
    assert {3, 7} <= set(np.unique(whole).tolist())
    assert labels.conflicts(Window(0, 0, 40, 30)).total() == 0
    far = shapely.union(
        shapely.Point(x - 2000, y - 2000).buffer(9, 64), shapely.Point(x + 2000, y + 2000).buffer(9, 64)
    )
    assert (laid(layer(tmp_path, [(3, far)]), TABLE, grid).read(Window(19, 14, 2, 2)) == NO_LABEL).all()
    for window in (Window(0, 0, 7, 5), Window(13, 11, 20, 9), Window(33, 25, 7, 5)):
        np.testing.assert_array_equal(labels.read(window), whole[window.toslices()])
