"""Grids and classes that the tests of label rasters and of label features share."""

from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.raster.grid import Grid
from cwsam_cli.taxonomy import LabelTable, LandCoverClass, Taxonomy

UTM = CRS.from_epsg(32617)
SCENE = Path("scene.tif")
GRID = Grid(UTM, from_origin(600_000, 4_000_000, 30, 30), 20, 16)
WHOLE = Window(0, 0, 20, 16)
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=3, name="water", color="#0000ff"),
        LandCoverClass(code=7, name="林地", color="#00ff00"),
    ),
    unlabelled=(9,),
)
TABLE = LabelTable.of(TAXONOMY)

SCENE_GRIDS = {
    "north-up": Grid(UTM, from_origin(600_000, 4_000_000, 30, 30), 40, 30),
    "south-up": Grid(UTM, Affine(30, 0, 600_000, 0, 30, 3_999_100), 40, 30),
    "rotated": Grid(UTM, Affine.translation(600_100, 3_999_900) @ Affine.rotation(20) @ Affine.scale(25, -25), 40, 30),
}
ACROSS = {
    "UTM 60": Grid(CRS.from_epsg(32660), from_origin(800_000, 1_150_000, 1000, 1000), 100, 100),
    "beyond 180": Grid(CRS.from_epsg(4326), from_origin(179.5, 10.5, 0.01, 0.01), 100, 100),
    "beyond -180": Grid(CRS.from_epsg(4326), from_origin(-180.5, 10.5, 0.01, 0.01), 100, 100),
    "Pacific Mercator": Grid(CRS.from_epsg(3832), from_origin(3_290_000, 1_200_000, 1000, 1000), 100, 100),
    "Web Mercator": Grid(CRS.from_epsg(3857), from_origin(20_037_508 - 50_000, 1_200_000, 1000, 1000), 100, 100),
}
"""Scenes whose middle column lies near the antimeridian, at 10 degrees north."""


def degrees_of(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude of the pixels' centres (H, W)."""
    assert grid.crs is not None
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    way = Transformer.from_crs(grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
    longitude, latitude = way.transform(*grid.transform @ (cols, rows))
    return np.asarray(longitude), np.asarray(latitude)
