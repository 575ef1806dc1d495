"""`cwsam export`."""

from pathlib import Path
from typing import Annotated

import typer

from cwsam_cli.commands.options import Json, Overwrite, print_result


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A trained model.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file; its ending chooses the format.")],
    card: Annotated[
        Path | None, typer.Option("--card", metavar="README.md", help="Also write a model card, as on Hugging Face.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="A folder that `cwsam eval -o` wrote; the card has its scores.")
    ] = None,
    stac: Annotated[
        Path | None, typer.Option("--stac", metavar="ITEM.json", help="Also write a STAC item of the model (MLM).")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model as a file for other programs.

    \b
    $ cwsam export save/first/model_epoch_best.pth -o model.onnx
    $ cwsam predict scene.tif -c model.onnx -o map.tif
    $ cwsam export save/first/model_epoch_best.pth -o model.pt2 --stac model.json
    $ cwsam export save/first/model_epoch_best.pth -o model.onnx --card README.md --report report/

    model.onnx runs in QGIS, with the plugin Deepness, and in onnxruntime. Its input is one window
    of a scene, (1, bands, size, size), divided by 255. Its output is the probability of each
    class, (1, classes, size, size). It normalises the bands and calibrates the probabilities
    itself. It has the class table with codes and colours, so `predict` needs no checkpoint.
    In a map of Deepness, the value of a pixel is the row of its class in that table, from 0.

    model.pt2 is a program of torch.export. Its input is a window of the scene's own values.
    model.safetensors has the weights alone.

    The card and the STAC item name the classes, the bands, and the training ground with its
    bounding box if the dataset is still where it was.

    ONNX and safetensors need further packages: pip install 'cwsam[export]'
    """
    from cwsam_cli.checkpoints.newest import refuse_missing
    from cwsam_cli.console import size_text
    from cwsam_cli.export.request import ExportRequest

    refuse_missing(checkpoint)
    request = ExportRequest(
        checkpoint=checkpoint, output=output, card=card, stac=stac, report=report, overwrite=overwrite
    )
    request.refuse_early()
    from cwsam_cli.export.pipeline import export as run  # torch takes seconds to import

    made = run(request)
    text = f"{made.path}: {size_text(made.bytes)}"
    if made.difference is not None:
        text += f"; on an image of noise, probabilities differ by at most {made.difference:.1g} from the checkpoint's"
    others = [str(path) for path in (made.card, made.stac) if path is not None]
    print_result(made, "\n".join([text, *others]), as_json=as_json)
