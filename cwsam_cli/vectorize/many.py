"""Many maps → a folder of layers, here or on a Dask cluster; a map that fails does not stop the others."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cwsam_cli.console import log, setup
from cwsam_cli.distributed.scheduler import LostScheduler, connect, count_cores
from cwsam_cli.errors import CwsamError, OutputExists, UsageError, log_failure
from cwsam_cli.files import refuse_unseen
from cwsam_cli.raster.mapfile import without_layers
from cwsam_cli.raster.sources.external import is_forbidden, refuse_external
from cwsam_cli.raster.sources.network import path_or_name
from cwsam_cli.raster.sources.scenes import scene_names
from cwsam_cli.vectorize.pipeline import vectorize
from cwsam_cli.vectorize.request import VectorizeRequest
from cwsam_cli.vectorize.result import VectorizeResult


@dataclass(frozen=True, slots=True)
class Layers:
    """What became of many maps."""

    layers: list[VectorizeResult]
    present: list[Path]
    """Layers that were there before and stay as they are."""
    failed: dict[str, str]
    """Reasons, by map."""


def vectorize_many(
    make_request: Callable[[Path | str, Path], VectorizeRequest],
    maps: Sequence[str],
    folder: Path,
    suffix: str,
    scheduler: str = "",
) -> Layers:
    """Turn maps into polygons, one layer per map.

    Args:
        make_request: returns the request for a map and its output.
        maps: paths of the maps. Layers that `predict` wrote beside them are left out.
        folder: where the layers are written, with the maps' names.
        suffix: of the layers' files.
        scheduler: see `connect`; each worker then writes to the folder. Empty works in this process.

    Raises:
        UsageError: the folder is a file, or an option has a value that it cannot have.
        MachineError: the scheduler does not answer.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"`{folder}` is a file, and several maps need a folder", hint="name a folder: -o layers/")
    maps = without_layers(maps)
    requests, present = [], []
    failed: dict[str, str] = {}
    for path, name in zip(maps, scene_names(maps), strict=True):
        output = folder / f"{name}{suffix}"
        try:
            requests.append(make_request(path_or_name(path), output))
        except OutputExists as error:
            if output.exists():
                present.append(output)
            else:  # only the STAC item of another layer is there
                failed[path] = str(log_failure(error))
    if present:
        log.warning("layers that were there before stay as they are: %d; --overwrite makes them again", len(present))
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Path | str, VectorizeResult | CwsamError] = {}
    with ExitStack() as stack:
        workers = stack.enter_context(connect(scheduler, processes=count_cores())) if scheduler and requests else None

        def make(number: int, request: VectorizeRequest) -> None:
            log.info("%d/%d `%s` → `%s`", number, len(requests), request.map_path, request.output)
            try:
                if workers and is_forbidden():  # a worker does not know the options of this process
                    for path in (request.map_path, *request.statistics.values()):
                        refuse_external(str(path))
                found[request.map_path] = (
                    replace(workers.call(vectorize_at_worker, request.for_workers()), path=request.output)
                    if workers
                    else vectorize(request)
                )
            except LostScheduler:
                raise
            except Exception as error:
                found[request.map_path] = log_failure(error)

        if workers:
            workers.in_threads(make, requests)
        else:
            for number, request in enumerate(requests, start=1):
                make(number, request)
    results = [(request, found[request.map_path]) for request in requests]
    return Layers(
        [result for _, result in results if isinstance(result, VectorizeResult)],
        present,
        failed | {str(request.map_path): str(result) for request, result in results if isinstance(result, CwsamError)},
    )


def vectorize_at_worker(request: VectorizeRequest) -> VectorizeResult:
    """Turn a map into polygons in a worker of a cluster.

    Args:
        request: its paths hold here.

    Raises:
        CwsamError: see `vectorize`.
        MachineError: this worker does not see the output's folder, which the process that asks has made.
    """
    if not log.handlers:
        setup(-1)  # this process shows no progress
    refuse_unseen(request.output.parent)
    return vectorize(request)
