"""The arguments of a command line mean scenes, and every scene has a name of its own."""

from pathlib import Path

import pytest

from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.sources.scenes import expand, from_any_folder, scene_names


@pytest.mark.parametrize(
    ("scenes", "names"),
    [
        (["x/a.tif", "y/b.jp2"], ["a", "b"]),
        (["x/a.tif", "y/a.vrt"], ["a-1", "a-2"]),
        (["x/a.tif", "y/a.tif", "x/a-1.tif"], ["a-2", "a-3", "a-1"]),
        (["x/A.tif", "y/a.tif"], ["A-1", "a-2"]),
        (["https://example.org/a.tif?key=b/c", "/vsizip/z.zip/d.tif"], ["a", "d"]),
        (["view://Z%C3%BCrich%201.tif?band=%3Da.tif"], ["Zürich 1"]),
    ],
)
def test_names_are_the_scenes_stems_numbered_around_names_that_are_taken(scenes: list[str], names: list[str]) -> None:
    assert scene_names(scenes) == names


def test_folders_patterns_and_lists_mean_their_rasters(tmp_path: Path) -> None:
    for name in ("a.tif", "b.JP2", "c.vrt", "notes.doc"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("# two\na.tif\nhttps://example.org/d.tif\n", "utf-8")
    a, b, c = (str(tmp_path / name) for name in ("a.tif", "b.JP2", "c.vrt"))
    assert expand([str(tmp_path)]) == ([a, b, c], True)
    assert expand([f"{tmp_path}/[ac].*"]) == ([a, c], True)
    assert expand([str(tmp_path / "list.txt")]) == ([a, "https://example.org/d.tif"], True)
    assert expand(["s3://bucket/e.tif"]) == (["/vsis3/bucket/e.tif"], False)


def test_a_scene_given_twice_or_a_pattern_without_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    with pytest.raises(UsageError, match="given twice"):
        expand([str(tmp_path), str(tmp_path / "a.tif")])
    with pytest.raises(DataError, match="means no scene"):
        expand([f"{tmp_path}/*.jp2"])


@pytest.mark.parametrize(
    ("scene", "meant"),
    [
        ("a.tif", "{folder}/a.tif"),
        ("zip://all.zip!a.tif", "zip://{folder}/all.zip!a.tif"),
        ("/vsizip/all.zip/a.tif", "/vsizip/{folder}/all.zip/a.tif"),
        ("/vsizip//data/all.zip/a.tif", "/vsizip//data/all.zip/a.tif"),
        ("/vsizip/{{all.zip}}/a.tif", "/vsizip/{{all.zip}}/a.tif"),
        ("/vsitar/vsicurl/https://example.org/a.tar/a.tif", "/vsitar/vsicurl/https://example.org/a.tar/a.tif"),
        ("/vsis3/bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("https://example.org/a.tif", "https://example.org/a.tif"),
    ],
)
def test_a_path_for_other_working_folders_is_absolute_also_into_an_archive(scene: str, meant: str) -> None:
    assert from_any_folder(scene.format()) == meant.format(folder=Path.cwd())
