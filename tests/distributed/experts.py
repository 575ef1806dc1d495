"""What the processes of `test_expert_parallel.py` do."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint, save_checkpoint
from cwsam_cli.checkpoints.pretrained import open_pretrained
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.distributed.parallelize import gather_tensor, sharded_like
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.learner import Learner
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.taxonomy import from_names
from cwsam_cli.train.start import build_learner, restore_learner, save_state
from cwsam_cli.train.state import StateWriter
from tests.distributed import workers

BAND_NAMES = [f"band_{i}" for i in range(workers.BANDS)]
IDENTITY: dict[str, Any] = {"classes": list("abcd")}
SAVED_AFTER, STEPS = 3, 5


def arch_of(case: dict[str, Any]) -> Architecture:
    return architecture(workers.configuration(case).model, num_bands=workers.BANDS, num_classes=workers.CLASSES)


def describe(arch: Architecture, weights: dict[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint(
        weights=weights,
        architecture=arch,
        taxonomy=from_names(list("abcd")),
        bands=tuple(Band(name=name, mean=0.0, std=1.0) for name in BAND_NAMES),
        dtype="uint8",
        gsd_m=None,
        ignore_background=False,
        epoch=1,
        metrics={},
    )


def contents(learner: Learner, world: World) -> dict[str, torch.Tensor]:
    """All whole weights, averages and the optimizer's averages of 32 bits."""
    parameters = dict(learner.model.named_parameters())
    held: dict[str, torch.Tensor] = {f"model/{name}": tensor for name, tensor in parameters.items()}
    held |= {f"average/{name}": sharded_like(parameters[name], value) for name, value in learner.average.items()}
    for name, parameter in parameters.items():
        for key in ("exp_avg", "exp_avg_sq"):
            own = learner.optimizer.state.get(learner.shards[name]) or {"": None}
            if isinstance(learner.optimizer, torch.optim.AdamW) and parameter.requires_grad:
                value = own.get(key, torch.zeros_like(learner.shards[name]))  # no state without a part
                held[f"{key}/{name}"] = sharded_like(parameter, value)
    return {name: gather_tensor(tensor.detach(), world.device) for name, tensor in held.items()}


def digest(learner: Learner, world: World) -> str:
    sha = hashlib.sha256()
    for tensor in contents(learner, world).values():
        sha.update(tensor.contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()


Ending = tuple[str, list[float]]
"""A hash of everything when the state was saved or read, and the losses of the steps after that."""


def save(world: World, cases: dict[str, dict[str, Any]], folder: str) -> dict[str, Ending]:
    """Take three steps of each case, save its state, and take two more."""
    endings = {}
    for name, case in cases.items():
        config, learner = workers.begin(world, case)
        for number in range(SAVED_AFTER):
            workers.step(world, config, learner, number, world.size, rate=1e-3)
        writer = StateWriter(Path(folder) / name / "last", world)
        save_state(writer, config, learner, world, identity=IDENTITY, progress={})
        writer.wait()
        endings[name] = digest(learner, world), _losses(world, case, learner)
    return endings


def resume(world: World, cases: dict[str, dict[str, Any]], folder: str) -> dict[str, Ending]:
    """Read the state that a key's first word names, and take the two steps. Keys are `SAVED resumed as`."""
    endings = {}
    for name, case in cases.items():
        learner, _ = restore_learner(
            Path(folder) / name.split()[0] / "last",
            workers.configuration(case),
            arch_of(case),
            world,
            band_names=BAND_NAMES,
            identity=IDENTITY,
        )
        endings[name] = digest(learner, world), _losses(world, case, learner)
    return endings


def _losses(world: World, case: dict[str, Any], learner: Learner) -> list[float]:
    config = workers.configuration(case)
    return [
        workers.step(world, config, learner, number, world.size, rate=1e-3).loss for number in range(SAVED_AFTER, STEPS)
    ]


def written(world: World, cases: dict[str, dict[str, Any]], folder: str) -> dict[str, str]:
    """A hash of the checkpoint that each case's processes write."""
    hashes = {}
    for name, case in cases.items():
        _, learner = workers.begin(world, case)
        path = Path(folder) / "model.pth"
        weights = dict(learner.model.named_parameters()) | dict(learner.model.named_buffers())
        save_checkpoint(describe(arch_of(case), weights), path, world)
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest() if world.is_main else ""
        world.barrier()
    return hashes


def grown(world: World, case: dict[str, Any], path: str) -> tuple[str, float]:
    """A hash of the model that grows from a checkpoint, and the largest share of it on a process."""
    source = open_pretrained(path) if world.is_main else None
    config = workers.configuration(case)
    learner, _ = build_learner(config, arch_of(case), world, source, band_names=BAND_NAMES, class_names=list("abcd"))
    held = torch.zeros(world.size)
    held[world.rank] = sum(shard.numel() for shard in learner.shards.values())
    held = world.total(held)
    return digest(learner, world), float(held.max() / held.sum())


def all_at_once(world: World, calls: dict[str, tuple[str, tuple[Any, ...]]]) -> dict[str, Any]:
    """What several functions of this module or of `workers` return: processes take long to start."""
    return {
        key: getattr(workers if name in ("learn", "overflow") else __import__(__name__, fromlist=[name]), name)(
            world, *arguments
        )
        for key, (name, arguments) in calls.items()
    }
