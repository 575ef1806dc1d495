"""The calls that a worker of a Dask cluster answers: plan a scene, and make pieces of its map.

A worker process keeps the model of its latest call, so it reads the weights once. It makes one stretch of pieces at a
time, however many threads Dask gives it.
"""

import os
import threading
from dataclasses import replace
from typing import cast

import rasterio
import torch

from cwsam_cli import console
from cwsam_cli.checkpoints.newest import refuse_missing
from cwsam_cli.distributed.scheduler import worker_index
from cwsam_cli.distributed.world import choose_device
from cwsam_cli.errors import CheckpointError, DataError, MachineError
from cwsam_cli.predict.choices import PrecisionChoice
from cwsam_cli.predict.pieces import make_stretch, open_planned
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.planning import make_plan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Lockstep, Model
from cwsam_cli.predict.scoring.scorer import Scorer
from cwsam_cli.raster.sources.fingerprint import fingerprint
from cwsam_cli.raster.sources.network import gdal_settings

_lock = threading.Lock()
_models: dict[object, Model] = {}
_scorers: dict[object, Scorer | Lockstep] = {}


def plan_scene(request: MapRequest) -> MapPlan:
    """Plan the map of a scene for workers of this kind.

    Args:
        request: of the map; its paths hold here.

    Raises:
        CwsamError: see `make_plan`.
    """
    with _lock:
        model = _open_model(request)
    return replace(make_plan(request, model), threads=torch.get_num_threads())


def make_pieces_of(plan: MapPlan, stretch: tuple[int, int, int]) -> tuple[int, list[tuple[int, bytes]]]:
    """Make pieces of a map.

    Args:
        plan: of the map; the paths of its request hold here.
        stretch: column, first row and last row of the pieces.

    Returns:
        The column, and row and packed bytes of each piece.

    Raises:
        DataError: this worker sees another scene than that of the plan.
        CheckpointError: likewise another checkpoint.
        MachineError: this worker computes otherwise than the plan says.
    """
    request = replace(plan.request, precision=cast(PrecisionChoice, plan.precision))
    with _lock:
        _refuse_other_scene(plan)
        model = _open_model(request)
        if model.digest != plan.checkpoint_sha256:
            raise CheckpointError(
                f"a worker sees another `{model.path}`", hint="give all workers the same file at the same path"
            )
        if model.device.type != plan.device:
            raise MachineError(
                f"some workers have a device of type {plan.device}, others of type {model.device.type}",
                hint="give workers with a GPU the resource GPU=1, or use workers of one kind",
            )
        if plan.threads:
            torch.set_num_threads(plan.threads)
        return stretch[0], make_stretch(plan, _read_scorer(request, model), stretch, device=model.device)


def _refuse_other_scene(plan: MapPlan) -> None:
    expected = [(plan.of_scene(placed), placed.fingerprint) for placed in plan.scenes]
    for own, known in expected or [(plan, plan.scene_fingerprint)]:
        name = own.request.scene
        with rasterio.Env(**gdal_settings(name)), open_planned(own) as scene:
            seen = fingerprint(name, scene.original or scene.dataset, whole=plan.request.verify)
        if seen != known:
            raise DataError(
                f"a worker sees another `{name}`, or it has changed",
                hint="give all workers the same file at the same path",
            )


def _open_model(request: MapRequest) -> Model:
    refuse_missing(request.checkpoint)
    status = request.checkpoint.stat()
    key = (request.checkpoint, status.st_mtime_ns, status.st_size, request.device, request.precision, request.gpus)
    if key not in _models:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # see commands/predict.py
        if not console.log.handlers:
            console.setup(0)
        device = choose_device(request.device)
        if device.type != "cpu":
            device = torch.device(device.type, worker_index() % torch.get_device_module(device).device_count())
        model = Model.open(request, device=device)
        _models.clear()
        _models[key] = model
    return _models[key]


def _read_scorer(request: MapRequest, model: Model) -> Scorer | Lockstep:
    key = (model.digest, model.device, model.precision, request.tta, request.compile, request.experts)
    if key not in _scorers:
        _scorers.clear()  # before the weights are read, or both would need memory
        _scorers[key] = model.scorer(request)
    return _scorers[key]
