"""`cwsam vectorize`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import FAILED_INPUTS, Json, NoExternal, Overwrite, Scheduler, print_result
from cwsam_cli.vector.formats import Format


def vectorize(
    maps: Annotated[
        list[str],
        typer.Argument(
            metavar="MAP",
            help="A raster of class codes, then the layer's file: .gpkg, .shp, .fgb, .geojson, .geojsonl or .parquet. "
            "With -o: maps, folders, patterns, or a .txt with one path per line.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The layer's file; a folder for several maps.")
    ] = None,
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
        str | None,
        typer.Option(
            "--confidence",
            metavar="RASTER",
            help="Raster whose mean and minimum become the fields conf_mean and conf_min.",
        ),
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
        Format | None,
        typer.Option("--format", help="Format, if the output's suffix is another one. Default for several maps: gpkg."),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to an existing GeoPackage: to its layer, or as a new layer.")
    ] = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Append also where the layer already has polygons.")
    ] = False,
    stac: Annotated[
        bool, typer.Option("--stac", help="Also write a STAC item with the output's name: polygons.json.")
    ] = False,
    scheduler: Scheduler = None,
    no_external: NoExternal = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a map into polygons.

    \b
    $ cwsam vectorize map.tif polygons.gpkg
    $ cwsam vectorize map.tif polygons.gpkg --min-area 1ha --simplify 15m --check
    $ cwsam vectorize 'maps/*.tif' -o layers/ --scheduler local
    $ cwsam vectorize worldcover.tif water.fgb --class "Permanent water bodies" --dst-crs EPSG:3035

    Polygons follow the pixel edges exactly. Neighbours share their borders, also after
    simplifying. Fields: code, name, area_m2, area_ha, perim_m, pixels. Areas and perimeters
    are geodesic if the map's CRS is in degrees or changes them by more than 0.5 %.
    QGIS shows the polygons in the map's colours: the style is inside a GeoPackage, and in a
    .qml beside other formats. GeoJSON is in longitude and latitude.

    MAP is any raster of whole numbers. Names and colours come from the class table inside,
    GDAL's category names or attribute table, and the palette. --min-area joins the smallest
    regions first, each to the neighbour with the longest common border; a region alone in
    nodata stays. --simplify keeps nodes and the map's corners; areas are those of the
    written polygons, pixels are the map's. If --check finds a gap, an overlap or an invalid
    polygon, nothing is written and the exit code is 4. --dissolve holds all polygons in
    memory until the end. The first run takes about ten seconds longer, because numba
    compiles the loops.

    Several maps give one layer each, with the maps' names; layers beside maps, such as
    map.confidence.tif, are left out. Layers that are there already stay as they are, so
    the same command continues after a failure. If a map fails, the others continue and the
    exit code is 4. With --scheduler each map is a task of a Dask cluster. All workers need
    the maps and the output folder at the same paths; see docs/cluster.md.
    """
    from cwsam_cli.errors import UsageError
    from cwsam_cli.raster.sources.network import path_or_name
    from cwsam_cli.raster.sources.scenes import expand
    from cwsam_cli.vectorize.request import VectorizeRequest, statistics

    if output is None:
        if len(maps) != 2:
            raise UsageError("no output is given", hint="say: -o polygons.gpkg; for several maps: -o layers/")
        output = Path(maps.pop())
    named, many = expand(maps)
    if scheduler and not many:
        raise UsageError("--scheduler is for several maps, one task each", hint="leave it out")

    def make_request(map_path: Path | str, target: Path) -> VectorizeRequest:
        return VectorizeRequest(
            map_path=map_path,
            output=target,
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
            stac=stac,
            overwrite=overwrite,
        )

    if many:
        from cwsam_cli.vectorize.many import vectorize_many  # rasterio is slow to import
        from cwsam_cli.vectorize.result import format_layer

        made = vectorize_many(make_request, named, output, f".{format_name or 'gpkg'}", scheduler or "")
        lines = [format_layer(result) for result in made.layers]
        lines += [f"{path}: there already" for path in made.present]
        lines += [f"{path}: failed, {reason}" for path, reason in made.failed.items()]
        print_result(made, "\n".join(lines), as_json=as_json)
        if made.failed:
            raise typer.Exit(FAILED_INPUTS)
        return
    request = make_request(path_or_name(named[0]), output)
    from cwsam_cli.vectorize.pipeline import vectorize as run  # rasterio is slow to import
    from cwsam_cli.vectorize.result import format_result

    result = run(request)
    print_result(result, format_result(result), as_json=as_json)
