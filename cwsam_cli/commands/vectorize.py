"""`cwsam vectorize`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Overwrite, print_result


def vectorize(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="A raster of class codes.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help=".gpkg, .shp, .fgb, .geojson, .geojsonl or .parquet")
    ],
    min_area: Annotated[
        str | None,
        typer.Option("--min-area", metavar="SIZE", help="Smallest mapping unit, 1ha, 900m2 or 10px."),
    ] = None,
    simplify: Annotated[
        str | None, typer.Option("--simplify", metavar="LENGTH", help="How far a border may move, 15m or 2px.")
    ] = None,
    fill_nodata_holes: Annotated[
        bool, typer.Option("--fill-nodata-holes", help="Give nodata inside the map to the neighbour around it.")
    ] = False,
    smooth: Annotated[bool, typer.Option("--smooth", help="Round bends, after simplifying.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="Write this class only; repeatable.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Class table, a file or a shipped name. Default: the map's own.")
    ] = None,
    dissolve: Annotated[bool, typer.Option("--dissolve", help="One multipolygon a class.")] = False,
    dst_crs: Annotated[
        str | None, typer.Option("--dst-crs", metavar="CRS", help="Another CRS than the map's, such as EPSG:3035.")
    ] = None,
    confidence: Annotated[
        Path | None, typer.Option("--confidence", help="Raster whose mean and minimum become conf_mean, conf_min.")
    ] = None,
    stats: Annotated[
        list[str] | None,
        typer.Option("--stats", metavar="NAME=RASTER", help="Mean, minimum and maximum of any raster; repeatable."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Prove that there is no gap and no overlap.")] = False,
    band: Annotated[int | None, typer.Option("--band", min=1, help="The map's band, where there are several.")] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="The layer's name. Default: the output's.")] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Format where the suffix tells another: gpkg, ...")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to an existing GeoPackage: to its layer, or as another one.")
    ] = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Append also where the layer has polygons already.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a map into polygons.

    \b
    $ cwsam vectorize map.tif polygons.gpkg
    $ cwsam vectorize map.tif polygons.gpkg --min-area 1ha --simplify 15m --check
    $ cwsam vectorize worldcover.tif water.fgb --class "Permanent water bodies" --dst-crs EPSG:3035

    Polygons follow the pixel edges exactly and share their borders, also once simplified.
    Fields: code, name, area_m2, area_ha, perim_m, pixels. Areas and perimeters are geodesic
    where the map's CRS is in degrees, or stretches them by more than 0.5 %. A GeoPackage
    brings the map's colours to QGIS. GeoJSON is in longitude and latitude.
    """
    from cwsam_cli.vectorize.pipeline import VectorOptions, statistics, summary  # rasterio is slow to import
    from cwsam_cli.vectorize.pipeline import vectorize as run

    options = VectorOptions(
        min_area=min_area,
        fill_nodata_holes=fill_nodata_holes,
        simplify=simplify,
        smooth=smooth,
        only=tuple(only or ()),
        dissolve=dissolve,
        dst_crs=dst_crs,
        statistics=statistics(confidence, stats or ()),
        check=check,
    )
    result = run(
        map_path,
        output,
        options,
        band=band,
        classes=classes,
        format_name=format_name,
        layer=layer,
        append=append,
        allow_overlap=allow_overlap,
        overwrite=overwrite,
    )
    print_result(result, summary(result), as_json=as_json)
