"""Where tiles lie: their windows in the scenes, and their outlines on the ground."""

from collections.abc import Sequence
from dataclasses import dataclass

import geopandas
import shapely
from rasterio.windows import Window

from cwsam_cli.tile.scenes import LabelledScene


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTile:
    """One tile of a scene."""

    scene: int
    """The index of its scene in `TilePlan.scenes`."""
    row_off: int
    col_off: int
    height: int
    width: int
    """Its window in the scene, in pixels. It is smaller than a tile if the scene is smaller."""
    split: str
    block: str
    """The name of its block of ground. Tiles of one block are near each other; see `split.Block`."""
    shared: tuple[int, int] = (0, 0)
    """Rows at the top and columns at the left that earlier tiles also contain."""
    overlap: int = 0
    """The number of shared rows and columns that keep their labels. The others have no labels in this tile."""

    @property
    def window(self) -> Window:
        """Return its window in the scene."""
        return Window(self.col_off, self.row_off, self.width, self.height)

    @property
    def unlabelled(self) -> tuple[int, int]:
        """Return the rows at the top and columns at the left that have no labels in this tile."""
        above, beside = self.shared
        return max(0, above - self.overlap), max(0, beside - self.overlap)


def draw_footprints(scenes: Sequence[LabelledScene], tiles: Sequence[PlannedTile]) -> geopandas.GeoDataFrame:
    """Return the outlines of tiles in the scenes' CRS, or in EPSG:4326 if the scenes' CRSs differ.

    Args:
        scenes: the scenes that `PlannedTile.scene` counts.
        tiles: the tiles.
    """
    grids = [scene.grid for scene in scenes]
    used = {scenes[tile.scene].crs for tile in tiles}
    common = next(iter(used)) if len(used) == 1 else "EPSG:4326"
    outlines = [shapely.Polygon(grids[tile.scene].corners(tile.window)) for tile in tiles]
    if len(used) > 1:
        for number, scene in enumerate(scenes):
            own = [i for i, tile in enumerate(tiles) if tile.scene == number]
            if scene.crs is not None:
                moved = geopandas.GeoSeries([outlines[i] for i in own], crs=scene.crs).to_crs(common)
                for i, outline in zip(own, moved, strict=True):
                    outlines[i] = outline
    return geopandas.GeoDataFrame(geometry=outlines, crs=common)
