import geopandas
import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from cwsam_cli.maps.regions import PlacedPolygons
from cwsam_cli.raster.grid import Grid


def test_a_border_through_pixel_centres_lies_the_same_in_every_window() -> None:
    """Samples number the pixels of a region window by window, so windows of any size must agree."""
    transform = Affine(0.0001, 0, 13.1, 0, -0.0001, 47.3)
    rng = np.random.default_rng(0)
    columns, rows = (np.sort(rng.integers(0, size, (40, 2))) + 0.5 for size in (1500, 1000))
    shapes = [
        shapely.Polygon([transform @ (west, north), transform @ (east, north), transform @ (west, south)])
        for (west, east), (north, south) in zip(columns, rows, strict=True)
    ]
    frame = geopandas.GeoDataFrame({"value": range(len(shapes))}, geometry=shapes, crs=4326)
    regions = PlacedPolygons.of(frame, Grid(CRS.from_epsg(4326), transform, 1500, 1000))
    whole = regions.read(Window(0, 0, 1500, 1000))
    assert len(np.unique(whole)) > 10
    for row in range(0, 1000, 256):
        for column in range(0, 1500, 256):
            part = Window(column, row, min(256, 1500 - column), min(256, 1000 - row))
            assert (regions.read(part) == whole[part.toslices()]).all()
