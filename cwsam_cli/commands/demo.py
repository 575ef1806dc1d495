"""`cwsam demo`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Device, Json, print_result


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    scene: Annotated[Path | None, typer.Option("--scene", help="A scene of your own, instead of Landsat.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="A label raster for --scene.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Class table of --labels, a file or a shipped name.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps, rounded up to whole epochs.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of weights, order and augmentation.")] = 0,
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Empty the folder first, if an older demo made it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run tile, train, eval, predict and vectorize on a real scene.

    \b
    $ cwsam demo
    $ cwsam demo --scene my.tif --labels my_labels.tif -o my_demo/

    The scene is Landsat 7 over Raleigh, North Carolina. Two CPU cores need a few minutes.
    A first quicklook.png, of scene and reference, is there after some seconds.
    The folder receives report/report.html (accuracy, a page for the browser), map.tif,
    polygons.gpkg, quicklook.png (scene, reference and map side by side) and the model in run/.
    """
    from cwsam_cli.demo.pipeline import run_demo  # torch and rasterio take seconds to import
    from cwsam_cli.errors import UsageError

    if (scene is None) != (labels is None):
        raise UsageError("--scene and --labels go together", hint="give both, or neither")
    result = run_demo(
        output,
        scene=scene,
        labels=labels,
        classes=classes,
        steps=steps,
        seed=seed,
        device=device,
        overwrite=overwrite,
    )
    print_result(result, result.as_text(), as_json=as_json)
