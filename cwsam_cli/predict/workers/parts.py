"""Make a share of the maps beside other runs of the same command, which torchrun, srun or a job array started.

Parts of one map share its journal, and the part that ends last writes the map. Processes that share a model, because
no device holds it, work as those of `--gpus` do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch

from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.checkpoints.exported import is_onnx
from cwsam_cli.distributed.cluster import launcher_environment
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.scheduler import LOCAL, count_cores
from cwsam_cli.distributed.world import World, choose_device, choose_local_device, refuse_missing_gpus
from cwsam_cli.files import reserved
from cwsam_cli.journal import Journal, folder_of, part_of_journal, parts_are_running
from cwsam_cli.predict.mapfile import is_made, read_tally, refuse_others
from cwsam_cli.predict.memory import must_be_shared
from cwsam_cli.predict.pieces import make_pieces
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.planning import make_plan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Model
from cwsam_cli.predict.scoring.onnx import refuse_torch_options
from cwsam_cli.predict.work import (
    MapResult,
    can_follow,
    deliver,
    is_ready,
    make_map_by,
    make_share,
    predict,
    result_of,
    sweep_targets,
    write_files,
)
from cwsam_cli.predict.workers.fleet import predict_on_cluster


@dataclass(frozen=True, slots=True)
class PartResult:
    """What a part has done for a map that is not complete yet."""

    path: Path | str
    part: str
    """Number of this part and number of parts, such as `2/3`."""
    missing: int
    """Number of pieces that other parts have to make."""


def predict_share(request: MapRequest) -> MapResult | PartResult | None:
    """Classify a scene, or a part of it.

    Returns:
        The map. A part that is not the last to end has no map. None in all processes but the first of those that
        torchrun or srun started to share a model.

    Raises:
        CwsamError: see `predict`. A part is also refused if it differs from the others.
    """
    request = take_place(request)
    if request.scheduler:
        request.refuse_early()
        return predict_on_cluster(request)
    if request.is_part:
        request.refuse_early()
        return _make_part(request)
    if request.gpus > 1 and launcher_environment():
        request.refuse_early()
        return launch(_predict_together, request, cluster=request.cluster)
    return predict(request)


def take_place(request: MapRequest) -> MapRequest:
    """Decide how the work is shared, unless the request says it.

    Processes that torchrun or srun started are parts. Several processes of this machine are workers of a local
    cluster. But if no device holds the model, all processes share it.

    Raises:
        UsageError: there are fewer GPUs than processes, or an exported model would need several.
        MachineError: even a part of the model is too large for a device.
    """
    environment = launcher_environment()
    size = int(environment.get("WORLD_SIZE", "1"))
    if request.part is not None or request.scheduler not in ("", LOCAL):
        return request
    if size == 1:
        return _take_workers(request)
    rank = int(environment["RANK"])
    if is_onnx(request.checkpoint):
        return replace(request, part=(rank + 1, size))
    device = choose_local_device(request.device, int(environment["LOCAL_RANK"]), rank)
    if must_be_shared(load_checkpoint(request.checkpoint), device, size):
        return replace(request, gpus=size)
    return replace(request, part=(rank + 1, size), device=str(device))


def _take_workers(request: MapRequest) -> MapRequest:
    if not request.scheduler and request.gpus == 1:
        return request
    if is_onnx(request.checkpoint):
        refuse_torch_options(request)
    device, count = choose_device(request.device), request.gpus
    if count == 1:
        count = count_cores() if device.type == "cpu" else torch.get_device_module(device).device_count()
    refuse_missing_gpus(device, count)
    is_shared = must_be_shared(load_checkpoint(request.checkpoint), device, count)
    return replace(request, gpus=count, scheduler="" if is_shared else LOCAL)


def _make_part(request: MapRequest) -> MapResult | PartResult:
    """Make the pieces of a part, and the map if no other part has anything left to do."""
    assert request.part is not None
    (number, parts), output = request.part, request.target
    model = Model.open(request)
    plan = make_plan(request, model)
    if not is_made(plan):
        plan.log_warnings()
        refuse_others(plan)
        with part_of_journal(output, plan.key, plan.to_json(), part=number, misfit=partial(_misfit, plan)) as opened:
            plan = plan.cut_like(MapPlan.from_json(opened.plan))
            if not is_made(plan):  # another part may have written the map while this one waited for it
                score = model.scorer(request)
                make_pieces(plan, score, opened, device=model.device, rank=number - 1, world=parts, is_part=True)
    with reserved(output, wait_s=inf):  # another part may be looking, or writing the map
        kept = Journal(folder_of(output), {})
        kept.scan()
        is_last = not parts_are_running(output)
        if is_last:
            sweep_targets(request)
        if not is_made(plan):
            missing = sum((row, column) not in kept.pieces for column, row in plan.pieces)
            if missing or not is_last:
                return PartResult(request.place, f"{number}/{parts}", missing)
            result = write_files(plan, kept)
            kept.remove()
            deliver(plan)
            return result
        if is_last:  # a part was killed when only its journal was left
            kept.remove()
            deliver(plan)
    return result_of(plan, read_tally(plan))


def _misfit(plan: MapPlan, raw: Mapping[str, Any]) -> str:
    """Return what another part's plan of the same map has that this part cannot follow, or nothing."""
    if not can_follow(plan, raw):
        return "more memory or larger batches"
    own, other = plan.request, MapPlan.from_json(raw).request
    has_form = (own.format, dict(own.creation)) == (other.format, dict(other.creation))
    return "" if has_form else "another --format or --co"


def _predict_together(world: World, request: MapRequest) -> MapResult | None:
    """Make a map in one of the processes of torchrun or srun that share a model; the first keeps the journal."""
    if not world.is_main:
        with world.pause_watchdog():
            task = world.agree(None)
        if task is not None:
            make_share(world, *task)
        return None
    with world.pause_watchdog():  # hashing a large scene may take long
        model = Model.open(request, device=world.device)
        plan = make_plan(request, model)
        if is_ready(plan):
            world.agree(None)
            return result_of(plan, read_tally(plan))

    def work(plan: MapPlan, kept: Journal) -> None:
        world.agree((plan, kept.folder))
        make_share(world, plan, kept.folder)

    return make_map_by(work, plan, world)
