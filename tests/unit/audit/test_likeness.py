"""Equal pictures are found, also with other brightness, noise or compression; different ones are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cwsam_cli.audit.likeness import find_duplicates, find_near_duplicates
from cwsam_cli.audit.tiles import TileFacts, read_tile


def texture(seed: int) -> NDArray[np.uint8]:
    """Fields of different brightness (3, 64, 64)."""
    rng = np.random.default_rng(seed)
    return (rng.integers(40, 200, (3, 8, 8)).repeat(8, 1).repeat(8, 2) + rng.normal(0, 3, (3, 64, 64))).astype(np.uint8)


Read = Callable[..., TileFacts]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def make(split: str, name: str, image: NDArray[np.uint8]) -> TileFacts:
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name, quality=70)
        Image.fromarray(np.ones(image.shape[1:], np.uint8)).save(tmp_path / "label.png")
        return read_tile(split, tmp_path / name, tmp_path / "label.png")

    return make


def test_equal_pixels_in_two_splits_are_duplicates(read: Read) -> None:
    tiles = [read("train", "a.png", texture(0)), read("test", "b.png", texture(0)), read("train", "c.png", texture(0))]
    assert [(a.image.name, b.image.name) for a, b in find_duplicates(tiles)] == [
        ("a.png", "b.png"),
        ("b.png", "c.png"),
    ]
    assert find_near_duplicates(tiles) == [], "equal tiles are named once"


@pytest.mark.parametrize("change", ["jpeg", "bright", "noise"])
def test_changed_copies_are_nearly_equal(read: Read, change: str) -> None:
    image = texture(0)
    changed = image.astype(float)
    if change == "bright":
        changed = changed * 0.7 + 20
    elif change == "noise":
        changed += np.random.default_rng(9).normal(0, 4, image.shape)
    name = "b.jpg" if change == "jpeg" else "b.png"
    tiles = [read("train", "a.png", image), read("test", name, changed.clip(0, 255).astype(np.uint8))]
    ((one, other, value),) = find_near_duplicates(tiles)
    assert (one.image.name, other.image.name) == ("a.png", name) and value >= 0.98


def test_different_or_uniform_tiles_are_not_alike(read: Read) -> None:
    plain = np.full((3, 64, 64), 90, np.uint8)
    noisy = [(plain + np.random.default_rng(n).integers(0, 5, plain.shape)).astype(np.uint8) for n in (0, 1)]
    images = [texture(0), texture(1), plain, plain + 1, *noisy]
    tiles = [read(("train", "test")[n % 2], f"{n}.png", image) for n, image in enumerate(images)]
    assert find_near_duplicates(tiles) == [] and find_duplicates(tiles) == []


def test_tiles_of_different_sizes_are_compared(read: Read) -> None:
    image = texture(0)
    tiles = [read("train", "a.png", image), read("test", "b.png", image[:, ::2, ::2])]
    assert [(one.image.name, other.image.name) for one, other, _ in find_near_duplicates(tiles)] == [("a.png", "b.png")]


def test_tiles_of_a_single_colour_are_no_duplicates(read: Read) -> None:
    black = np.zeros((3, 64, 64), np.uint8)
    assert find_duplicates([read("train", "a.png", black), read("test", "b.png", black)]) == []
