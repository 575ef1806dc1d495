"""`cwsam sample`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Overwrite, command_line, print_result
from cwsam_cli.survey.allocation import Allocation


def sample(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="A raster of class codes.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.gpkg", help="The sample; a CSV is written beside it.")
    ],
    points: Annotated[int | None, typer.Option("-n", "--points", min=2, help="Number of points.")] = None,
    target_se: Annotated[
        float | None,
        typer.Option(
            "--target-se", min=0.0001, max=0.5, help="Standard error of the overall accuracy to reach, such as 0.01."
        ),
    ] = None,
    target_area_se: Annotated[
        float | None,
        typer.Option(
            "--target-area-se", min=0.0001, max=0.5, help="Standard error of every class's share of the area to reach."
        ),
    ] = None,
    more: Annotated[
        int | None, typer.Option("--more", min=1, help="Number of points to add to the sample at --output.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option("--unit", metavar="3x3", help="Draw blocks of so many pixels. Default: single pixels."),
    ] = None,
    allocation: Annotated[
        Allocation | None,
        typer.Option("--allocation", help="How the points are shared out over the strata. Default: proportional."),
    ] = None,
    expected_ua: Annotated[
        str | None,
        typer.Option(
            "--expected-ua",
            metavar="0.8|CLASS=0.7,…",
            help="User's accuracies that you expect; a number alone is for all other classes.",
        ),
    ] = None,
    min_per_class: Annotated[
        int | None, typer.Option("--min-per-class", min=2, help="Smallest number of points per stratum. Default: 10.")
    ] = None,
    strata: Annotated[
        Path | None,
        typer.Option("--strata", help="Raster or polygons whose parts are the strata. Default: the map's classes."),
    ] = None,
    strata_field: Annotated[
        str | None,
        typer.Option("--strata-field", help="Field with the stratum's name. Default: each polygon is a stratum."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the random draw. Default: 0.")] = None,
    chips: Annotated[
        Path | None, typer.Option("--chips", metavar="DIR", help="Write a picture of the ground around each point.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="The image that --chips shows.")] = None,
    band: Annotated[
        int | None, typer.Option("--band", min=1, help="Band that holds the codes, if there are several.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw random points from a map, to find out how accurate it is.

    \b
    $ cwsam sample map.tif -n 500 -o sample.gpkg
    $ cwsam sample map.tif --target-se 0.01 --allocation neyman --expected-ua 0.8 -o sample.gpkg
    $ cwsam sample map.tif -n 200 --unit 3x3 -o sample.gpkg
    $ cwsam sample map.tif --more 200 -o sample.gpkg

    Each stratum gets its number of points. Within a stratum every pixel has the same chance.
    Strata are the map's classes by default. Allocation: proportional to pixels, neyman (the
    smallest error of the overall accuracy), or equal.

    Open the GeoPackage in QGIS, and choose the class that you see at each point. The form
    hides the map's class from you. Or fill in the column `reference` of the CSV. A second
    interpreter fills in `reference_2`. Then `cwsam eval --sample sample.gpkg --map map.tif`
    prints accuracies and areas with 95 % intervals; give sample.csv if you filled in that.

    --unit 3x3 draws blocks, for images in which a single pixel cannot be recognised. A block
    counts as the class that most of its pixels have in the map. Choose the class of the whole
    block as `reference`. If it shows several classes, write the others and their per cent into
    `reference_shares`, such as: Forest 40, Water 10. The rest is of the class in `reference`.
    Areas are then estimated from the shares. Accuracies are those of the blocks.

    The CSV has no `stratum` where strata are the map's classes, because it would tell the class.

    The design is stored in the GeoPackage. --more continues it: further random points per
    stratum, more of them where the map was wrong so far. It keeps all references. Options of the first
    draw, such as --allocation, are refused with it.
    """
    from cwsam_cli.sample.request import SampleRequest

    request = SampleRequest(
        map_path=map_path,
        output=output,
        points=points,
        target_se=target_se,
        target_area_se=target_area_se,
        more=more,
        unit=unit,
        allocation=allocation,
        expected_ua=expected_ua,
        min_per_class=min_per_class,
        strata=strata,
        strata_field=strata_field,
        seed=seed,
        chips=chips,
        image=image,
        band=band,
        overwrite=overwrite,
        command=command_line(),
    )
    from cwsam_cli.sample.pipeline import draw_sample, format_result  # rasterio is slow to import

    result = draw_sample(request)
    print_result(result, format_result(result), as_json=as_json)
