"""`cwsam predict`."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cwsam_cli.commands.joined_maps import map_and_join, one_by_one
from cwsam_cli.commands.options import (
    FAILED_INPUTS,
    Assets,
    Bands,
    Checkpoint,
    Device,
    Gpus,
    Json,
    NoExternal,
    Overwrite,
    Scenes,
    Scheduler,
    Stack,
    StacQuery,
    Unscale,
    command_line,
    parse_key_values,
    parse_memory_size,
    parse_names,
    parse_part,
    print_result,
    require_checkpoint,
    scenes_of,
)
from cwsam_cli.console import loading
from cwsam_cli.predict.choices import AlphaRule, MapFormat, Normalization, PrecisionChoice, Views

if TYPE_CHECKING:
    from cwsam_cli.predict.work import MapResult


def predict(
    scenes: Scenes,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="The map, a GeoTIFF; a folder for several scenes. Either can be in an object store: s3://bucket/maps.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    overlap: Annotated[
        float, typer.Option("--overlap", min=0, max=0.9, help="Share of a window that its neighbour also sees.")
    ] = 0.25,
    tta: Annotated[
        Views, typer.Option("--tta", help="Average the scores of turned views: 4 with flips, 8 with d4.")
    ] = "none",
    precision: Annotated[
        PrecisionChoice, typer.Option("--precision", help="auto is bf16 if the hardware computes in it.")
    ] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model first, which takes minutes; for large scenes.")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Largest number of windows per batch.")] = 8,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="Main memory for all processes, such as 4GB. Default: 4 GB besides the weights.",
        ),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory", metavar="SIZE", help="Memory of each GPU, such as 20GB. Default: 90 % of what is free."
        ),
    ] = None,
    device: Device = "auto",
    gpus: Gpus = 1,
    scheduler: Scheduler = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="I/N",
            help="Make only the I-th of N shares, for job arrays. Start all N; the last to end completes the map.",
        ),
    ] = None,
    mosaic: Annotated[
        bool, typer.Option("--mosaic", help="Make one map of overlapping scenes; their scores are blended.")
    ] = False,
    bounds: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option("--bounds", metavar="W S E N", help="Map only this rectangle, in the scene's CRS."),
    ] = None,
    aoi: Annotated[
        Path | None, typer.Option("--aoi", help="Map only inside these polygons; the rest is nodata.")
    ] = None,
    assets: Assets = None,
    stac_query: StacQuery = None,
    stack: Stack = None,
    unscale: Unscale = False,
    bands: Bands = None,
    alpha: Annotated[
        AlphaRule | None,
        typer.Option(
            "--alpha",
            help="A band tagged alpha: mask hides pixels, ignore reads it as an image. Default: an image band if the "
            "model has as many bands as the file, or if its values are those of an image.",
        ),
    ] = None,
    normalize: Annotated[
        Normalization,
        typer.Option(
            "--normalize",
            help="Normalise each band by the mean and standard deviation of the training data, or by the scene's own: "
            "for scenes of another season, light or sensor.",
        ),
    ] = "training",
    resample_to_model: Annotated[
        bool, typer.Option("--resample-to-model", help="Map at the pixel size that the model was trained on.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Recognise scenes by their whole content, which reads them once more. "
            "Default: by size, time of change and a sample of the content.",
        ),
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Also write map.confidence.tif: per cent, of the class shown.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write map.probabilities.tif: per cent, one band per class.")
    ] = False,
    entropy: Annotated[
        bool,
        typer.Option("--entropy", help="Also write map.entropy.tif: 0 is certain, 100 is all classes equally likely."),
    ] = False,
    experts: Annotated[
        bool,
        typer.Option("--experts", help="Also write map.experts.tif: the expert group that served the pixel most."),
    ] = False,
    set_size: Annotated[
        bool,
        typer.Option(
            "--set-size",
            help="Also write map.set_size.tif: the number of classes that may be true. The model comes from "
            "`cwsam eval --conformal`.",
        ),
    ] = False,
    min_confidence: Annotated[
        float,
        typer.Option("--min-confidence", min=0, max=100, help="Per cent; a pixel with less is nodata in the map."),
    ] = 0,
    format: Annotated[MapFormat, typer.Option("--format", help="A COG has overviews.")] = "GTiff",
    creation: Annotated[
        list[str] | None, typer.Option("--co", metavar="KEY=VALUE", help="GDAL creation option; repeatable.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option("--preview", metavar="PNG", help="Also draw the map with its legend.")
    ] = None,
    stac: Annotated[
        bool,
        typer.Option(
            "--stac", help="Also write a STAC item, map.json. Several maps also get a collection, collection.json."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, estimate time, memory and disk; write nothing.")
    ] = False,
    no_external: NoExternal = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Classify scenes.

    \b
    $ cwsam predict scene.tif -c save/first/model_epoch_best.pth -o map.tif
    $ cwsam predict 'scenes/*.tif' -c save/first/model_epoch_best.pth -o maps/ --format COG
    $ cwsam predict items.json --assets red,green,blue -c save/first/model_epoch_best.pth -o maps/
    $ cwsam predict 'scenes/*.tif' -c save/first/model_epoch_best.pth --mosaic -o region.tif

    A map lies on its scene's own grid and holds class codes, nodata 255, and the names
    and colours of the classes. A pixel of the scene is nodata if one of these says so:
    nodata value, NaN in any band that is read, mask band, alpha, .msk file. --bounds and
    --aoi give the values of the whole map.

    After a run was killed, the same command continues where it was, also with another
    --gpus, --format or --co, or more memory. With another scene, model or option it starts
    again. Of several scenes, only missing maps are made. If a scene fails, the others
    continue and the exit code is 4. --gpus shares one scene by rows, several by scene; GPUs
    of which none holds the model alone share the model.

    --mosaic makes one map. Where scenes overlap, it shows the class of their mean score, each
    weighted less near its border; nodata of one is filled by others. The order of the scenes
    changes nothing. They must share CRS, pixel size and pixel edges. Otherwise each is mapped,
    and the maps are joined as `cwsam mosaic --by confidence` does.

    \b
    $ sbatch --array=1-8 --wrap 'cwsam predict scene.tif -c best.pth -o map.tif \\
          --part $SLURM_ARRAY_TASK_ID/8'

    Parts share one scene by rows, several by scene. All write to one folder, on a disk that
    all can reach. A part that was killed continues with the same command. Processes that
    torchrun or srun starts are parts without --part; --part 1/1 lets each make all.
    """
    _refuse_launcher(gpus > 1 or scheduler is not None)
    checkpoint = require_checkpoint(checkpoint)
    # oneDNN would keep 1,024 kernels, one for each number of rows that an expert met: 0.5 GB after many windows.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    from cwsam_cli.errors import UsageError
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.raster.sources.uploads import place_output
    from cwsam_cli.raster.sources.views import make_views

    target, upload = place_output(output) if output else (None, "")
    request = MapRequest(
        checkpoint=checkpoint,
        output=target,
        upload=upload,
        overwrite=overwrite,
        command=command_line(),
        overlap=overlap,
        tta=tta,
        precision=precision,
        compile=compile,
        batch_size=batch_size,
        max_memory=parse_memory_size(max_memory, "--max-memory") if max_memory else None,
        gpu_memory=parse_memory_size(gpu_memory, "--gpu-memory") if gpu_memory else None,
        device=device,
        gpus=gpus,
        scheduler=scheduler or "",
        part=parse_part(part) if part else None,
        bounds=bounds,
        aoi=aoi,
        bands=parse_names(bands),
        alpha=alpha,
        normalize=normalize,
        resample_to_model=resample_to_model,
        verify=verify,
        confidence=confidence,
        probabilities=probabilities,
        entropy=entropy,
        experts=experts,
        set_size=set_size,
        min_confidence=min_confidence,
        format=format,
        creation=parse_key_values(creation),
        preview=preview,
        stac=stac,
    )
    named, many = scenes_of(scenes, assets, stac_query)
    if stack or unscale:
        named = make_views(named, stack=stack, unscale=unscale)
        many = many and len(named) > 1
    if output is None and not dry_run:
        raise UsageError("no output is given", hint="say: -o map.tif")
    if mosaic:
        many, request = False, replace(request, scenes=tuple(named))
    elif not many:
        request = request.of_scene(named[0], target)
    if not many:
        if not dry_run:
            request.refuse_early()
    with loading("torch"):
        from cwsam_cli.predict.many import estimate_many, predict_many
        from cwsam_cli.predict.planning import ScenesDiffer
        from cwsam_cli.predict.workers.parts import PartResult, predict_share
    if dry_run:
        try:
            found, failed = estimate_many(request, [""] if mosaic else named)
        except ScenesDiffer as error:
            found, failed = estimate_many(*one_by_one(request, str(error)))
        raw = {"scenes": [asdict(each) for each in found], "failed": failed}
        print_result(raw, "\n".join(each.as_text() for each in found), as_json=as_json)
        if failed:
            raise typer.Exit(FAILED_INPUTS)
        return
    if not many:
        try:
            result = predict_share(request)
        except ScenesDiffer as error:
            map_and_join(request, str(error), as_json=as_json)
            return
        if isinstance(result, PartResult):
            text = f"part {result.part} is finished; pieces that `{result.path}` still lacks: {result.missing:,}"
            print_result(result, text, as_json=as_json)
        elif result is not None:
            print_result(result, _table(result), as_json=as_json)
        return
    made = predict_many(request, named)
    if made is None:
        return
    lines = [_line(result) for result in made.maps]
    lines += [f"{path}: there already" for path in made.present]
    lines += [f"{scene}: failed, {reason}" for scene, reason in made.failed.items()]
    print_result(made, "\n".join(lines), as_json=as_json)
    if made.failed:
        raise typer.Exit(FAILED_INPUTS)


