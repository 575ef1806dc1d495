"""`cwsam eval`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cwsam_cli.commands.options import (
    BatchSize,
    Checkpoint,
    Data,
    Device,
    Json,
    Overwrite,
    print_result,
    require_checkpoint,
)
from cwsam_cli.console import loading


def evaluate(
    data: Data,
    checkpoint: Checkpoint = None,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option("--split", help="Which part of the dataset to measure on.")
    ] = "test",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for metrics.json and confusion_matrix.csv.")
    ] = None,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a model's accuracy on held-out ground, class by class.

    \b
    $ cwsam eval -c save/first/model_epoch_best.pth --data dataset/
    $ cwsam eval -c save/first/model_epoch_best.pth --data dataset/ -o report/ --json

    The table lists IoU, precision, recall, F1 and labelled pixels per class, then means over
    the classes. A class without a labelled pixel in the split is marked as absent and is left
    out of the means. With -o, a folder receives metrics.json and confusion_matrix.csv (rows:
    reference, columns: map).
    """
    checkpoint = require_checkpoint(checkpoint)
    from cwsam_cli.assess.report import METRICS, as_dict, as_table
    from cwsam_cli.dataset.manifest import read_manifest
    from cwsam_cli.files import refuse_existing

    if output is not None:
        refuse_existing(output, overwrite=overwrite, marker=METRICS)
    read_manifest(data)
    with loading("torch"):
        from cwsam_cli.assess.pipeline import evaluate as measure

    result = measure(
        checkpoint, data, split=split, output=output, overwrite=overwrite, batch_size=batch_size, device=device
    )
    print_result(as_dict(result.metrics, result.taxonomy), as_table(result.metrics, result.taxonomy), as_json=as_json)
