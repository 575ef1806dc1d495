"""The ground is cut into blocks on one lattice, whatever the scenes' corners are."""

import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid
from cwsam_cli.tile.split.blocks import choose_block_size, cut_blocks

UTM = CRS.from_epsg(32617)


def grid(width: int, height: int, *, col: int = 0, row: int = 0, crs: CRS | None = UTM, pixel: float = 30) -> Grid:
    return Grid(crs, from_origin(col * pixel, -row * pixel, pixel, pixel), width, height)


@pytest.mark.parametrize(
    ("side", "tiles"),
    [(100, 1), (1000, 2), (3000, 6), (50_000, 8)],  # 4, 100, 900 and 250,000 tiles
)
def test_blocks_grow_with_the_ground_but_leave_enough_to_choose_from(side: int, tiles: int) -> None:
    assert choose_block_size([grid(side, side)], 50 if side == 100 else 100) == tiles * (50 if side == 100 else 100)


def test_blocks_lie_on_the_ground_lattice_and_not_on_the_scenes_corner() -> None:
    blocks = cut_blocks(grid(30, 20, col=15, row=20), 20, 5, "0")
    assert [block.window for block in blocks] == [Window(0, 0, 5, 20), Window(5, 0, 20, 20), Window(25, 0, 5, 20)]


def test_an_edge_piece_that_cannot_hold_a_tile_joins_its_neighbour() -> None:
    blocks = cut_blocks(grid(30, 20, col=15, row=20), 20, 6, "0")
    assert [block.window for block in blocks] == [Window(0, 0, 30, 20)]
    assert blocks[0].key == cut_blocks(grid(20, 20, col=20, row=20), 20, 6, "1")[0].key


def test_a_scene_smaller_than_a_tile_is_one_block() -> None:
    (block,) = cut_blocks(grid(7, 5), 64, 64, "0")
    assert block.window == Window(0, 0, 7, 5)


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:2264", "EPSG:4326"])
def test_scenes_that_overlap_share_the_blocks_of_their_common_ground(crs: str) -> None:
    pixel = 0.0001 if crs == "EPSG:4326" else 0.5
    west = cut_blocks(grid(60, 40, col=100, crs=CRS.from_user_input(crs), pixel=pixel), 20, 10, "0")
    east = cut_blocks(grid(60, 40, col=120, crs=CRS.from_user_input(crs), pixel=pixel), 20, 10, "1")
    shared = {block.key for block in west} & {block.key for block in east}
    assert len(west) == len(east) == 6
    assert len(shared) == 4


@pytest.mark.parametrize(
    "other",
    [
        Grid(UTM, from_origin(0, 0, 20, 20), 40, 40),  # another resolution
        Grid(CRS.from_epsg(32618), from_origin(0, 0, 30, 30), 40, 40),  # another zone
        Grid(UTM, Affine(30, 1, 0, 1, -30, 0), 40, 40),  # askew
        Grid(None, from_origin(0, 0, 30, 30), 40, 40),  # nowhere
    ],
    ids=["resolution", "zone", "rotation", "no CRS"],
)
def test_scenes_on_other_grids_share_no_block(other: Grid) -> None:
    here = {block.key for block in cut_blocks(grid(40, 40), 20, 10, "0")}
    there = {block.key for block in cut_blocks(other, 20, 10, "1")}
    assert not here & there


def test_scenes_without_a_crs_keep_their_blocks_apart() -> None:
    first, second = ({block.key for block in cut_blocks(grid(40, 40, crs=None), 20, 10, str(n))} for n in (0, 1))
    assert len(first) == len(second) == 4
    assert not first & second
