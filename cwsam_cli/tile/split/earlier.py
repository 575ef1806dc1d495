"""The ground of a dataset to which scenes are added. Its tiles and its splits stay as they are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rasterio.windows import Window

from cwsam_cli.tile.footprints import PlacedScene, PlannedTile


@dataclass(frozen=True, slots=True)
class DividedUnit:
    """A block of ground, a scene or a date that goes to one split whole."""

    split: str
    fold: int | None
    """Its fold, from 0; None without folds."""
    found: Mapping[int, int]
    """Labelled pixels by class code."""


@dataclass(frozen=True, slots=True)
class EarlierBlock:
    """The tiles of one block of an earlier scene; satisfies `footprints.Rectangle`."""

    scene: int
    window: Window
    split: str


@dataclass(frozen=True, slots=True)
class EarlierGround:
    """Scenes, tiles and units of a dataset; empty if the dataset is new."""

    scenes: tuple[PlacedScene, ...] = ()
    tiles: tuple[PlannedTile, ...] = ()
    units: Mapping[str, DividedUnit] = field(default_factory=dict)
    """By name; see `blocks.Block.unit`."""

    def after(self, scenes: int) -> "EarlierGround":
        """Return the ground with tiles whose scenes are counted after a number of new ones."""
        return replace(self, tiles=tuple(replace(tile, scene=tile.scene + scenes) for tile in self.tiles))

    def blocks(self) -> list[EarlierBlock]:
        """Return the rectangles around the tiles of each block."""
        by_block: dict[tuple[int, str, str], list[PlannedTile]] = defaultdict(list)
        for tile in self.tiles:
            by_block[tile.scene, tile.block, tile.split].append(tile)
        return [
            EarlierBlock(scene, around([tile.window for tile in own]), split)
            for (scene, _, split), own in by_block.items()
        ]


def around(windows: Sequence[Window]) -> Window:
    """Return the smallest window that contains all windows."""
    left, top = min(window.col_off for window in windows), min(window.row_off for window in windows)
    right = max(window.col_off + window.width for window in windows)
    bottom = max(window.row_off + window.height for window in windows)
    return Window(left, top, right - left, bottom - top)
