"""Make maps on a Dask cluster: workers plan scenes and make pieces; this process alone writes journals and maps."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from cwsam_cli.console import track
from cwsam_cli.distributed.scheduler import LOCAL, Workers, connect
from cwsam_cli.distributed.world import World, choose_device
from cwsam_cli.journal import Journal
from cwsam_cli.predict.mapfile import read_tally
from cwsam_cli.predict.pieces import join_pieces
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.work import MapResult, is_ready, make_map_by, result_of
from cwsam_cli.predict.workers.calls import make_pieces_of, plan_scene
from cwsam_cli.raster.mapfile import BLOCK

_SHARES = 3  # stretches per slot: a slow worker does not leave the end waiting, and few windows are seen twice
_LONGEST = 16  # pieces that the death of a worker costs
_BYTES = 128 << 20  # of a stretch before it is packed

_writing = threading.Lock()


@contextmanager
def workers_of(request: MapRequest) -> Iterator[Workers]:
    """Connect to the cluster of a request."""
    on_gpu = request.scheduler == LOCAL and choose_device(request.device).type != "cpu"
    with connect(request.scheduler, processes=request.gpus, on_gpu=on_gpu) as workers:
        yield workers


def predict_on_cluster(request: MapRequest) -> MapResult:
    """Classify a scene; see `work.predict`."""
    with workers_of(request) as workers:
        plan = plan_on(workers, request)
        if is_ready(plan):
            return result_of(plan, read_tally(plan))
        return make_on(workers, plan)


def plan_on(workers: Workers, request: MapRequest) -> MapPlan:
    """Let a worker plan the map of a scene."""
    return replace(workers.call(plan_scene, request.for_workers()), request=request)


def make_on(workers: Workers, plan: MapPlan, *, scenes: int = 1) -> MapResult:
    """Let workers make the pieces of a map.

    Args:
        workers: of the cluster.
        plan: of the map.
        scenes: number of scenes that the workers have to map.
    """

    def work(plan: MapPlan, kept: Journal) -> None:
        missing = [(column, row) for column, row in plan.pieces if (row, column) not in kept.pieces]
        away = replace(plan, request=plan.request.for_workers())
        longest = _stretch_length(plan, len(missing) * scenes, workers.slots)
        calls = [(away.for_stretch(stretch), stretch) for stretch in join_pieces(missing, longest)]
        bar = track(range(len(missing)), "predicting", unit="piece") if scenes == 1 else iter(())
        with kept.appending() as append:
            for column, pieces in workers.each(make_pieces_of, calls):
                for row, packed in pieces:
                    append(row, column, packed, is_packed=True)
                    next(bar, None)
        next(bar, None)

    return make_map_by(work, plan, World(torch.device("cpu")), writing=_writing)


def _stretch_length(plan: MapPlan, pieces: int, slots: int) -> int:
    """Number of pieces of a stretch: as many as leave each slot some, because each stretch sees some windows again."""
    width = plan.col_cuts[1] - plan.col_cuts[0]
    shares = _SHARES * slots if slots > 1 else 1
    return max(1, min(-(-pieces // shares), _LONGEST, _BYTES // (BLOCK * width * plan.layers.count)))
