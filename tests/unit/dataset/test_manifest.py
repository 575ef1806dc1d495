"""`dataset.yaml` says what pixels do not, and its statistics are numpy's."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from cwsam_cli.dataset.manifest import NAME, VERSION, Band, Manifest, read_manifest, write_manifest
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
    elif change == "no bands":
        raw["bands"] = []
    elif change == "a band that does not vary":
        raw["bands"][0]["std"] = 0.0
    elif change == "no dtype":
        raw["dtype"] = "object"
    elif change == "no pixel size":
        raw["gsd_m"] = -1
    elif change == "fewer than none":
        raw["tiles"]["train"] = -5
    elif change == "pixels of other classes":
        raw["pixels"]["train"] = [1]
    elif change == "weights of other classes":
        raw["weights"] = [1.0, float("nan")]
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
            (
                "a key too many",
                "a key missing",
                "another version",
                "a word for a number",
                "a class twice",
                "no bands",
                "a band that does not vary",
                "no dtype",
                "no pixel size",
                "fewer than none",
                "pixels of other classes",
                "weights of other classes",
            ),
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
