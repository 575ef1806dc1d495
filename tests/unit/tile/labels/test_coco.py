"""Objects of a COCO file become labels of the images that it lists."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.grid import Grid
from cwsam_cli.taxonomy import LabelTable, LandCoverClass, Taxonomy
from cwsam_cli.tile.labels.coco import CocoSource, is_coco, read_run_lengths
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest

WIDTH, HEIGHT = 40, 12
GRID = Grid(None, Affine.identity(), WIDTH, HEIGHT)
PLACED = Grid(CRS.from_epsg(32617), from_origin(600_000, 4_000_000, 30, 30), WIDTH, HEIGHT)
WHOLE = Window(0, 0, WIDTH, HEIGHT)
SQUARE = [3.0, 2, 10, 2, 10, 9, 3, 9]
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[2:9, 3:35] = True
MASK[4:6, 10:20] = False
MASK[11, 39] = True
TEXT = "V175000000000000KM13OM13OM13OM13OM13OM13OM13OM13OM13OM1340000000000000000000000000000i1J"
"""`MASK` as pycocotools 2.0 writes it."""
RUNS = {"counts": TEXT, "size": [HEIGHT, WIDTH]}


def coco(tmp_path: Path, *objects: tuple[int, Any], name: str = "labels.json", **changes: Any) -> CocoSource:
    """A file with one image, `a.jpg`, and objects of a category with a segmentation."""
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "tree"}, {"id": 2, "name": "湖", "supercategory": "water"}],
        "annotations": [
            {"id": 100 + number, "image_id": 5, "category_id": category, "segmentation": segmentation, "iscrowd": 0}
            for number, (category, segmentation) in enumerate(objects)
        ],
    }
    path = tmp_path / name
    path.write_text(json.dumps(content | changes), "utf-8")
    return CocoSource(path=path)


def codes(source: CocoSource, scene: str = "a.jpg", table: LabelTable | None = None, grid: Grid = GRID) -> Any:
    with source.opened(grid, scene, table or source.table()) as labels:
        return labels.read(WHOLE)


def test_polygons_label_the_pixels_whose_centres_they_contain(tmp_path: Path) -> None:
    found = codes(coco(tmp_path, (1, [SQUARE, [20, 0, 24, 0, 24, 4, 20, 4]]), (2, [[30, 5, 39, 5, 39, 6, 30, 6]])))
    expected = np.full((HEIGHT, WIDTH), -1)
    expected[2:9, 3:10] = expected[0:4, 20:24] = 1
    expected[5, 30:39] = 2
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("counts", [TEXT, None])
def test_run_lengths_label_their_pixels(tmp_path: Path, counts: str | None) -> None:
    changes = np.flatnonzero(np.diff(MASK.T.ravel(), prepend=False, append=True))
    whole = [*np.diff(changes, prepend=0).tolist()]
    runs = {"counts": counts or [*whole, HEIGHT * WIDTH - sum(whole)], "size": [HEIGHT, WIDTH]}
    assert np.array_equal(codes(coco(tmp_path, (2, runs))) == 2, MASK)


def test_the_last_run_may_be_of_either_kind() -> None:
    assert read_run_lengths([2, 4], 2, 3).tolist() == [[False, True, True], [False, True, True]]
    assert read_run_lengths([0, 1, 5], 2, 3).tolist() == [[True, False, False], [False, False, False]]
    with pytest.raises(ValueError, match="do not fill"):
        read_run_lengths([2, 3], 2, 3)


def test_a_place_of_the_image_changes_nothing(tmp_path: Path) -> None:
    source = coco(tmp_path, (1, [SQUARE]))
    assert np.array_equal(codes(source, grid=PLACED), codes(source))


def test_boxes_and_lines_label_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert (codes(coco(tmp_path, (1, []), (1, [[1, 1, 5, 5]]), (2, None))) == -1).all()
    assert "3 annotation(s) of `a.jpg` have no segmentation" in caplog.text


def test_ids_are_codes_if_they_can_be(tmp_path: Path) -> None:
    small = coco(tmp_path).table()
    assert [(entry.code, entry.name) for entry in small.taxonomy.classes] == [(1, "tree"), (2, "湖")]
    large = coco(tmp_path, (4000, [SQUARE]), categories=[{"id": 7, "name": "a"}, {"id": 4000, "name": "b"}])
    assert large.table().taxonomy.codes == [1, 2]
    assert set(np.unique(codes(large))) == {-1, 2}


@pytest.mark.parametrize("values", ["names", "ids"])
def test_a_class_table_has_the_categories_by_name_or_id(tmp_path: Path, values: str) -> None:
    names = ("tree", "湖") if values == "names" else ("forest", "lake")
    classes = tuple(LandCoverClass(code=50 + i, name=name, color="#00ff00") for i, name in enumerate(names))
    sources = {} if values == "names" else {50: [1], 51: [2]}
    table = LabelTable.of(Taxonomy(classes=classes), sources)
    assert set(np.unique(codes(coco(tmp_path, (2, [SQUARE])), table=table))) == {-1, 51}


def test_an_id_is_no_code_if_the_class_of_the_code_is_another_category(tmp_path: Path) -> None:
    table = coco(tmp_path).table()
    source = coco(tmp_path, (1, [SQUARE]), categories=[{"id": 1, "name": "boat"}, {"id": 2, "name": "tree"}])
    with source.opened(GRID, "a.jpg", table) as labels:
        assert labels.unexpected(WHOLE) == {"boat": 49}


def test_ids_in_place_of_names_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = coco(tmp_path).table()
    coco(tmp_path).warn_of_ids(table)
    assert not caplog.messages
    coco(tmp_path, categories=[{"id": 1, "name": "boat"}, {"id": 9, "name": "hut"}]).warn_of_ids(table)
    assert "`boat` (1) becomes `tree`" in caplog.text and "hut" not in caplog.text


def test_categories_without_a_class_are_counted_by_name(tmp_path: Path) -> None:
    table = LabelTable.of(Taxonomy(classes=(LandCoverClass(code=1, name="tree", color="#00ff00"),)))
    with coco(tmp_path, (2, [SQUARE])).opened(GRID, "a.jpg", table) as labels:
        assert labels.unexpected(WHOLE) == {"湖": 49}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert (codes(coco(tmp_path, (1, [SQUARE]))) == 1).sum() == 49
    assert (codes(coco(tmp_path)) == 1).sum() == 0


@pytest.mark.parametrize(
    ("listed", "scene", "found"),
    [
        (["train/a.jpg", "val/a.jpg"], "/data/val/a.jpg", 1),
        (["sub\\a.jpg", "b.jpg"], "a.jpg", 0),
        (["a.jpg"], "a.tif", 0),
        (["a.png", "a.jpg"], "a.jpg", 1),
        (["1/a.jpg", "11/a.jpg"], "/data/11/a.jpg", 1),
    ],
)
def test_images_are_found_by_the_end_of_their_path(tmp_path: Path, listed: list[str], scene: str, found: int) -> None:
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": number, "file_name": name, **size} for number, name in enumerate(listed)]
    annotation = {"id": 1, "image_id": found, "category_id": 1, "segmentation": [SQUARE]}
    assert (codes(coco(tmp_path, images=images, annotations=[annotation]), scene) == 1).sum() == 49


@pytest.mark.parametrize("listed", [["b.jpg"], ["one/a.jpg", "two/a.jpg"]])
def test_an_image_that_is_not_listed_or_listed_twice_is_refused(tmp_path: Path, listed: list[str]) -> None:
    images = [{"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(listed)]
    with pytest.raises(DataError, match=r"the name of `a\.jpg`"):
        codes(coco(tmp_path, images=images))


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 × 12 pixels, but the scene has 20 × 6"):
        codes(coco(tmp_path), grid=Grid(None, Affine.identity(), 20, 6))


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 5, 5, 3, "x"]],
        [[1, 1, 5, 5, 9, 9, 2]],
        [[1, 1, 5, 5, float("nan"), 9]],
        {"counts": [7], "size": [HEIGHT, WIDTH]},
        {"counts": [0, 4], "size": [2, 2]},
        {"size": [1, 1]},
        7,
    ],
)
def test_a_damaged_segmentation_is_named_by_its_annotation(tmp_path: Path, segmentation: Any) -> None:
    with pytest.raises(DataError, match="annotation 100"):
        codes(coco(tmp_path, (1, segmentation)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"annotations": [{"id": 1}]}, "no 'image_id'"),
        ({"images": [{"id": 1}]}, "no 'file_name'"),
        ({"categories": [{"id": 1}]}, "no 'name'"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    source = coco(tmp_path, **changes)
    assert is_coco(source.path)
    with pytest.raises(DataError, match=why):
        source.table()


@pytest.mark.parametrize("content", ["[1, 2]", "{", "7", '{"images": []}', '{"annotations": 3}'])
def test_other_json_is_no_coco_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    assert not is_coco(tmp_path / "other.json")


def test_geojson_is_no_coco_file(tmp_path: Path) -> None:
    path = tmp_path / "polygons.json"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    assert not is_coco(path) and not is_coco(tmp_path) and is_coco(coco(tmp_path).path)


def photos(folder: Path, names: list[str]) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        image: NDArray[np.uint8] = rng.integers(1, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / name)
    return [str(folder / name) for name in names]


def tile(source: CocoSource, scenes: list[str], **options: Any) -> tuple[Manifest, Path]:
    output = source.path.parent / "dataset"
    request: dict[str, Any] = {"scenes": tuple(scenes), "labels": source.path, "output": output, "size": 12}
    return tile_scenes(TileRequest(**request | {"shares": (1, 0, 0), "overwrite": True} | options)), output


def test_images_and_their_file_become_a_dataset(tmp_path: Path) -> None:
    scenes = photos(tmp_path / "images", ["a.png", "b.png"])
    size = {"width": WIDTH, "height": HEIGHT}
    images = [{"id": 5, "file_name": "a.png", **size}, {"id": 6, "file_name": "b.png", **size}]
    source = coco(tmp_path, (1, [SQUARE]), (2, RUNS), images=images)
    with pytest.raises(DataError, match="features of different classes overlap: 100 and 101") as caught:
        tile(source, scenes)
    assert "ids of annotations" in caught.value.hint and "QGIS" not in caught.value.hint
    manifest, output = tile(source, scenes, priority=("tree",))
    assert manifest.taxonomy.names == ["tree", "湖"]
    square = np.zeros_like(MASK)
    square[2:9, 3:10] = True
    assert manifest.pixels["train"] == [square.sum(), (MASK & ~square).sum()]
    tiles = sorted((output / "labels" / "train").iterdir())
    assert all(path.name.startswith("a_") for path in tiles), "b.png has no object"
    with rasterio.open(tiles[0]) as label:
        assert (label.read(1)[2:9, 3:10] == 1).all()


def test_options_of_layers_are_refused(tmp_path: Path) -> None:
    scenes = photos(tmp_path / "images", ["a.png"])
    with pytest.raises(UsageError, match="--where is for vector labels, but the labels are annotations"):
        tile(coco(tmp_path, (1, [SQUARE])), scenes, where="a = 1")


def test_files_with_other_categories_need_a_class_table(tmp_path: Path) -> None:
    scenes = photos(tmp_path / "images", ["a.png", "b.png"])
    one = coco(tmp_path, (1, [SQUARE]))
    other = coco(tmp_path, (1, [SQUARE]), name="other.json", categories=[{"id": 1, "name": "road"}])
    with pytest.raises(DataError, match="other categories"):
        tile(one, scenes, labels_for=(("b.png", other.path),))
