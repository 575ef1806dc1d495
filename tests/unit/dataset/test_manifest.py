"""`dataset.yaml` says what pixels do not, and its statistics are numpy's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from cwsam_cli.dataset.manifest import NAME, VERSION, Band, Manifest, RunningStats, read_manifest, write_manifest
from cwsam_cli.errors import DataError
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

MANIFEST = Manifest(
    taxonomy=Taxonomy(
        name="two",
        classes=(
            LandCoverClass(code=4, name="水体: deep", color="#005adc"),
            LandCoverClass(code=0, name="no", color="#00ff00"),  # YAML reads a bare `no` as false
        ),
        unlabelled=(7, 9),
    ),
    bands=(Band(name="B02 (蓝)", mean=1 / 3, std=1e-7), Band(name="2", mean=-1.5e20, std=2.0)),
    dtype="uint16",
    gsd_m=9.999999999,
    tiles={"train": 5, "val": 1, "test": 0},
    pixels={"train": [10**12, 0], "val": [3, 4], "test": [0, 0]},
    command="cwsam tile 'my scene.tif' --classes #1",
)


@pytest.mark.parametrize("manifest", [MANIFEST, dataclasses.replace(MANIFEST, gsd_m=None, tiles={}, pixels={})])
def test_a_dataset_tells_the_same_after_a_round_trip(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_file_is_for_people_too(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    text = (tmp_path / NAME).read_text(encoding="utf-8")
    assert "水体" in text
    assert list(yaml.safe_load(text))[:2] == ["taxonomy", "bands"]
    assert "!!python" not in text


def test_a_folder_without_a_description_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset") as caught:
        read_manifest(tmp_path)
    assert caught.value.exit_code == 4
    assert "cwsam tile" in caught.value.hint


def damaged(change: str) -> str:
    raw = dataclasses.asdict(MANIFEST)
    raw["bands"] = list(raw["bands"])
    raw["taxonomy"] |= {key: list(raw["taxonomy"][key]) for key in ("classes", "unlabelled")}
    if change == "a key too many":
        raw["colour"] = 1
    elif change == "a key missing":
        del raw["dtype"]
    elif change == "another version":
        raw["version"] = VERSION + 1
    elif change == "a word for a number":
        raw["bands"][0]["mean"] = "bright"
    elif change == "a class twice":
        raw["taxonomy"]["classes"] *= 2
    return yaml.safe_dump(raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list\n",
        "just words",
        "{unclosed: [",
        *map(
            damaged,
            ("a key too many", "a key missing", "another version", "a word for a number", "a class twice"),
        ),
    ],
)
def test_a_damaged_description_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"dataset\.yaml") as caught:
        read_manifest(tmp_path)
    assert caught.value.exit_code == 4
    assert caught.value.hint == "tile the scenes again"


def test_an_undamaged_description_is_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(damaged("not at all"), encoding="utf-8")
    assert read_manifest(tmp_path) == MANIFEST


# --- statistics ---


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_running_statistics_equal_those_of_all_valid_pixels_at_once(dtype: str) -> None:
    rng = np.random.default_rng(0)
    stats, seen = RunningStats(), []
    for height, width in ((1, 1), (40, 30), (7, 50), (3, 3)):
        image = (rng.normal(120, 30, (3, height, width)).clip(0, 255) * np.array([[[1]], [[0.5]], [[0.1]]])).astype(
            dtype
        )
        valid = rng.random((height, width)) < 0.7
        stats.add(image, valid)
        seen.append(image[:, valid].astype(np.float64))
    pixels = np.concatenate(seen, axis=1)
    bands = stats.bands(("r", "g", "b"))
    assert [band.name for band in bands] == ["r", "g", "b"]
    np.testing.assert_allclose([band.mean for band in bands], pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose([band.std for band in bands], pixels.std(axis=1), rtol=1e-12)


def test_a_small_spread_on_a_large_offset_is_not_lost() -> None:
    values = 1e9 + np.random.default_rng(0).normal(0, 1, (1, 100, 100))
    stats = RunningStats()
    for row in values[0]:
        stats.add(row[None, None], np.ones((1, 100), bool))
    (band,) = stats.bands(("x",))
    assert band.std == pytest.approx(values.std(), rel=1e-6)


def test_invalid_pixels_do_not_count_even_if_they_are_not_numbers() -> None:
    image = np.array([[[1.0, np.nan, 3.0, 1e30]]], np.float32)
    stats = RunningStats()
    stats.add(image, np.array([[True, False, True, False]]))
    assert stats.bands(("x",)) == (Band(name="x", mean=2.0, std=1.0),)


def test_a_tile_without_a_valid_pixel_changes_nothing() -> None:
    stats = RunningStats()
    stats.add(np.full((1, 2, 2), 4, np.uint8), np.array([[True, True], [True, False]]))
    before = stats.bands(("x",))
    stats.add(np.full((1, 2, 2), 200, np.uint8), np.zeros((2, 2), bool))
    assert stats.bands(("x",)) == before


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_band_gets_the_spread_1(value: int) -> None:
    stats = RunningStats()
    stats.add(np.full((1, 5, 5), value, np.uint8), np.ones((5, 5), bool))
    assert stats.bands(("x",)) == (Band(name="x", mean=float(value), std=1.0),)


def test_bands_without_any_pixel_stay_as_they_are() -> None:
    assert RunningStats().bands(("a", "b")) == (Band(name="a", mean=0, std=1), Band(name="b", mean=0, std=1))
