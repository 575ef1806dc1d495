"""Images and labels pair up by name, whatever their suffixes are."""

from pathlib import Path

import pytest

from cwsam_cli.dataset.pairs import find_pairs
from cwsam_cli.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_pictures_of_any_suffix_pair_up(tmp_path: Path) -> None:
    touch(tmp_path, "i/b.JPG", "i/a.tif", "l/a.tif", "l/b.png", "i/a.tif.aux.xml", "l/notes.txt")
    pairs = find_pairs(tmp_path / "i", tmp_path / "l")
    assert [(a.name, b.name) for a, b in pairs] == [("a.tif", "a.tif"), ("b.JPG", "b.png")]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("i/a.tif", "i/b.tif", "l/a.tif"), "`b.tif` is in only one of"),
        (("i/a.tif", "l/a.tif", "l/b.png"), "`b.png` is in only one of"),
        (("i/a.tif", "i/a.png", "l/a.tif"), "have the same name"),
        (("i/a.txt", "l/a.tif"), "holds no tiles"),
        (("l/a.tif",), "root_path_1` is not a folder"),
    ],
)
def test_what_does_not_pair_up_is_named(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=said) as caught:
        find_pairs(tmp_path / "i", tmp_path / "l")
    assert caught.value.hint
