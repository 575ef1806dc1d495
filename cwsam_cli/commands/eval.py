"""`cwsam eval`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cwsam_cli.commands.options import (
    BatchSize,
    Checkpoint,
    Device,
    Gpus,
    Json,
    NoExternal,
    Overwrite,
    command_line,
    require_checkpoint,
)
from cwsam_cli.errors import UsageError


def evaluate(
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="A folder that `cwsam tile` wrote; repeatable, with the same classes and bands."),
    ] = None,
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
    band: Annotated[
        int | None, typer.Option("--band", min=1, help="Band of --map that holds the codes, if there are several.")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option("--split", help="Which part of the dataset to measure on.")
    ] = "test",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the report, or the calibrated checkpoint."),
    ] = None,
    no_external: NoExternal = False,
    overwrite: Overwrite = False,
    tolerance: Annotated[
        int,
        typer.Option("--tolerance", min=0, max=32, help="Pixels by which a boundary may be off in boundary F1."),
    ] = 2,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on validation ground; -o receives the checkpoint.")
    ] = False,
    conformal: Annotated[
        float | None,
        typer.Option(
            "--conformal",
            metavar="SHARE",
            help="Fit sets of classes that hold the true class of this share of pixels, such as 0.9.",
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="MODEL|MAP",
            help="A second model, measured on the same ground, or with --sample a second map.",
        ),
    ] = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    gpus: Gpus = 1,
    as_json: Json = False,
) -> None:
    """Measure the accuracy of a model or of any map.

    \b
    $ cwsam eval -c save/first/model_epoch_best.pth --data dataset/
    $ cwsam eval --sample sample.gpkg --map map.tif
    $ cwsam eval --sample sample.gpkg --map map.tif --compare other.tif
    $ cwsam eval --map map.tif --reference labels.tif --crosswalk table.csv
    $ cwsam eval -c save/first/model_epoch_best.pth --data dataset/ -o report/ --json
    $ cwsam eval -c first.pth --data dataset/ --calibrate -o calibrated.pth
    $ cwsam eval -c second.pth --data dataset/ --compare first.pth

    The table lists IoU, precision (user's accuracy), recall (producer's accuracy), F1,
    boundary F1 and labelled pixels per class, then means over the classes. A class without
    a labelled pixel in the split is marked as absent and is left out of the means.

    Intervals hold with 95 % confidence. They come from drawing whole blocks of ground again,
    because pixels of one block are alike. Fewer than 10 blocks give no reliable interval.
    The calibration error compares the model's confidence with its accuracy, in 15 bins.
    --gpus shares out the tiles. Each GPU holds the whole model.

    With -o, a folder receives report.html (a page for the browser that needs no network),
    metrics.json, confusion_matrix.csv (rows: reference, columns: map), classes.csv,
    scenes.csv, tiles.csv (the least accurate first) and reliability.csv. If the model has
    groups of experts, expert_groups.csv has the accuracy by the group that served most.
    distances_from_training.csv has it by distance from the dataset's nearest training tile.

    --calibrate divides the model's scores by a temperature, so that it is as sure as it is
    right. --conformal finds for each class the smallest probability that keeps it in a
    pixel's set of classes; `predict --set-size` maps how many remain. Both are fitted on
    the val split and measured on --split. -o receives a copy of the checkpoint that
    `predict` and `eval` use like the original. Weights and classes stay as they are.

    --compare prints both models' figures and their differences (-c minus --compare). The
    intervals are paired: both models are drawn on the same blocks. A test turns the signs of
    whole blocks and tells how often chance alone would make such a difference. -o receives
    comparison.json and comparison.csv.

    --sample estimates accuracies and areas from interpreted points, with 95 % intervals
    (Olofsson et al. 2014, Stehman 2014). Pixels count by their area on the ground. If --map
    is another map than the sample's, it is assessed at the same points. With --compare, two
    maps are compared at these points: accuracies with paired intervals, counted areas, and a
    test that turns the signs of single points, weighted by the design.

    If `predict --probabilities` wrote its layer beside the map, areas are also estimated with
    its help. These intervals are narrower, and hold even if the probabilities are wrong.

    --reference counts all pixels or points that have a true class and a map class. Pixels in
    polygons of two classes are left out. TABLE.csv has the columns legend (map or reference),
    class (code or name) and target (a name; empty leaves the class out).

    With --sample or --reference, -o receives report.html, metrics.json and confusion_matrix.csv
    (rows: map for a sample, else reference). A sample also gives areas.csv, strata.csv and
    interpreters.csv, and its page shows the areas with intervals. A reference gives classes.csv.
    The page shows the map in small if --map is given.
    """
    options = {
        "--data": data,
        "--checkpoint": checkpoint,
        "--reference": reference,
        "--class-field": class_field,
        "--crosswalk": crosswalk,
        "--assume-random": assume_random,
        "--band": band,
        "--calibrate": calibrate,
        "--conformal": conformal,
        "--compare": compare,
    }
    _refuse_unused({name for name, value in options.items() if value}, sample, map_path)
    if sample is not None or map_path is not None:
        from cwsam_cli.commands.eval_map import compare_on_sample, evaluate_map, evaluate_sample

        if sample is not None and compare is not None:
            if assume_random:
                raise UsageError("--compare needs a sample with a design", hint="leave out --assume-random")
            compare_on_sample(sample, map_path, compare, output, band=band, overwrite=overwrite, as_json=as_json)
        elif sample is not None:
            evaluate_sample(
                sample, map_path, output, assume_random=assume_random, band=band, overwrite=overwrite, as_json=as_json
            )
        elif map_path is not None:
            evaluate_map(
                map_path, reference, class_field, crosswalk, output, band=band, overwrite=overwrite, as_json=as_json
            )
        return
    checkpoint = require_checkpoint(checkpoint)
    if not data:
        raise UsageError("no dataset is given", hint="--data dataset/, or assess a map: --map map.tif")
    if len({folder.resolve() for folder in data}) < len(data):
        raise UsageError("--data names a folder twice, so its pixels would count twice", hint="name each folder once")
    from cwsam_cli.assess.request import CalibrationRequest, ModelRequest
    from cwsam_cli.commands.eval_model import calibrate_model, compare_models, evaluate_model

    if calibrate or conformal is not None:
        if compare is not None:
            raise UsageError("--compare does not go with --calibrate and --conformal", hint="run one after the other")
        if output is None:
            raise UsageError("no output is given for the calibrated checkpoint", hint="say: -o calibrated.pth")
        fit = CalibrationRequest(
            checkpoint=checkpoint,
            data=tuple(data),
            output=output,
            temperature=calibrate,
            coverage=conformal,
            split=split,
            overwrite=overwrite,
            batch_size=batch_size,
            device=device,
            gpus=gpus,
        )
        calibrate_model(fit, as_json=as_json)
        return
    request = ModelRequest(
        checkpoint=checkpoint,
        data=tuple(data),
        split=split,
        output=output,
        overwrite=overwrite,
        tolerance=tolerance,
        batch_size=batch_size,
        device=device,
        gpus=gpus,
        command=command_line(),
    )
    if compare is not None:
        compare_models(request, require_checkpoint(compare), as_json=as_json)
        return
    evaluate_model(request, as_json=as_json)


def _refuse_unused(given: set[str], sample: Path | None, map_path: Path | None) -> None:
    """Refuse options that would change nothing.

    Raises:
        UsageError: there is one.
    """
    if sample is not None:
        has_map = map_path is not None or "--compare" in given
        subject, used = "--sample", {"--compare", "--assume-random"} | ({"--band"} if has_map else set())
    elif map_path is not None:
        subject, used = "--map without --sample", {"--reference", "--class-field", "--crosswalk", "--band"}
    else:
        subject, used = "a model", {"--data", "--checkpoint", "--calibrate", "--conformal", "--compare"}
    if unused := sorted(given - used):
        raise UsageError(f"{unused[0]} does not go with {subject}", hint="cwsam eval --help has an example of each use")
