"""Polygons that say which ground goes to which split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.errors import DataError, UsageError
from cwsam_cli.raster.sources.external import refuse_unusable_layer
from cwsam_cli.tile.footprints import PlacedScene, Rectangle

_PIXEL_SHARE = 1e-3
"""Part of a pixel by which a tile may lie outside a polygon, for rounding."""


@dataclass(frozen=True, slots=True)
class Zones:
    """The ground of each split, in the CRS of each scene."""

    scenes: Sequence[PlacedScene]
    ground: dict[tuple[str, str | None], shapely.Geometry]
    """Polygons by split and CRS (WKT)."""

    def contain(self, tiles: Sequence[Rectangle], split: str) -> NDArray[np.bool_]:
        """Return which tiles lie wholly in the polygons of a split, (N,)."""
        inside = np.zeros(len(tiles), bool)
        grids = [scene.grid for scene in self.scenes]
        for number, tile in enumerate(tiles):
            scene = self.scenes[tile.scene]
            zone = self.ground[split, scene.crs]
            shape = shapely.Polygon(grids[tile.scene].corners(tile.window))
            rounding = _PIXEL_SHARE * np.sqrt(abs(grids[tile.scene].transform.determinant))
            inside[number] = shapely.covers(zone, shapely.buffer(shape, -rounding, join_style="mitre"))
        return inside


def read_zones(path: Path, field: str, scenes: Sequence[PlacedScene]) -> Zones:
    """Read polygons with a field that holds `train`, `val` or `test`.

    Raises:
        UsageError: the field is missing.
        DataError: the file cannot be read, has no CRS, or holds another value.
    """
    refuse_unusable_layer(path)
    try:
        frame = geopandas.read_file(path)
    except (DataSourceError, DataLayerError) as error:
        raise DataError(
            f"`{path}` is not a readable layer: {error}",
            hint="--split-by takes block, scene, date or a layer of polygons",
        ) from None
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise DataError(f"`{path}` is a table without geometry", hint="--split-by takes a layer of polygons")
    if field not in frame:
        names = ", ".join(name for name in frame.columns if name != "geometry")
        raise UsageError(f"`{path}` has no field `{field}`", hint=f"--split-field takes one of: {names}")
    other = sorted({str(value) for value in frame[field]} - set(SPLITS))
    if other:
        raise DataError(
            f"the field `{field}` of `{path}` holds `{other[0]}`, which is not a split",
            hint="the values are train, val and test",
        )
    if frame.crs is None and any(scene.crs is not None for scene in scenes):
        raise DataError(f"`{path}` has no coordinate reference system", hint="set it with ogr2ogr -a_srs")
    ground: dict[tuple[str, str | None], shapely.Geometry] = {}
    for crs in {scene.crs for scene in scenes}:
        moved = frame.to_crs(crs) if crs is not None and frame.crs is not None else frame
        for split in SPLITS:
            shapes = shapely.make_valid(moved.geometry[(moved[field] == split).to_numpy()].to_numpy())
            ground[split, crs] = shapely.union_all(shapes)
            shapely.prepare(ground[split, crs])
    return Zones(scenes, ground)
