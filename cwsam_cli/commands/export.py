"""`cwsam export`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Overwrite, print_result


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A trained model.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file; its ending chooses the format.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model as a file for other programs.

    \b
    $ cwsam export save/first/model_epoch_best.pth -o model.onnx
    $ cwsam predict scene.tif -c model.onnx -o map.tif

    model.onnx runs in QGIS, with the plugin Deepness, and in onnxruntime. Its input is one window
    of the scene, (1, bands, size, size), divided by 255. Its output are the probabilities of
    the classes, (1, classes, size, size). It normalises the bands itself. It also has the class
    table with codes and colours, so `predict` needs no checkpoint. In Deepness, a pixel has the
    number of its class in that table, from 0; the file's metadata has codes and colours.

    The formats need packages of their own: pip install 'cwsam[export]'
    """
    from cwsam_cli.checkpoints.newest import refuse_missing
    from cwsam_cli.console import size_text
    from cwsam_cli.export.request import ExportRequest

    refuse_missing(checkpoint)
    request = ExportRequest(checkpoint=checkpoint, output=output, overwrite=overwrite)
    request.refuse_early()
    from cwsam_cli.export.pipeline import export as run  # torch takes seconds to import

    made = run(request)
    text = (
        f"{made.path}: {size_text(made.bytes)}; on an image of noise, probabilities differ by {made.difference:.1g} "
        "from the checkpoint's"
    )
    print_result(made, text, as_json=as_json)
