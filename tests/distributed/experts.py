"""What the processes of `test_expert_parallel.py` do."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from cwsam_cli.checkpoints.checkpoint import Checkpoint, save_checkpoint
from cwsam_cli.checkpoints.pretrained import open_pretrained
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.distributed.layout import layout_of
from cwsam_cli.distributed.shards import sharded_like
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.learner import Learner
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.taxonomy import from_names
from cwsam_cli.train.start import build_learner, restore_learner, save_state
from cwsam_cli.train.state import StateWriter
from tests.distributed import workers

BAND_NAMES = [f"band_{i}" for i in range(workers.BANDS)]
IDENTITY: dict[str, Any] = {"classes": list("abcd")}
SAVED_AFTER = 2


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


def checksums(learner: Learner, world: World) -> list[int]:
    """Return sums over the bits of all weights, averages and AdamW's averages. They do not depend on the sharding."""
    parameters = dict(learner.model.named_parameters())
    held: list[torch.Tensor] = [*parameters.values()]
    held += [sharded_like(parameters[name], value) for name, value in learner.average.items()]
    for name, shard in learner.shards.items():
        if isinstance(learner.optimizer, torch.optim.AdamW):
            own = learner.optimizer.state.get(shard) or {}  # nothing for an empty shard
            held += [
                sharded_like(parameters[name], own.get(key, torch.zeros_like(shard, requires_grad=False)))
                for key in ("exp_avg", "exp_avg_sq")
            ]
    sums = []
    for tensor in held:
        place = layout_of(tensor).slices(tensor.shape, world.rank)
        index = torch.arange(tensor.numel()).view(tensor.shape)[place]
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        sums.append(((local.detach().contiguous().view(torch.int32).long() + 1) * (index * 2654435761 + 1)).sum())
    return world.total(torch.stack(sums)).tolist()


Ending = tuple[list[int], list[float]]
"""Checksums of everything when the state was saved or read, and the losses of the steps after that."""


def save(world: World, cases: dict[str, dict[str, Any]], folder: str) -> dict[str, Ending]:
    """Take two steps of each case, save its state, and go on."""
    endings = {}
    for name, case in cases.items():
        config, learner = workers.begin(world, case)
        for number in range(SAVED_AFTER):
            workers.step(world, config, learner, number, world.size, rate=1e-3)
        writer = StateWriter(Path(folder) / name / "last", world)
        save_state(writer, config, learner, world, identity=IDENTITY, progress={})
        writer.wait()
        endings[name] = checksums(learner, world), _losses(world, case, learner)
    return endings


def resume(world: World, case: dict[str, Any], folder: str, name: str) -> Ending:
    """Read a state that `save` wrote, and go on."""
    config, state = workers.configuration(case), Path(folder) / name / "last"
    learner, _ = restore_learner(state, config, arch_of(case), world, band_names=BAND_NAMES, identity=IDENTITY)
    return checksums(learner, world), _losses(world, case, learner)


def _losses(world: World, case: dict[str, Any], learner: Learner) -> list[float]:
    """Return the losses of a step; with 8-bit averages, which have no checksums, of two."""
    config = workers.configuration(case)
    numbers = range(SAVED_AFTER, SAVED_AFTER + (2 if config.optimizer.name == "adamw8bit" else 1))
    return [workers.step(world, config, learner, number, world.size, rate=1e-3).loss for number in numbers]


def write(world: World, case: dict[str, Any], folder: str) -> str:
    """Return a hash of the checkpoint that the processes write."""
    _, learner = workers.begin(world, case)
    path = Path(folder) / "model.pth"
    weights = dict(learner.model.named_parameters()) | dict(learner.model.named_buffers())
    save_checkpoint(describe(arch_of(case), weights), path, world)
    return hashlib.sha256(path.read_bytes()).hexdigest() if world.is_main else ""


def grow(world: World, case: dict[str, Any], path: str) -> tuple[list[int], float]:
    """Return checksums of the model that grows from a checkpoint, and the largest share of it on a process."""
    source = open_pretrained(path) if world.is_main else None
    config = workers.configuration(case)
    learner, _ = build_learner(config, arch_of(case), world, source, band_names=BAND_NAMES, class_names=list("abcd"))
    held = torch.zeros(world.size)
    held[world.rank] = sum(shard.numel() for shard in learner.shards.values())
    held = world.total(held)
    return checksums(learner, world), float(held.max() / held.sum())


def count_collectives(world: World, case: dict[str, Any]) -> dict[str, int]:
    """Count the collective operations of a step, which is not the first one."""
    config, learner = workers.begin(world, case)
    workers.step(world, config, learner, 0, world.size)
    with _Counter() as found:
        workers.step(world, config, learner, 0, world.size)
    return found.counts


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        c10d = torch.ops.c10d
        self._kinds = {
            c10d._allgather_base_.default: "gather",
            c10d._reduce_scatter_base_.default: "reduce",
            c10d.alltoall_base_.default: "exchange",
        }
        self.counts = dict.fromkeys(self._kinds.values(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._kinds:
            self.counts[self._kinds[func]] += 1
        return func(*args, **kwargs or {})


Calls = dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]
"""Functions of this module or of `workers`, with their arguments after the world."""


def call_all(world: World, calls: Calls) -> dict[str, Any]:
    """Return the results of several functions, because processes take long to start."""
    return {key: worker(world, *arguments) for key, (worker, arguments) in calls.items()}
