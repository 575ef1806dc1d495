"""Corrected features override the labels below them, and what they change is counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from cwsam_cli.dataset.manifest import Manifest, read_manifest
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.style import tag_classes
from cwsam_cli.tile.pipeline import tile_scenes
from cwsam_cli.tile.request import TileRequest
from tests.label_places import TAXONOMY

SIDE = 16


def box(left: int, top: int, right: int, bottom: int) -> shapely.Polygon:
    """A rectangle given in the scene's pixels."""
    return shapely.box(600_000 + 30 * left, 4_000_000 - 30 * bottom, 600_000 + 30 * right, 4_000_000 - 30 * top)


class Case:
    """A scene of one tile, whose labels are water (3) in the west, forest (7) and two columns without a label."""

    def __init__(self, make_raster: Any, folder: Path) -> None:
        self.folder = folder
        self.codes = np.full((SIDE, SIDE), 3, np.uint8)
        self.codes[:, 8:14] = 7
        self.codes[:, 14:] = 255
        self.scene = make_raster("scene.tif", np.full((1, SIDE, SIDE), 5, np.uint8))
        self.labels = make_raster("map.tif", self.codes, nodata=255)
        with rasterio.open(self.labels, "r+") as target:
            tag_classes(target, TAXONOMY)

    def fix(
        self, rows: Sequence[tuple[object, shapely.Geometry]], *, crs: str = "EPSG:32617", name: str = "fixed.gpkg"
    ) -> Path:
        frame = geopandas.GeoDataFrame(
            {"class": [value for value, _ in rows]}, geometry=[shape for _, shape in rows], crs="EPSG:32617"
        )
        frame.to_crs(crs).to_file(self.folder / name)
        return self.folder / name

    def tile(self, corrections: Path, **options: Any) -> tuple[Any, Manifest]:
        """The label tile, and the description of the dataset."""
        request: dict[str, Any] = {
            "scenes": (str(self.scene),),
            "labels": self.labels,
            "output": self.folder / "dataset",
            "size": SIDE,
            "shares": (1, 0, 0),
            "corrections": corrections,
            "class_field": "class",
            "overwrite": True,
        }
        manifest = tile_scenes(TileRequest(**request | options))
        (path,) = (self.folder / "dataset" / "labels" / "train").iterdir()
        with rasterio.open(path) as source:
            return source.read(1), manifest


@pytest.fixture
def case(make_raster: Any, tmp_path: Path) -> Case:
    return Case(make_raster, tmp_path)


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:4326"])
@pytest.mark.parametrize("values", [[7, 3], ["林地", "water"], ["7", "3"]])
def test_corrections_override_a_map_and_are_counted(case: Case, values: list[object], crs: str) -> None:
    fixed = case.fix([(values[0], box(0, 0, 4, 4)), (values[1], box(12, 8, 16, 10))], crs=crs)
    codes, manifest = case.tile(fixed)
    expected = case.codes.copy()
    expected[:4, :4] = 7
    expected[8:10, 12:] = 3
    assert np.array_equal(codes, expected)
    assert manifest.corrected == {"pixels": 24, "class_changed": 20, "label_added": 4, "label_removed": 0}
    assert read_manifest(case.folder / "dataset").corrected == manifest.corrected


@pytest.mark.parametrize("empty", [None, "", "unlabelled", "9", "255"])
def test_a_correction_without_a_class_removes_the_label(case: Case, empty: object) -> None:
    fixed = case.fix([("water", box(0, 0, 2, 2)), (empty, box(0, 8, 16, 10))])
    codes, manifest = case.tile(fixed)
    expected = case.codes.copy()
    expected[8:10] = 255
    assert np.array_equal(codes, expected)
    assert manifest.corrected == {"pixels": 36, "class_changed": 0, "label_added": 0, "label_removed": 28}


def test_the_last_of_overlapping_corrections_wins(case: Case) -> None:
    codes, _ = case.tile(case.fix([(7, box(0, 0, 8, 8)), (3, box(2, 2, 6, 6)), (7, box(3, 3, 4, 4))]))
    expected = case.codes.copy()
    expected[:8, :8] = 7
    expected[2:6, 2:6] = 3
    expected[3, 3] = 7
    assert np.array_equal(codes, expected)


def test_a_map_without_class_names_is_corrected_by_code(case: Case, make_raster: Any) -> None:
    plain = make_raster("plain.tif", case.codes, nodata=255)
    codes, _ = case.tile(case.fix([(12, box(0, 0, 1, 1))]), labels=plain)
    assert codes[0, 0] == 12
    with pytest.raises(DataError, match="holds `water`"):
        case.tile(case.fix([("water", box(0, 0, 1, 1))]), labels=plain)