def _refuse_launcher(uses_others: bool) -> None:
    """Stop if torchrun or SLURM started several processes, each of which would use several.

    Raises:
        UsageError: they did.
    """
    from cwsam_cli.distributed.cluster import launcher_environment
    from cwsam_cli.errors import UsageError

    started = int(launcher_environment().get("WORLD_SIZE", "1"))
    if started > 1 and uses_others:
        raise UsageError(
            f"a launcher started {started} processes, and --gpus or --scheduler would use more in each",
            hint="remove --gpus and --scheduler when torchrun or srun starts the processes",
        )


def _line(result: "MapResult") -> str:
    mapped = max(1, sum(result.pixels.values()))
    shares = ", ".join(
        f"{name} {100 * count / mapped:.1f} %"
        for name, count in sorted(result.pixels.items(), key=lambda item: -item[1])
        if count
    )
    return f"{result.path}: {result.width} × {result.height} pixels; {shares or 'no data'}"


def _table(result: "MapResult") -> str:
    """Classes with their ground and their share of it, the largest first."""
    ground, head = (result.hectares, f"hectares ({result.areas})") if result.areas else (result.pixels, "pixels")
    total, width = sum(ground.values()) or 1, max(len("class"), *map(len, ground))
    lines = [f"{result.path}: {result.width} × {result.height} pixels, {result.nodata:,} of them without a class"]
    lines.append(f"  {'class':{width}}  {head:>19}    share")
    for name, value in sorted(ground.items(), key=lambda item: -item[1]):
        lines.append(f"  {name:{width}}  {_number(value):>19}  {100 * value / total:>5.1f} %")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Four digits at least, thousands grouped."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"
