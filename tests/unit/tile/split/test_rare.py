"""Classes that a split does not have are named."""

import pytest

from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.taxonomy import from_names
from cwsam_cli.tile.split.earlier import DividedUnit
from cwsam_cli.tile.split.rare import lost_classes


def manifest(train: list[int], val: list[int]) -> Manifest:
    return Manifest(
        taxonomy=from_names(["water", "forest"], first=1),
        bands=(),
        dtype="uint8",
        gsd_m=None,
        tiles={"train": 5, "val": 2, "test": 0},
        pixels={"train": train, "val": val, "test": [0, 0]},
    )


UNITS = {
    "a": DividedUnit("train", None, {1: 50, 2: 50}),
    "b": DividedUnit("val", None, {1: 50, 2: 3}),
    "c": DividedUnit("test", None, {2: 3}),
}
WANTED = ("train", "val", "test")


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        ([9, 9], [9, 9], []),
        ([9, 9], [9, 0], ["`forest` is missing from the tiles of val,"]),
        ([0, 9], [0, 9], ["`water` is missing from the tiles of train and val,"]),
    ],
)
def test_classes_that_the_tiles_lost_are_named(train: list[int], val: list[int], expected: list[str]) -> None:
    found = lost_classes(manifest(train, val), UNITS, WANTED)
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))


def test_classes_that_the_ground_of_a_split_does_not_have_are_named_before() -> None:
    units = UNITS | {"b": DividedUnit("val", None, {1: 50})}
    assert lost_classes(manifest([9, 9], [9, 0]), units, WANTED) == []


def test_polygons_of_splits_are_checked_by_their_tiles() -> None:
    (text,) = lost_classes(manifest([9, 9], [9, 0]), {}, WANTED)
    assert "`forest`" in text and "val" in text
    assert lost_classes(manifest([9, 0], [9, 0]), {}, WANTED) == []
