"""Add training tiles at other offsets where a rare class is."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from rasterio.windows import Window

from cwsam_cli.console import track
from cwsam_cli.errors import UsageError
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.tile.footprints import PlannedTile
from cwsam_cli.tile.request import TileRequest
from cwsam_cli.tile.scenes import Inputs, SceneReader
from cwsam_cli.tile.split.blocks import Block
from cwsam_cli.tile.split.buffer import apart
from cwsam_cli.tile.split.division import Division, Histograms
from cwsam_cli.tile.split.earlier import EarlierGround, around

_Place = tuple[int, str]
"""A scene and the key of a block."""


def focus_tiles(
    division: Division,
    inputs: Inputs,
    blocks: Sequence[Sequence[Block]],
    found: Histograms,
    taxonomy: Taxonomy,
    request: TileRequest,
    earlier: EarlierGround,
) -> tuple[PlannedTile, ...]:
    """Return the tiles of a division and additional training tiles around random pixels of chosen classes.

    Additional tiles lie on training ground that other tiles show, too. They keep all labels, and their pixels do not
    enter the statistics again.

    Args:
        division: the tiles.
        inputs: the scenes and labels.
        blocks: the blocks of each scene.
        found: labelled pixels by unit and code.
        taxonomy: the class table.
        request: the classes with their numbers of tiles, and the seed.
        earlier: the dataset to which scenes are added, empty if there is none.

    Raises:
        UsageError: a class is not in the table.
    """
    rng = np.random.default_rng(request.seed)
    ground = _training_ground(division.tiles)
    unit = {(number, block.key): block.unit for number, own in enumerate(blocks) for block in own}
    drawn: dict[_Place, list[tuple[int, int]]] = defaultdict(list)
    for name, count in request.focus:
        code = _code_of(name, taxonomy)
        weights = np.array([found[unit[place]][code] for place in ground], float)
        if weights.any():
            for place, times in zip(ground, rng.multinomial(count, weights / weights.sum()).tolist(), strict=True):
                drawn[place] += [(code, times)] if times else []
    added: dict[tuple[int, int, int], PlannedTile] = {}
    taken = {(tile.scene, tile.row_off, tile.col_off) for tile in division.tiles}
    with closing(SceneReader(inputs.scenes, inputs.table, request.size)) as reader:
        for place in track([place for place in ground if drawn[place]], "looking for rare classes", unit="block"):
            window, size = ground[place], request.size
            codes = reader.open(place[0]).about_codes(window)
            for code, times in drawn[place]:
                rows, cols = np.nonzero(codes == code)
                for pixel in rng.choice(len(rows), min(times, len(rows)), replace=False).tolist() if len(rows) else ():
                    row, col = (
                        int(np.clip(at - rng.integers(size), 0, max(0, length - size)))
                        for at, length in zip((rows[pixel], cols[pixel]), codes.shape, strict=True)
                    )
                    tile = PlannedTile(
                        scene=place[0],
                        row_off=int(window.row_off) + row,
                        col_off=int(window.col_off) + col,
                        height=min(size, codes.shape[0]),
                        width=min(size, codes.shape[1]),
                        split="train",
                        block=place[1],
                        shared=(size, size),
                        overlap=size,
                    )
                    added.setdefault((tile.scene, tile.row_off, tile.col_off), tile)
    tiles = [*division.tiles, *(tile for key, tile in added.items() if key not in taken)]
    if request.split_by != "date":
        scenes = [*inputs.scenes, *earlier.scenes]
        gone = apart(scenes, tiles, earlier.after(len(inputs.scenes)).tiles, buffer=division.buffer)
        tiles = [tile for number, tile in enumerate(tiles) if number not in gone]
    return tuple(sorted(tiles, key=lambda tile: tile.scene))


def _training_ground(tiles: Sequence[PlannedTile]) -> dict[_Place, Window]:
    """Return the window around the training tiles of each block."""
    by_place: dict[_Place, list[PlannedTile]] = defaultdict(list)
    for tile in tiles:
        if tile.split == "train":
            by_place[tile.scene, tile.block].append(tile)
    return {place: around([tile.window for tile in own]) for place, own in by_place.items()}


def _code_of(name: str, taxonomy: Taxonomy) -> int:
    for entry in taxonomy.classes:
        if name in (entry.name, str(entry.code)):
            return entry.code
    raise UsageError(
        f"--focus names the class `{name}`, which is not in the class table",
        hint=f"its classes are {', '.join(taxonomy.names)}",
    )
