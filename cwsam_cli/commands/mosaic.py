"""`cwsam mosaic`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, NoExternal, Overwrite, command_line, print_result
from cwsam_cli.errors import UsageError
from cwsam_cli.mosaic.request import ChangeRequest, MosaicRequest, Rule


def mosaic(
    maps: Annotated[
        list[str],
        typer.Argument(metavar="MAP", help="Class maps, folders, patterns, a .txt with one path per line, URLs."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The mosaic, a cloud-optimised GeoTIFF; a folder with --by-tile."),
    ] = None,
    by: Annotated[Rule, typer.Option("--by", help="Whose class counts where maps overlap.")] = "first",
    crs: Annotated[
        str | None, typer.Option("--crs", metavar="CRS", help="CRS, such as EPSG:3035. Default: the first map's.")
    ] = None,
    res: Annotated[
        str | None,
        typer.Option("--res", metavar="SIZE", help="Pixel size, 30m or 0.0003deg. Default: the first map's."),
    ] = None,
    cutline: Annotated[
        Path | None, typer.Option("--cutline", help="Keep only ground inside these polygons; the rest is nodata.")
    ] = None,
    by_tile: Annotated[
        str | None,
        typer.Option("--by-tile", metavar="SIZE", help="Write tiles of 100km or 1deg, and mosaic.vrt over them."),
    ] = None,
    min_area: Annotated[
        str | None,
        typer.Option("--min-area", metavar="SIZE", help="Smallest mapping unit: 1ha, 900m2 or 10px."),
    ] = None,
    change: Annotated[
        bool,
        typer.Option("--change", help="Instead count what changed from an older map to a newer one; -o is a .csv."),
    ] = False,
    no_external: NoExternal = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make one map of many.

    \b
    $ cwsam mosaic maps/ -o region.tif --by confidence
    $ cwsam mosaic 'maps/*.tif' -o region.tif --crs EPSG:3035 --res 10m --min-area 1ha
    $ cwsam mosaic maps/ -o tiles/ --by-tile 100km --cutline region.gpkg
    $ cwsam mosaic --change old.tif new.tif -o change.csv

    Maps may have any CRS and overlap. Maps on the mosaic's pixels are copied; others are
    resampled to the nearest neighbour. Classes are equal if their names are: a map with
    other codes is recoded to those of the first map that has the class. Layers beside maps,
    such as map.confidence.tif, are left out.

    \b
    --by  first       the first map of the command line that shows the pixel
          last        the last one
          date        the newest one; the date is in the map's name (2024-05-31 or
                      20240531), else in its tag ACQUISITIONDATETIME or TIFFTAG_DATETIME
          vote        the class that most maps show; the earlier map decides a tie
          confidence  the map that is most sure, from `cwsam predict --confidence`

    Agreement is the share of pixels in two or more maps where all of them show the same
    class. It is counted before --min-area, by the class that the mosaic shows. It measures
    how stable the maps are, not how accurate they are. --min-area joins the smallest
    regions first, each to the neighbour with the longest common border, also for a single
    map. The first such run takes about ten seconds longer, because numba compiles the loops.

    --change counts the hectares of each pair of classes where both maps show one, on the
    older map's pixels or those of --crs and --res. These are counts of the maps, not
    estimates of true change.
    """
    if change:
        if by != "first" or by_tile or min_area:
            raise UsageError("--change excludes --by, --by-tile and --min-area", hint="leave them out")
        changed = ChangeRequest(maps=tuple(maps), output=output, crs=crs, res=res, cutline=cutline, overwrite=overwrite)
        from cwsam_cli.mosaic.change import count_changes, format_changes  # rasterio is slow to import

        found = count_changes(changed)
        print_result(found, format_changes(found), as_json=as_json)
        return
    if output is None:
        raise UsageError("no output is given", hint="for example: -o region.tif")
    request = MosaicRequest(
        maps=tuple(maps),
        output=output,
        by=by,
        crs=crs,
        res=res,
        cutline=cutline,
        by_tile=by_tile,
        min_area=min_area,
        overwrite=overwrite,
        command=command_line(),
    )
    from cwsam_cli.mosaic.pipeline import mosaic as run  # rasterio is slow to import
    from cwsam_cli.mosaic.result import format_result

    result = run(request)
    print_result(result, format_result(result), as_json=as_json)
