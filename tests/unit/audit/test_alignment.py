"""A shift between labels and images is found, and labels that lie right or say nothing are not accused."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cwsam_cli.audit.alignment import check_alignment, contrast_below_edges, judge
from cwsam_cli.audit.tiles import Pair
from cwsam_cli.raster.grid import Grid

SIDE, MARGIN, PARCELS = 128, 16, 50
FINE = 4
"""Places on the ground per side of a pixel."""


@cache
def parcels(seed: int) -> NDArray[np.intp]:
    """The number of the parcel of each place on the ground."""
    whole = (SIDE + 2 * MARGIN) * FINE
    seeds = np.random.default_rng(seed).uniform(0, whole, (PARCELS, 2)).astype(np.float32)
    rows, cols = np.ogrid[:whole, :whole]
    nearest, least = np.zeros((whole, whole), np.intp), np.full((whole, whole), np.inf, np.float32)
    for number, (y, x) in enumerate(seeds.tolist()):
        distance = ((rows - y) ** 2).astype(np.float32) + ((cols - x) ** 2).astype(np.float32)
        closer = distance < least
        least[closer], nearest[closer] = distance[closer], number
    return nearest


def fields(seed: int, *, down: float = 0, right: float = 0, related: bool = True) -> Pair:
    """A tile of fields whose labels lie some pixels, in quarters, lower and further right than the image."""
    rng = np.random.default_rng(seed)
    nearest = parcels(seed)
    brightness = rng.uniform(50, 200, (2, PARCELS))
    classes = (brightness[0] // 50).astype(np.uint8) if related else rng.integers(1, 4, PARCELS).astype(np.uint8)
    ground = np.stack([values[nearest] for values in brightness])
    inner = slice(MARGIN * FINE, (MARGIN + SIDE) * FINE)
    image = ground[:, inner, inner].reshape(2, SIDE, FINE, SIDE, FINE).mean(axis=(2, 4))
    image += rng.normal(0, 10, image.shape)
    first_row, first_col = (round((MARGIN - shift) * FINE) + FINE // 2 for shift in (down, right))
    rows_of, cols_of = (slice(first, first + SIDE * FINE, FINE) for first in (first_row, first_col))
    if not related:
        nearest = nearest[::-1, ::-1].T
    codes = classes[nearest][rows_of, cols_of]
    full = np.ones((SIDE, SIDE), bool)
    return Pair(image.astype(np.uint16), full, codes, full, Grid(None, Affine.identity(), SIDE, SIDE))


def cells_of(**options: Any) -> NDArray[np.float64]:
    return np.concatenate([contrast_below_edges(fields(seed, **options)) for seed in range(5)])


@pytest.mark.parametrize(("down", "right"), [(0, 2), (-3, 0), (3, -3), (1.5, -1.25), (-2.25, 2.75), (0, -6)])
def test_a_shift_is_found_within_half_a_pixel(down: float, right: float) -> None:
    found = judge("a", cells_of(down=down, right=right), is_north_up=True)
    assert found.verdict == "shifted"
    assert found.right_px is not None and found.down_px is not None and found.error_px is not None
    assert abs(found.right_px - right) < 0.25 and abs(found.down_px - down) < 0.25
    assert found.error_px < 0.5


@pytest.mark.parametrize(("down", "right"), [(0, 0), (0.5, -0.5)])
def test_labels_that_lie_right_are_not_accused(down: float, right: float) -> None:
    found = judge("a", cells_of(down=down, right=right), is_north_up=True)
    assert found.verdict == "aligned" and found.text.startswith("no clear shift")


def test_labels_of_other_ground_are_not_judged() -> None:
    found = judge("a", cells_of(related=False), is_north_up=True)
    assert found.verdict == "unknown" and found.right_px is None and "cannot tell" in found.text


def test_few_tiles_are_not_judged() -> None:
    assert judge("a", cells_of(right=3)[:15], is_north_up=True).verdict == "unknown"


@pytest.mark.parametrize(
    ("down", "right", "north_up", "text"),
    [(0, 3, True, "pixels east of the image"), (3, -3, True, "south-west"), (-3, 0, False, "to the top of the image")],
)
def test_the_direction_is_that_of_the_labels(down: float, right: float, north_up: bool, text: str) -> None:
    assert text in judge("a", cells_of(down=down, right=right), is_north_up=north_up).text


def test_an_image_turned_with_its_labels_turns_the_shift() -> None:
    tiles = [fields(seed, right=2) for seed in range(5)]
    turned = [
        Pair(tile.image.swapaxes(1, 2), tile.valid, tile.codes.T, tile.labelled, tile.grid)  # rows become columns
        for tile in tiles
    ]
    plain, moved = (
        judge("a", np.concatenate([contrast_below_edges(tile) for tile in own]), is_north_up=True)
        for own in (tiles, turned)
    )
    assert plain.right_px == pytest.approx(moved.down_px) and plain.down_px == pytest.approx(moved.right_px)


def test_ground_without_data_or_labels_has_no_edges() -> None:
    tile = fields(0)
    hole = tile.valid.copy()
    hole[40:90, 40:90] = False
    image, codes = tile.image.copy(), tile.codes.copy()
    image[:, ~hole], codes[~hole] = 0, 255
    cells = contrast_below_edges(Pair(image, hole, np.full_like(codes, 1), hole, tile.grid))
    assert len(cells) == 0
    assert len(contrast_below_edges(Pair(image, hole, codes, hole, tile.grid))) > 0


def test_small_tiles_have_no_room_for_shifts() -> None:
    part = fields(0)
    small = Pair(part.image[:, :16, :16], part.valid[:16, :16], part.codes[:16, :16], part.valid[:16, :16], part.grid)
    assert len(contrast_below_edges(small)) == 0


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    def write(name: str, pair: Pair) -> tuple[Path, Path]:
        paths = tmp_path / f"{name}.tif", tmp_path / f"{name}_label.tif"
        for path, values in zip(paths, (pair.image, pair.codes[None]), strict=True):
            place = {"crs": CRS.from_epsg(32617), "transform": from_origin(0, 0, 10, 10)}
            profile = {"count": len(values), "dtype": values.dtype, "width": SIDE, "height": SIDE}
            with rasterio.open(path, "w", driver="GTiff", **profile, **place) as target:
                target.write(values)
        return paths

    return write


def test_each_scene_has_a_verdict_and_many_have_a_common_one(save: Callable[..., tuple[Path, Path]]) -> None:
    shifted = [save(f"a_r00000_c{seed:05d}", fields(seed, right=3)) for seed in range(5)]
    right = [save(f"b_r00000_c{seed:05d}", fields(seed)) for seed in range(5)]
    found = check_alignment([*shifted, *right])
    assert [(own.scene, own.verdict) for own in found] == [("a", "shifted"), ("b", "aligned")]
    assert "east" in found[0].text, "the tiles are placed with north up"
    several = [(f"{number:02d}", pair) for number, pair in enumerate([*shifted, *shifted, *shifted, *shifted])]
    links = []
    for scene, (image, label) in several:
        links.append((image.with_name(f"{scene}_r00000_c00000.tif"), label))
        links[-1][0].symlink_to(image)
    common = check_alignment(links)
    assert len(common) == 21 and common[0].scene == "all" and common[0].verdict == "shifted"
    assert {own.verdict for own in common[1:]} == {"unknown"}, "one tile has too few cells"


def test_tiles_with_other_names_are_one_scene(save: Callable[..., tuple[Path, Path]]) -> None:
    (found,) = check_alignment([save(f"chip{seed}", fields(seed, down=-3)) for seed in range(5)])
    assert found.scene == "all" and "north" in found.text
