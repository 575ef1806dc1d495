"""Write polygons to the formats that people's GIS opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
from pyogrio.errors import DataSourceError, FeatureError
from rasterio.crs import CRS

from cwsam_cli.errors import MachineError, UsageError
from cwsam_cli.files import staged
from cwsam_cli.geo.polygonize import Region
from cwsam_cli.taxonomy import Taxonomy

DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile"}


def vector_driver(path: Path) -> str:
    """GDAL's driver for a file's suffix.

    Raises:
        UsageError: no format here has that suffix.
    """
    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        raise UsageError(
            f"`{path}`: no vector format has the suffix `{path.suffix}` here", hint=f"use {' or '.join(DRIVERS)}"
        )
    return driver


def write_regions(
    regions: Sequence[Region], taxonomy: Taxonomy, crs: CRS, output: Path, *, overwrite: bool = False
) -> None:
    """Write regions with their class code, class name and area.

    Field names fit a shapefile's ten characters as they stand, so every format has the same:
    `code`, `name`, `area_m2`.
    """
    names = {entry.code: entry.name for entry in taxonomy.classes}
    frame = geopandas.GeoDataFrame(
        {
            "code": [region.code for region in regions],
            "name": [names.get(region.code, "") for region in regions],
            "area_m2": [region.area_m2 for region in regions],
        },
        geometry=[region.geometry for region in regions],
        crs=crs.to_wkt(),
    ).astype({"code": "int32", "name": "str", "area_m2": "float64"})
    with staged(output, overwrite=overwrite) as path:
        write_frame(frame, path, layer=output.stem, geometry_type="Polygon")


def write_frame(frame: geopandas.GeoDataFrame, path: Path, **options: Any) -> None:
    """Write a frame in the format of the path's suffix.

    Raises:
        MachineError: it could not be written whole.
    """
    driver = vector_driver(path)
    encoding = {"encoding": "UTF-8"} if driver == "ESRI Shapefile" else {}
    try:
        frame.to_file(path, driver=driver, **encoding, **options)
    except (FeatureError, DataSourceError) as error:
        raise MachineError(f"`{path.name}` could not be written: {error}", hint="is the disk full?") from None
