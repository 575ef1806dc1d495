"""Simulate one training step on any number of ranks, without memory for its tensors.

`parallelize` shards the real model over torch's `fake` process group. The training code itself
runs the forward pass, the loss and the backward pass on torch's fake tensors, which have shapes
but no bytes, and `live` counts them. A thousand ranks take no longer than two. Of identical
encoder blocks only some run; their counts are repeated for the others.

torch's own FSDPMemTracker (2.13) is not used. For the 10B model on 8 ranks it found 0.986 × these
bytes in 98 CPU s instead of 11, and it refuses a step of several batches.

Two assumptions: each expert serves an equal share of the tokens, and GPU kernels need no memory
besides their results. The reserve of the estimate covers the workspace of cuDNN and cuBLAS.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_map

from cwsam_cli.config.schema import FsdpSettings, Loss, ModelArgs, TrainingSettings
from cwsam_cli.dataset.loader import Batch
from cwsam_cli.distributed.parallelize import checkpoint_activations, choose_expert_parallel, shard
from cwsam_cli.distributed.shards import refresh_units
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.loop import backward_passes
from cwsam_cli.learning.losses import BatchTotals
from cwsam_cli.model import grouped
from cwsam_cli.model.experts import Exchange, HierarchicalExperts, RunGroups, expert_layers
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.plan.cards import MACHINE
from cwsam_cli.plan.live import LiveBytes, LiveStorages
from cwsam_cli.plan.work import StepWork


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """Memory of a simulated step on rank 0, whose shards are the largest."""

    shards: tuple[int, ...]
    """Number of values of each parameter on rank 0."""
    learning: tuple[tuple[int, int], ...]
    """For each parameter that learns: its values on rank 0, and its values in total."""
    unevenness: float
    """Rank 0's share of all values, divided by the mean share."""
    worst: LiveBytes
    """Bytes at the peak, besides weights, gradients and optimizer state."""
    activations: int
    """Largest bytes of activations at any moment."""
    work: StepWork
    """Work of the whole step."""


@functools.cache
def simulate_step(
    arch: Architecture,
    learning: frozenset[str],
    *,
    gpus: int,
    batch: int,
    loss: Loss,
    smoothing: float,
    settings: TrainingSettings,
    fsdp: FsdpSettings,
    device: str,
) -> SimulatedStep:
    """Simulate one training step of a model.

    Args:
        arch: architecture of the model.
        learning: names of the parameters that learn.
        gpus: number of ranks. One rank is not sharded.
        batch: images per rank.
        loss: as in `model.args.loss`.
        smoothing: as in `model.args.label_smoothing`.
        settings: precision, activation checkpointing and batches per step. Only the first batches and the last
            one are simulated, because those between them cost the same.
        fsdp: settings of the sharding; `cpu_offload` changes nothing here.
        device: `cuda` or `cpu`, whose autocast keeps different operations in float32.
    """
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    mean = sum(parameter.numel() for parameter in model.parameters()) / gpus
    for _, layer in expert_layers(model):
        layer.run_groups = functools.partial(run_evenly, layer)  # type: ignore[method-assign]
    if device == "cuda":
        for module in (
            model,
            *model.image_encoder.blocks,
        ):  # blocks separately, because checkpointing may run them again
            module.forward = functools.partial(_with_cuda_autocast, module.forward)
    if settings.activation_checkpointing:
        checkpoint_activations(model)
    expert_parallel = resolve_expert_parallel(arch, fsdp, gpus=gpus)
    with _fake_ranks(gpus) as mesh:
        if mesh is not None:
            shard(
                model,
                mesh,
                precision=settings.precision,
                settings=fsdp,
                accumulates=settings.grad_accum_steps > 1,
                expert_parallel=expert_parallel,
            )
            for _, layer in expert_layers(model):
                layer.exchange = layer.exchange and _EvenExchange(layer.exchange, expert_parallel)
        held = [(_local_size(own), own.numel(), own.requires_grad) for own in model.parameters()]
        order = _leave_out_repetitions(model)
        with FakeTensorMode(allow_non_fake_inputs=True), _experts_as_on(device):
            model.to_empty(device="cpu")
            for _, layer in expert_layers(model) if device == "cuda" and gpus == 1 else ():
                layer.pack()  # moving a layer to a GPU packs it
            refresh_units(model)  # as training does; otherwise FSDP's first pass copies unevenly divided weights
            image = torch.empty(batch, arch.num_bands, arch.inp_size, arch.inp_size)
            label = torch.empty(batch, arch.inp_size, arch.inp_size, dtype=torch.uint8)
            args = ModelArgs(loss=loss, label_smoothing=smoothing)
            # Without resharding, the first batch gathers all weights and the others none.
            batches = [(image, label)] * min(settings.grad_accum_steps, 2 if fsdp.reshard_after_forward else 3)
            live = run_tracked_passes(model, batches, gpus=gpus, args=args, settings=settings, order=order)
    return SimulatedStep(
        shards=tuple(size for size, _, _ in held),
        learning=tuple((size, whole) for size, whole, learns in held if learns),
        unevenness=sum(size for size, _, _ in held) / mean,
        worst=live.worst,
        activations=live.most_activations,
        work=live.work(settings.grad_accum_steps),
    )


@functools.cache
def resolve_expert_parallel(arch: Architecture, fsdp: FsdpSettings, *, gpus: int) -> int:
    """Return the number of GPUs over which the experts of each group are distributed.

    Raises:
        ConfigError: `fsdp_settings.expert_parallel` does not fit the model or the number of GPUs.
    """
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    per_machine = gpus if gpus <= MACHINE else math.gcd(gpus, MACHINE)
    return choose_expert_parallel(fsdp.expert_parallel, model, processes=gpus, per_machine=per_machine)


