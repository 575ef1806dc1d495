"""Where tiles lie: their windows in the scenes, and their outlines on the ground."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedScene:
    """A scene and where it lies."""

    name: str
    """The first part of its tiles' names."""
    path: str = field(repr=False)
    """A path, a URL or one of GDAL's virtual paths. Dask logs the arguments of calls that fail, so `repr` leaves it
    out."""
    fingerprint: str
    """Changes with the file; see `raster.sources.fingerprint`."""
    crs: str | None
    """The scene's CRS, as WKT."""
    transform: tuple[float, ...]
    """The scene's transform: a, b, c, d, e, f."""
    width: int
    height: int

    @property
    def grid(self) -> Grid:
        """Return the scene's grid."""
        crs = CRS.from_wkt(self.crs) if self.crs else None
        return Grid(crs, Affine(*self.transform), self.width, self.height)


class Rectangle(Protocol):
    """A part of a scene."""

    @property
    def scene(self) -> int:
        """Return the number of its scene."""

    @property
    def window(self) -> Window:
        """Return its window in the scene."""


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
    """The name of its block of ground. Tiles of one block are near each other; see `blocks.Block`."""
    fold: int | None = None
    """Its fold, from 0; None without folds."""
    near_folds: tuple[int, ...] = ()
    """Other folds with a tile closer than the buffer. Training leaves this tile out if one of them is validation."""
    shared: tuple[int, int] = (0, 0)
    """Rows at the top and columns at the left that earlier tiles also contain."""
    others: tuple[tuple[int, int], ...] = ()
    """First row and column of earlier tiles of its block with pixels of this tile, if `shared` cannot name all: tiles
    between them were left out."""
    overlap: int = 0
    """The number of shared rows and columns that keep their labels. The others have no labels in this tile."""

    @property
    def window(self) -> Window:
        """Return its window in the scene."""
        return Window(self.col_off, self.row_off, self.width, self.height)

    @property
    def fresh(self) -> NDArray[np.bool_]:
        """Return the pixels that no earlier tile contains (height, width)."""
        above, beside = self.shared
        found = np.ones((self.height, self.width), bool)
        found[:above] = found[:, :beside] = False
        for row, col in self.others:
            down, right = row - self.row_off, col - self.col_off
            found[max(0, down) : down + self.height, max(0, right) : max(0, right + self.width)] = False
        return found

    @property
    def unlabelled(self) -> tuple[int, int]:
        """Return the rows at the top and columns at the left that have no labels in this tile."""
        above, beside = self.shared
        return max(0, above - self.overlap), max(0, beside - self.overlap)


def draw_footprints(scenes: Sequence[PlacedScene], tiles: Sequence[Rectangle]) -> geopandas.GeoDataFrame:
    """Return the outlines of tiles in the scenes' CRS, or in EPSG:4326 if the scenes' CRSs differ.

    Args:
        scenes: the scenes that `PlannedTile.scene` counts.
        tiles: the tiles.
    """
    by_scene: dict[int, list[int]] = defaultdict(list)
    for number, tile in enumerate(tiles):
        by_scene[tile.scene].append(number)
    used = {scenes[number].crs for number in by_scene}
    common = next(iter(used)) if len(used) == 1 else "EPSG:4326"
    windows = [tile.window for tile in tiles]
    left, top = (np.array([getattr(window, side) for window in windows], float) for side in ("col_off", "row_off"))
    wide, high = (np.array([getattr(window, side) for window in windows], float) for side in ("width", "height"))
    x = np.stack([left, left + wide, left + wide, left], axis=1)
    y = np.stack([top, top, top + high, top + high], axis=1)
    a, b, c, d, e, f = np.array([scenes[tile.scene].transform for tile in tiles]).reshape(-1, 6).T[:, :, None]
    outlines = np.asarray(shapely.polygons(np.stack([a * x + b * y + c, d * x + e * y + f], axis=2)))
    for number, own in by_scene.items() if len(used) > 1 else ():
        crs = scenes[number].crs
        if crs is not None:
            outlines[own] = geopandas.GeoSeries(outlines[own], crs=crs).to_crs(common).to_numpy()
    return geopandas.GeoDataFrame(geometry=outlines, crs=common)
