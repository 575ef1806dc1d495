"""`cwsam view`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Overwrite


def view(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="Scenes, maps, references and polygons, in any number and order.", show_default=False
        ),
    ],
    compare: Annotated[
        bool, typer.Option("--compare", help="Begin with a swipe between the first two maps, with one legend.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FOLDER", help="Write the page and its data to a folder for a web server."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address only, and open no browser.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Show scenes, maps and polygons in the browser.

    \b
    $ cwsam view scene.tif map.tif polygons.gpkg
    $ cwsam view --compare first.tif second.tif scene.tif
    $ cwsam view scene.tif map.tif --export page/

    The page shows the layers over each other in the CRS of the first map, whose classes are
    not resampled. It compares two layers with a swipe line, switches classes on and off, and
    shows areas per class in view, class and confidence under the cursor, and the attributes of
    a polygon that you click. The page needs no network. Press ? on it for its keys.

    --compare is for maps of the same ground, such as those of two models: the legend shows the
    area of each class in both, and the share of the pixels in view that differ, if both have
    the same pixel grid. Further maps can be chosen above the map.

    Files are told apart by their content. A raster of whole numbers with class names, a
    palette or few values is a map. `map.confidence.tif` beside `map.tif` is shown with it. Layers
    in another CRS are brought into the page's: images bilinear, classes by nearest neighbour.
    GeoTIFFs of whole numbers with tiles and overviews, without JPEG, are read as they are.
    Others are first written as COGs to a temporary folder, for which the disk needs some space.

    The page is served on this machine only, at an address with a random part, until you press
    Ctrl-C. --export writes a folder for any web server that has range requests.
    """
    from cwsam_cli.view.request import ViewRequest

    request = ViewRequest(paths=tuple(paths), compare=compare, export=export, overwrite=overwrite)
    from cwsam_cli.view.pipeline import view as run  # rasterio is slow to import

    run(request, opens_browser=not no_browser, tell=typer.echo)