def test_features_are_corrected_too(case: Case) -> None:
    drawn = case.fix([("water", box(0, 0, 8, 16)), ("forest", box(8, 0, 16, 16))], name="drawn.gpkg")
    codes, manifest = case.tile(case.fix([("forest", box(0, 0, 8, 4))]), labels=drawn)
    names = {entry.code: entry.name for entry in manifest.taxonomy.classes}
    assert {names[code] for code in codes[:4].ravel().tolist()} == {"forest"}
    assert {names[code] for code in codes[4:, :8].ravel().tolist()} == {"water"}
    assert manifest.corrected["class_changed"] == 32


def test_a_value_that_no_class_has_is_refused_before_anything_is_read(case: Case) -> None:
    with pytest.raises(DataError, match="holds `lava`, `watr`") as caught:
        case.tile(case.fix([("watr", box(0, 0, 1, 1)), ("lava", box(900, 900, 901, 901)), ("water", box(0, 0, 1, 1))]))
    assert "water (3)" in caught.value.hint


def test_an_unexpected_label_below_a_correction_is_no_error(case: Case, make_raster: Any) -> None:
    case.codes[0, 0] = 66
    odd = make_raster("odd.tif", case.codes, nodata=255)
    classes = case.folder / "classes.yaml"
    classes.write_text(
        "classes:\n  - {code: 3, name: water, color: '#0000ff'}\n  - {code: 7, name: f, color: '#00ff00'}"
    )
    with pytest.raises(DataError, match="66"):
        case.tile(case.fix([("water", box(4, 4, 5, 5))]), labels=odd, classes=str(classes))
    codes, _ = case.tile(case.fix([("water", box(0, 0, 1, 1))]), labels=odd, classes=str(classes))
    assert codes[0, 0] == 3


def test_corrections_beside_all_scenes_are_warned_of(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    _, manifest = case.tile(case.fix([("water", box(100, 100, 101, 101))]))
    assert manifest.corrected["pixels"] == 0
    assert "no pixel of the scenes" in caplog.text


def test_ground_without_data_is_not_counted(case: Case, make_raster: Any) -> None:
    image = np.full((1, SIDE, SIDE), 5, np.uint8)
    image[:, :, :8] = 0
    scene = make_raster("hole.tif", image, nodata=0)
    _, manifest = case.tile(case.fix([(3, box(0, 0, 16, 1))]), scenes=(str(scene),))
    assert manifest.corrected == {"pixels": 8, "class_changed": 6, "label_added": 2, "label_removed": 0}


def test_two_processes_count_what_one_counts(case: Case, make_raster: Any) -> None:
    wide = make_raster("wide.tif", np.full((1, 16, 320), 5, np.uint8))
    labels = make_raster("wide_map.tif", np.full((16, 320), 3, np.uint8))
    fixed = case.fix([(7, box(3, 3, 300, 12))])
    options: dict[str, Any] = {"scenes": (str(wide),), "labels": labels, "corrections": fixed, "class_field": "class"}
    found = [
        tile_scenes(TileRequest(**options, output=case.folder / f"of_{workers}", size=8, workers=workers)).corrected
        for workers in (1, 2)
    ]
    assert found[0] == found[1] and found[0]["class_changed"] == 297 * 9


def test_another_correction_gives_another_dataset_after_an_interruption(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cwsam_cli.tile.pipeline.write_index", fail)
        with pytest.raises(KeyboardInterrupt):
            case.tile(case.fix([(7, box(0, 0, 4, 4))]))
    codes, _ = case.tile(case.fix([(7, box(0, 0, 1, 1))]))
    assert (codes != case.codes).sum() == 1


def test_corrections_need_the_field_and_a_vector_file(case: Case) -> None:
    with pytest.raises(UsageError, match="field of their classes"):
        case.tile(case.fix([(7, box(0, 0, 4, 4))]), class_field=None)
    with pytest.raises(DataError, match="are a raster"):
        case.tile(case.labels)
    with pytest.raises(DataError, match="there are no corrections"):
        case.tile(case.folder / "missing.gpkg")
    with pytest.raises(UsageError, match="--where is for vector labels"):
        case.tile(case.fix([(7, box(0, 0, 4, 4))]), where="1 = 1")


def test_a_second_round_keeps_the_split_of_the_first(case: Case, make_raster: Any) -> None:
    scene = make_raster("large.tif", np.full((1, 96, 96), 5, np.uint8))
    rng = np.random.default_rng(0)
    labels = make_raster("large_map.tif", rng.choice([3, 7], (12, 12)).repeat(8, 0).repeat(8, 1).astype(np.uint8))
    options: dict[str, Any] = {"scenes": (str(scene),), "labels": labels, "size": 8}
    tile_scenes(TileRequest(**options, output=case.folder / "first"))
    index = case.folder / "first" / "tiles.gpkg"
    fixed = case.fix([(7, box(0, 0, 96, 40))])
    second = {"corrections": fixed, "class_field": "class", "split_by": str(index)}
    tile_scenes(TileRequest(**options, **second, output=case.folder / "second"))
    both = [
        {(row.tile, row.split) for row in geopandas.read_file(case.folder / name / "tiles.gpkg").itertuples()}
        for name in ("first", "second")
    ]
    assert both[1] == both[0]
