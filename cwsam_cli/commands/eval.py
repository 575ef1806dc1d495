"""`cwsam eval`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cwsam_cli.commands.options import (
    BatchSize,
    Checkpoint,
    Device,
    Json,
    Overwrite,
    print_result,
    require_checkpoint,
)
from cwsam_cli.console import loading
from cwsam_cli.errors import UsageError


def evaluate(
    data: Annotated[Path | None, typer.Option("--data", help="A folder that `cwsam tile` wrote.")] = None,
    checkpoint: Checkpoint = None,
    map_path: Annotated[
        Path | None, typer.Option("--map", help="Assess this map, whoever made it, instead of a model.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Raster, polygons or points with the true classes, for --map.")
    ] = None,
    class_field: Annotated[
        str | None, typer.Option("--class-field", help="Field of a vector --reference with the class code or name.")
    ] = None,
    crosswalk: Annotated[
        Path | None,
        typer.Option(
            "--crosswalk", metavar="TABLE.csv", help="Common classes, if map and reference have other legends."
        ),
    ] = None,
    sample: Annotated[
        Path | None, typer.Option("--sample", help="Points that `cwsam sample` drew, with their true classes.")
    ] = None,
    assume_random: Annotated[
        bool,
        typer.Option("--assume-random", help="Take points without a design as drawn at random from the whole map."),
    ] = False,
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
    """Measure the accuracy of a model or of any map.

    \b
    $ cwsam eval -c save/first/model_epoch_best.pth --data dataset/
    $ cwsam eval --sample sample.gpkg --map map.tif
    $ cwsam eval --map map.tif --reference labels.tif --crosswalk table.csv
    $ cwsam eval -c save/first/model_epoch_best.pth --data dataset/ -o report/ --json

    The table lists IoU, precision, recall, F1 and labelled pixels per class, then means over
    the classes. A class without a labelled pixel in the split is marked as absent and is left
    out of the means. With -o, a folder receives metrics.json and confusion_matrix.csv (rows:
    reference, columns: map).

    --sample estimates accuracies and areas from interpreted points, with 95 % intervals
    (Olofsson et al. 2014, Stehman 2014). Pixels count by their area on the ground. If --map
    is another map than the sample's, it is assessed at the same points.

    --reference counts all pixels or points that have a true class and a map class. Pixels in
    polygons of two classes are left out. TABLE.csv has the columns legend (map or reference),
    class (code or name) and target (a name; empty leaves the class out).
    """
    if sample is not None or map_path is not None:
        from cwsam_cli.commands.eval_map import evaluate_map, evaluate_sample

        if sample is not None:
            evaluate_sample(sample, map_path, output, assume_random=assume_random, overwrite=overwrite, as_json=as_json)
        elif map_path is not None:
            evaluate_map(map_path, reference, class_field, crosswalk, output, overwrite=overwrite, as_json=as_json)
        return
    checkpoint = require_checkpoint(checkpoint)
    if data is None:
        raise UsageError("no dataset is given", hint="--data dataset/, or assess a map: --map map.tif")
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