def run_tracked_passes(
    model: ClassWiseSam,
    batches: list[Batch],
    *,
    gpus: int = 1,
    args: ModelArgs,
    settings: TrainingSettings,
    order: list[int] | None = None,
) -> LiveStorages:
    """Run the passes of a step on the CPU and count the live bytes. The gradients are released.

    Args:
        model: model in training mode, with real or fake tensors.
        batches: batches of the step.
        gpus: number of ranks; this is rank 0.
        args: settings of the loss.
        settings: precision.
        order: numbers of the encoder's blocks and its neck in the order in which a deeper model runs
            them; see `LiveStorages`.
    """
    world = World(torch.device("cpu"), size=gpus)
    weights, totals = (
        torch.ones(model.arch.num_classes),
        BatchTotals(torch.ones(()), torch.ones(()), torch.ones(len(batches))),
    )
    encoder = model.image_encoder
    with LiveStorages(model, [*encoder.blocks, encoder.neck], order) as live:
        here = [(image.clone(), label.clone()) for image, label in batches]  # as copied to a device
        backward_passes(model, here, world, args=args, settings=settings, weights=weights, totals=totals)
    return live


def _leave_out_repetitions(model: ClassWiseSam) -> list[int]:
    """Remove encoder blocks that another block can represent: a block of the same kind with the same neighbours.

    The neighbours matter because FSDP, in the backward pass of a block, gathers the block before it
    and sums the gradients of the block after it.

    Returns:
        For each original block, and for the neck, the number of the remaining one that represents it.
    """
    encoder, described = model.image_encoder, list[tuple[Any, ...]]()
    later = ("blocks.", "neck.")
    learns = any(own.requires_grad for name, own in encoder.named_parameters() if not name.startswith(later))
    for block in encoder.blocks:
        weights = [(name, own.requires_grad) for name, own in block.named_parameters()]
        described.append((block.window_size, learns, *weights))
        learns = learns or any(own for _, own in weights)
    kinds = [described.index(kind) for kind in described]
    numbers, cases = list(range(len(kinds))), _with_neighbours(kinds)
    for length in reversed(numbers):
        for start in reversed(range(len(kinds))):
            fewer = numbers[:start] + numbers[start + length :]
            if set(_with_neighbours([kinds[number] for number in fewer])) == set(cases):
                numbers = fewer
    there = _with_neighbours([kinds[number] for number in numbers])
    encoder.blocks = nn.ModuleList(encoder.blocks[number] for number in numbers)
    return [*map(there.index, cases), len(numbers)]


def _with_neighbours(kinds: list[int]) -> list[tuple[int | None, ...]]:
    return list(zip([None, *kinds], kinds, [*kinds[1:], None], strict=False))


@contextmanager
def _fake_ranks(count: int) -> Iterator[DeviceMesh | None]:
    """Make a mesh in which only rank 0 exists; None for one rank."""
    if count == 1:
        yield None
        return
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        dist.destroy_process_group()


def _local_size(parameter: Tensor) -> int:
    return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()


def run_evenly(layer: HierarchicalExperts, slots: Tensor, numbers: Tensor, sizes: list[int] | None = None) -> Tensor:
    """Run the groups of a layer as if its experts shared the slots evenly. Nothing is counted or read."""
    if sizes is None:
        numbers = torch.arange(len(numbers)) * (len(layer.groups) * layer.experts) // max(len(numbers), 1)
        sizes = _evenly(len(numbers), len(layer.groups))
    return HierarchicalExperts.run_groups(layer, slots, numbers, sizes)


def _evenly(slots: int, parts: int) -> list[int]:
    ends = [-(-slots * part // parts) for part in range(parts + 1)]
    return [end - start for start, end in pairwise(ends)]


class _EvenExchange:
    """Exchange in which each expert gets an equal number of rows from each rank, instead of counting them."""

    def __init__(self, exchange: Exchange, ranks: int) -> None:
        self._exchange, self._ranks = exchange, ranks

    def number(self, chosen: Tensor) -> Tensor:
        """Renumber experts; see `TokenExchange`."""
        return self._exchange.number(chosen)

    def __call__(self, slots: Tensor, numbers: Tensor, run: RunGroups) -> Tensor:
        """Bring slots to their experts and back; see `TokenExchange`."""

        def read(sent: Tensor, received: Tensor) -> tuple[list[int], list[list[int]]]:
            rows, own = _evenly(len(slots), len(sent)), len(sent) // self._ranks
            return [sum(rows[start : start + own]) for start in range(0, len(rows), own)], [rows[:own]] * self._ranks

        with mock.patch.object(self._exchange, "read", read):
            return self._exchange(slots, numbers, run)


def _experts_as_on(device: str) -> AbstractContextManager[Any]:
    """Let expert layers add biases to all rows at once, as on a GPU; on a CPU they do it in blocks."""
    return mock.patch.object(grouped, "_BLOCK_BYTES", sys.maxsize) if device == "cuda" else nullcontext()


def _with_cuda_autocast(forward: Callable[..., Tensor], *args: Tensor) -> Tensor:
    with _CudaAutocast():
        return forward(*args)


class _CudaAutocast(TorchFunctionMode):
    """Mode that makes the CPU's autocast behave like CUDA's: softmax and layer norm run in float32.

    The model uses no other operation of CUDA's float32 list under autocast.
    """

    _FLOAT32 = (torch.softmax, Tensor.softmax, F.layer_norm, torch.layer_norm)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Convert the arguments of these operations to float32."""
        if func in self._FLOAT32 and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return func(*tree_map(_widened, args), **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
