"""`cwsam predict`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import (
    BatchSize,
    Checkpoint,
    Device,
    Json,
    Overwrite,
    checkpoint_given,
    command_line,
    key_values,
    print_result,
)


def predict(
    scene: Annotated[Path, typer.Argument(metavar="SCENE", help="The image to classify.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The map, a GeoTIFF of class codes.")],
    checkpoint: Checkpoint = None,
    overlap: Annotated[
        float, typer.Option("--overlap", min=0, max=0.9, help="Share of a window that its neighbour sees too.")
    ] = 0.25,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    creation: Annotated[
        list[str] | None, typer.Option("--co", metavar="KEY=VALUE", help="GDAL creation option; repeatable.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Classify a scene.

    \b
    $ cwsam predict scene.tif -c save/first/model_epoch_best.pth -o map.tif

    The map lies on the scene's own grid: class codes, nodata 255, the classes' colours
    and names. Nodata of the scene stays nodata.
    """
    checkpoint = checkpoint_given(checkpoint)
    from cwsam_cli.pipelines.predict import predict as run  # torch is slow to import

    result = run(
        scene,
        checkpoint,
        output,
        overlap=overlap,
        batch_size=batch_size,
        device=device,
        creation=key_values(creation),
        overwrite=overwrite,
        command=command_line(),
    )
    mapped = max(1, sum(result.pixels.values()))
    shares = ", ".join(
        f"{name} {100 * count / mapped:.1f} %"
        for name, count in sorted(result.pixels.items(), key=lambda item: -item[1])
        if count
    )
    print_result(result, f"{output}: {result.width} × {result.height} pixels; {shares or 'no data'}", as_json=as_json)
