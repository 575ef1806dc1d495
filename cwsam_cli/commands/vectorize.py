"""`cwsam vectorize`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, NoExternal, Overwrite, print_result
from cwsam_cli.vector.formats import Format


def vectorize(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="A raster of class codes.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help=".gpkg, .shp, .fgb, .geojson, .geojsonl or .parquet")
    ],
    min_area: Annotated[
        str | None,
        typer.Option("--min-area", metavar="SIZE", help="Smallest mapping unit: 1ha, 900m2 or 10px."),
    ] = None,
    simplify: Annotated[
        str | None,
        typer.Option("--simplify", metavar="LENGTH", help="Largest distance that a border may move: 15m or 2px."),
    ] = None,
    fill_nodata_holes: Annotated[
        bool, typer.Option("--fill-nodata-holes", help="Give nodata inside the map to the class around it.")
    ] = False,
    smooth: Annotated[bool, typer.Option("--smooth", help="Round the bends of borders, after simplifying.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="Write this class only. Repeatable.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Class table: a file or a shipped name. Default: the map's own legend."),
    ] = None,
    dissolve: Annotated[bool, typer.Option("--dissolve", help="Write one multipolygon per class.")] = False,
    dst_crs: Annotated[
        str | None, typer.Option("--dst-crs", metavar="CRS", help="CRS of the polygons, such as EPSG:3035.")
    ] = None,
    confidence: Annotated[
        Path | None,
        typer.Option("--confidence", help="Raster whose mean and minimum become the fields conf_mean and conf_min."),
    ] = None,
    stats: Annotated[
        list[str] | None,
        typer.Option(
            "--stats",
            metavar="NAME=RASTER",
            help="Raster whose mean, minimum and maximum become fields, such as NAME_mean. Repeatable.",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check that there is no gap and no overlap.")] = False,
    band: Annotated[
        int | None, typer.Option("--band", min=1, help="Band that holds the codes, if there are several.")
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Name of the layer. Default: the output's name.")] = None,
    format_name: Annotated[
        Format | None, typer.Option("--format", help="Format, if the output's suffix is another one.")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to an existing GeoPackage: to its layer, or as a new layer.")
    ] = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Append also where the layer already has polygons.")
    ] = False,
    no_external: NoExternal = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a map into polygons.

    \b
    $ cwsam vectorize map.tif polygons.gpkg
    $ cwsam vectorize map.tif polygons.gpkg --min-area 1ha --simplify 15m --check
    $ cwsam vectorize worldcover.tif water.fgb --class "Permanent water bodies" --dst-crs EPSG:3035

    Polygons follow the pixel edges exactly. Neighbours share their borders, also after
    simplifying. Fields: code, name, area_m2, area_ha, perim_m, pixels. Areas and perimeters
    are geodesic if the map's CRS is in degrees or changes them by more than 0.5 %.
    QGIS shows a GeoPackage in the map's colours. GeoJSON is in longitude and latitude.

    MAP is any raster of whole numbers. Names and colours come from the class table inside,
    GDAL's category names or attribute table, and the palette. --min-area joins the smallest
    regions first, each to the neighbour with the longest common border; a region alone in
    nodata stays. --simplify keeps nodes and the map's corners; areas are those of the
    written polygons, pixels are the map's. If --check finds a gap, an overlap or an invalid
    polygon, nothing is written and the exit code is 4. --dissolve holds all polygons in
    memory until the end. The first run takes about ten seconds longer, because numba
    compiles the loops.
    """
    from cwsam_cli.vectorize.request import VectorizeRequest, statistics

    request = VectorizeRequest(
        map_path=map_path,
        output=output,
        format=format_name,
        layer=layer,
        band=band,
        classes=classes,
        min_area=min_area,
        fill_nodata_holes=fill_nodata_holes,
        simplify=simplify,
        smooth=smooth,
        only=tuple(only or ()),
        dissolve=dissolve,
        dst_crs=dst_crs,
        statistics=statistics(confidence, stats or ()),
        check=check,
        append=append,
        allow_overlap=allow_overlap,
        overwrite=overwrite,
    )
    from cwsam_cli.vectorize.pipeline import vectorize as run  # rasterio is slow to import
    from cwsam_cli.vectorize.result import format_result

    result = run(request)
    print_result(result, format_result(result), as_json=as_json)
