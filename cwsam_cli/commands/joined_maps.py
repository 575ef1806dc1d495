"""What `cwsam predict --mosaic` does if scores cannot be blended: map each scene, and join the maps.

It uses the packages of two commands, which do not import each other.
"""

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from cwsam_cli.commands.options import FAILED_INPUTS, print_result
from cwsam_cli.console import log

if TYPE_CHECKING:
    from cwsam_cli.predict.request import MapRequest


def map_and_join(request: "MapRequest", reason: str, *, as_json: bool) -> None:
    """Map each scene, and join the maps by their confidence.

    Args:
        request: for a mosaic of scenes.
        reason: why their scores cannot be blended.
        as_json: print the result as JSON.

    Raises:
        UsageError: an option needs scenes whose scores can be blended.
    """
    from cwsam_cli.mosaic.pipeline import mosaic
    from cwsam_cli.mosaic.request import MosaicRequest
    from cwsam_cli.mosaic.result import format_result
    from cwsam_cli.predict.many import predict_many
    from cwsam_cli.raster.sources.scenes import scene_names

    single, scenes = one_by_one(request, reason)
    folder = request.target.with_name(f".{request.target.name}.maps")
    made = predict_many(replace(single, output=folder), scenes)
    if made is None:
        return
    if made.failed:
        print_result(made, "\n".join(f"{scene}: failed, {why}" for scene, why in made.failed.items()), as_json=as_json)
        raise typer.Exit(FAILED_INPUTS)
    joined = mosaic(
        MosaicRequest(
            maps=tuple(str(folder / f"{name}.tif") for name in scene_names(scenes)),
            output=request.target,
            by="confidence",
            overwrite=request.overwrite,
            command=request.command,
        )
    )
    shutil.rmtree(folder)
    print_result(joined, format_result(joined), as_json=as_json)


def one_by_one(request: "MapRequest", reason: str) -> "tuple[MapRequest, tuple[str, ...]]":
    """Return the request for maps of single scenes, and the scenes that are to be mapped. Warn of it.

    Args:
        request: for a mosaic of scenes.
        reason: why their scores cannot be blended.

    Raises:
        UsageError: an option needs scenes whose scores can be blended.
    """
    from cwsam_cli.distributed.cluster import launcher_environment
    from cwsam_cli.errors import UsageError
    from cwsam_cli.predict.planning import scenes_on

    needing = {
        "--bounds": request.bounds,
        "--preview": request.preview,
        "--part": request.part or int(launcher_environment().get("WORLD_SIZE", "1")) > 1,
        "--co": request.creation,
        "--stac": request.stac,
        "an output in an object store": request.upload,
    } | {f"--{kind.replace('_', '-')}": True for kind in request.kinds}
    if option := next((name for name, value in needing.items() if value), None):
        raise UsageError(
            f"{reason}, and {option} needs scenes on one grid",
            hint=f"leave {option} out, or bring the scenes onto one grid: gdalwarp",
        )
    log.warning("%s, so each is mapped, and where maps overlap the most confident one is shown", reason)
    scenes = tuple(scenes_on(request.aoi, request.scenes)) if request.aoi else request.scenes
    return replace(request, scenes=(), confidence=True), scenes
