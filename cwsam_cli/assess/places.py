"""Where the tiles of a dataset lie: their scenes and their blocks of ground, from `tiles.gpkg`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.dataset.pairs import find_pairs
from cwsam_cli.errors import DataError
from cwsam_cli.raster.sources.external import refuse_unusable_layer

INDEX = "tiles.gpkg"
"""File of a dataset with the outline of each tile."""
_COLUMNS = ("tile", "scene", "col_off", "row_off", "width", "height")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Scene and block of each tile, in the dataset's order of tiles."""

    scenes: tuple[str, ...]
    """Paths of the scenes; empty texts where the dataset has no `tiles.gpkg`."""
    blocks: tuple[str, ...]
    """Names of the blocks of ground. A tile of unknown block is a block of its own."""
    windows: tuple[Window | None, ...]
    """Windows of the tiles in their scenes."""
    has_blocks: bool
    """Whether the dataset names its blocks."""

    def cells(self) -> tuple[NDArray[np.intp], list[tuple[str, str]]]:
        """Return the number of each tile's cell, and each cell's scene and block. A cell is a scene's part of a block.

        Scenes that cover the same ground share blocks.
        """
        cells = list(zip(self.scenes, self.blocks, strict=True))
        names = list(dict.fromkeys(cells))
        numbers = {cell: number for number, cell in enumerate(names)}
        return np.array([numbers[cell] for cell in cells], np.intp), names


def find_places(data: Sequence[Path], split: str) -> tuple[list[str], Places]:
    """Return the names and places of the tiles of a split, in the order of the samples, without opening them.

    Args:
        data: folders of datasets. If there are several, the names of tiles begin with their folder.
        split: train, val or test.

    Raises:
        DataError: a folder has no tiles, or its `tiles.gpkg` is damaged or lacks a tile.
    """
    parts = []
    for folder in data:
        tiles = list_tiles(folder, split)
        parts.append((folder, tiles, read_places(folder, tiles)))
    if len(parts) == 1:
        return parts[0][1:]
    blocks = (block if own.has_blocks else f"{folder}/{block}" for folder, _, own in parts for block in own.blocks)
    return [f"{folder}/{tile}" for folder, tiles, _ in parts for tile in tiles], Places(
        scenes=tuple(scene for _, _, own in parts for scene in own.scenes),
        blocks=tuple(blocks),
        windows=tuple(window for _, _, own in parts for window in own.windows),
        has_blocks=all(own.has_blocks for _, _, own in parts),
    )


def list_tiles(data: Path, split: str) -> list[str]:
    """Return the names of the tiles of a split without suffix, in the order of the samples."""
    return [image.stem for image, _ in find_pairs(data / "images" / split, data / "labels" / split)]


def read_places(data: Path, tiles: Sequence[str]) -> Places:
    """Read the places of tiles.

    Args:
        data: folder of the dataset.
        tiles: names of the tiles without suffix.

    Raises:
        DataError: `tiles.gpkg` is damaged, or lacks a tile.
    """
    path = data / INDEX
    if not path.is_file():
        unknown = ("",) * len(tiles)
        return Places(scenes=unknown, blocks=tuple(tiles), windows=(None,) * len(tiles), has_blocks=False)
    refuse_unusable_layer(path)
    try:
        frame = pyogrio.read_dataframe(path, layer="tiles", read_geometry=False)
        rows: dict[str, dict[str, Any]] = {row["tile"]: row for row in frame.to_dict("records")}
        own = [rows[tile] for tile in tiles]
        windows = tuple(Window(*(int(row[name]) for name in _COLUMNS[2:])) for row in own)
        scenes = tuple(str(row["scene"]) for row in own)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"`{path}` does not describe the tiles of the dataset: {error}", hint="tile the scenes again"
        ) from None
    has_blocks = all(isinstance(row.get("block"), str) for row in own)
    blocks = tuple(row["block"] if has_blocks else tile for row, tile in zip(own, tiles, strict=True))
    return Places(scenes=scenes, blocks=blocks, windows=windows, has_blocks=has_blocks)
