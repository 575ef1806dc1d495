"""`cwsam demo`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Device, Json, print_result


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    scene: Annotated[Path | None, typer.Option("--scene", help="A scene of your own.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Its labels.")] = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Class table of those labels.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps, about.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, order and augmentation.")] = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older demo.")] = False,
    as_json: Json = False,
) -> None:
    """Run all five stages on a real Landsat scene: Raleigh, North Carolina.

    \b
    $ cwsam demo
    $ cwsam demo --scene my.tif --labels my_labels.tif -o my_demo/

    A few minutes on two CPU cores. The output holds the map, the polygons, the model,
    the accuracy report and quicklook.png.
    """
    from cwsam_cli.demo.pipeline import run_demo  # torch and rasterio are slow to import
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
