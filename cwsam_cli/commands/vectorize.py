"""`cwsam vectorize`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Overwrite, print_result


def vectorize(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="A raster of class codes.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="polygons.gpkg or polygons.shp")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a map into polygons.

    \b
    $ cwsam vectorize map.tif polygons.gpkg
    $ cwsam vectorize map.tif polygons.shp

    Polygons follow the pixel edges exactly. Their fields are code, name and area_m2
    (geodesic where the map's CRS is in degrees).
    """
    from cwsam_cli.pipelines.vectorize import vectorize as run  # rasterio and geopandas are slow to import

    result = run(map_path, output, overwrite=overwrite)
    hectares = sum(result.area_m2.values()) / 1e4
    print_result(result, f"{output}: {result.polygons:,} polygons, {hectares:,.0f} ha", as_json=as_json)
