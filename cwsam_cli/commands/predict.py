"""`cwsam predict`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cwsam_cli.commands.options import (
    Checkpoint,
    Device,
    Gpus,
    Json,
    Overwrite,
    checkpoint_given,
    command_line,
    key_values,
    memory_size,
    print_result,
)
from cwsam_cli.console import loading

if TYPE_CHECKING:
    from cwsam_cli.predict.pipeline import MapResult

_DATA = 4  # exit code: of many scenes some failed


def predict(
    scenes: Annotated[
        list[str],
        typer.Argument(metavar="SCENE", help="Images, folders, patterns, a .txt of paths, URLs, /vsizip/ paths."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The map, a GeoTIFF; a folder for several scenes.")
    ] = None,
    checkpoint: Checkpoint = None,
    overlap: Annotated[
        float, typer.Option("--overlap", min=0, max=0.9, help="Share of a window that its neighbour sees too.")
    ] = 0.25,
    window: Annotated[
        str, typer.Option("--window", help="How windows fade to their edges: hann or gaussian.")
    ] = "hann",
    blend: Annotated[str, typer.Option("--blend", help="What is averaged: logits or probabilities.")] = "logits",
    tta: Annotated[str, typer.Option("--tta", help="Average over turned views: none, flips (4), d4 (8).")] = "none",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16, or auto: bf16 where the hardware has it.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Windows at a time, at most.")] = 8,
    max_memory: Annotated[
        str | None,
        typer.Option("--max-memory", metavar="SIZE", help="Main memory, say 4GB. Default: that beside the weights."),
    ] = None,
    device: Device = "auto",
    gpus: Gpus = 1,
    bounds: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option("--bounds", metavar="W S E N", help="Map only this, in the scene's CRS."),
    ] = None,
    aoi: Annotated[Path | None, typer.Option("--aoi", help="Polygons; outside is nodata.")] = None,
    bands: Annotated[
        str | None, typer.Option("--bands", help="The scene's bands in the model's order: 3,2,1 or red,green,blue.")
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option("--alpha", help="A band tagged alpha: mask, or ignore the tag. Default: by its values."),
    ] = None,
    resample_to_model: Annotated[
        bool, typer.Option("--resample-to-model", help="Map at the pixel size that the model was trained on.")
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Also map.confidence.tif: per cent, of the class shown.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also map.probabilities.tif: per cent, a band a class.")
    ] = False,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Also map.entropy.tif: 0 sure, 100 all classes alike.")
    ] = False,
    experts: Annotated[
        bool, typer.Option("--experts", help="Also map.experts.tif: the expert group that served the pixel most.")
    ] = False,
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", min=0, max=100, help="Per cent; below, the map shows nodata.")
    ] = 0,
    format: Annotated[str, typer.Option("--format", help="GTiff, or COG with overviews.")] = "GTiff",
    creation: Annotated[
        list[str] | None, typer.Option("--co", metavar="KEY=VALUE", help="GDAL creation option; repeatable.")
    ] = None,
    preview: Annotated[Path | None, typer.Option("--preview", help="Also a PNG of the map with its legend.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, estimate time, memory and disk; write nothing.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Classify scenes.

    \b
    $ cwsam predict scene.tif -c save/first/model_epoch_best.pth -o map.tif
    $ cwsam predict 'scenes/*.tif' -c save/first/model_epoch_best.pth -o maps/ --format COG

    A map lies on its scene's own grid: class codes, nodata 255, the classes' colours
    and names. Nodata of the scene stays nodata. Killed, the same command goes on where
    it was; several scenes, only what is missing is made.
    """
    checkpoint = checkpoint_given(checkpoint)
    # oneDNN would keep 1024 kernels, one for each number of rows that an expert met: 0.5 GB after many windows.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    from cwsam_cli.errors import UsageError
    from cwsam_cli.predict.request import MapOptions, refuse_early
    from cwsam_cli.raster.sources import expand

    options = MapOptions(
        overlap=overlap,
        window=window,
        blend=blend,
        tta=tta,
        precision=precision,
        batch_size=batch_size,
        max_memory=memory_size(max_memory, "--max-memory") if max_memory else None,
        device=device,
        bounds=bounds,
        aoi=aoi,
        bands=tuple(band.strip() for band in bands.split(",")) if bands else (),
        alpha=alpha,
        resample_to_model=resample_to_model,
        confidence=confidence,
        probabilities=probabilities,
        entropy=entropy,
        experts=experts,
        min_confidence=min_confidence,
        format=format,
        creation=key_values(creation),
        preview=preview,
        gpus=gpus,
    )
    named, many = expand(scenes)
    if output is None and not dry_run:
        raise UsageError("no output is given", hint="say: -o map.tif")
    if output is not None and not many and not dry_run:
        refuse_early(named[0], checkpoint, output, options, overwrite=overwrite)
    with loading("torch"):
        from cwsam_cli.predict.many import estimate_many, predict_many
        from cwsam_cli.predict.pipeline import predict as run
    if output is None or dry_run:
        found, failed = estimate_many(named, checkpoint, options)
        for remark in (remark for each in found for remark in each.warnings):
            typer.echo(f"warning: {remark}", err=True)
        raw = {"scenes": [asdict(each) for each in found], "failed": failed}
        print_result(raw, "\n".join(each.as_text() for each in found), as_json=as_json)
        if failed:
            raise typer.Exit(_DATA)
        return
    if not many:
        result = run(named[0], checkpoint, output, options, overwrite=overwrite, command=command_line())
        print_result(result, _line(result), as_json=as_json)
        return
    archive = predict_many(named, checkpoint, output, options, overwrite=overwrite, command=command_line())
    lines = [_line(result) for result in archive.maps]
    lines += [f"{path}: there already" for path in archive.present]
    lines += [f"{scene}: failed, {reason}" for scene, reason in archive.failed.items()]
    print_result(archive, "\n".join(lines), as_json=as_json)
    if archive.failed:
        raise typer.Exit(_DATA)


def _line(result: "MapResult") -> str:
    mapped = max(1, sum(result.pixels.values()))
    shares = ", ".join(
        f"{name} {100 * count / mapped:.1f} %"
        for name, count in sorted(result.pixels.items(), key=lambda item: -item[1])
        if count
    )
    return f"{result.path}: {result.width} × {result.height} pixels; {shares or 'no data'}"
