"""One training step on ranks and a device that are only imagined.

The model is laid out for real by `parallelize`, over torch's `fake` process group; forward
pass, loss and backward pass are the training code's own, on torch's fake tensors, which have
shapes and no bytes; `live` counts them. A thousand ranks cost no more than two; of encoder
blocks that are alike only some run, and count as often as there are such. Assumed is that
each expert serves its even share of the tokens, and that a GPU's kernels need little beside
their results (cuDNN and cuBLAS use some workspace; the plan's reserve is for that).
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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
from cwsam_cli.distributed.parallelize import checkpoint_activations, shard
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.loop import backward_passes
from cwsam_cli.learning.losses import BatchTotals
from cwsam_cli.model.experts import HierarchicalExperts, expert_layers
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.plan.live import Bytes, LiveStorages


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """What rank 0 holds, and its worst moment; where a tensor does not divide evenly, its share is the largest."""

    shards: tuple[int, ...]
    """Values of each parameter on rank 0."""
    learning: tuple[tuple[int, int], ...]
    """The same, of those that learn, and the values of the whole parameter."""
    unevenness: float
    """Rank 0's share against the mean."""
    worst: Bytes
    """Beside those, their gradients and the optimizer's state."""
    activations: int
    """At the moment that is worst for them."""


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
    """Lay a model out and run one step of it.

    Args:
        arch: the model.
        learning: names of the parameters that learn.
        gpus: ranks; one is not sharded at all.
        batch: images a rank.
        loss: as in `model.args.loss`.
        smoothing: as in `model.args.label_smoothing`.
        settings: precision, checkpointing, and how many batches a step has.
        fsdp: how it is sharded; whether it is offloaded changes nothing here.
        device: `cuda` or `cpu`: autocast keeps other operations in float32 on each.
    """
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    mean = sum(parameter.numel() for parameter in model.parameters()) / gpus
    for _, layer in expert_layers(model):
        layer._rows = functools.partial(_even_rows, layer)  # type: ignore[method-assign]
    if device == "cuda":
        for module in (model, *model.image_encoder.blocks):  # blocks of their own: they may be computed again
            module.forward = functools.partial(_with_cuda_autocast, module.forward)
    if settings.activation_checkpointing:
        checkpoint_activations(model)
    with _fake_ranks(gpus) as mesh:
        if mesh is not None:
            shard(model, mesh, precision=settings.precision, settings=fsdp, accumulates=settings.grad_accum_steps > 1)
        held = [(_local_size(own), own.numel(), own.requires_grad) for own in model.parameters()]
        order = _leave_out_repetitions(model)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            image = torch.empty(batch, arch.num_bands, arch.inp_size, arch.inp_size)
            label = torch.empty(batch, arch.inp_size, arch.inp_size, dtype=torch.uint8)
            args = ModelArgs(loss=loss, label_smoothing=smoothing)
            batches = [(image, label)] * settings.grad_accum_steps
            live = run_tracked_passes(model, batches, gpus=gpus, args=args, settings=settings, order=order)
    return SimulatedStep(
        shards=tuple(size for size, _, _ in held),
        learning=tuple((size, whole) for size, whole, learns in held if learns),
        unevenness=sum(size for size, _, _ in held) / mean,
        worst=live.worst,
        activations=live.most_activations,
    )


def run_tracked_passes(
    model: ClassWiseSam,
    batches: list[Batch],
    *,
    gpus: int = 1,
    args: ModelArgs,
    settings: TrainingSettings,
    order: list[int] | None = None,
) -> LiveStorages:
    """Run a step's passes on a CPU and count what is alive; the gradients are let go.

    Args:
        model: in training mode; its tensors may be real or imagined.
        batches: of the step.
        gpus: ranks, of which this is the first.
        args: the loss.
        settings: precision.
        order: numbers of the encoder's blocks and its neck, as a deeper model would run them.
    """
    world = World(torch.device("cpu"), size=gpus)
    weights, totals = (
        torch.ones(model.arch.num_classes),
        BatchTotals(torch.ones(()), torch.ones(()), torch.ones(len(batches))),
    )
    encoder = model.image_encoder
    with LiveStorages(model, [*encoder.blocks, encoder.neck], order) as live:
        here = [(image.clone(), label.clone()) for image, label in batches]  # as they come to a device
        backward_passes(model, here, world, args=args, settings=settings, weights=weights, totals=totals)
    return live


def _leave_out_repetitions(model: ClassWiseSam) -> list[int]:
    """Take encoder blocks out for which another can stand: alike, and between such as theirs.

    What comes and goes in a block depends on what it is and on its neighbours: while it runs
    backwards, the one before is gathered and the one behind is summed.

    Returns:
        The number of what stands for each block that there was, and that of the neck.
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
    """A mesh of which only the first rank exists; none for one rank."""
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


def _even_rows(layer: HierarchicalExperts, chosen: Tensor) -> list[list[int]]:
    """As many slots for each expert, in place of counting them."""
    slots, experts = chosen.numel(), len(layer.groups) * layer.experts
    ends = [slots * index // experts for index in range(experts + 1)]
    rows = [end - start for start, end in pairwise(ends)]
    return [rows[start : start + layer.experts] for start in range(0, experts, layer.experts)]


def _with_cuda_autocast(forward: Callable[..., Tensor], *args: Tensor) -> Tensor:
    with _CudaAutocast():
        return forward(*args)


class _CudaAutocast(TorchFunctionMode):
    """CUDA's autocast out of a CPU's: softmax and layer norm in float32.

    Of the operations on CUDA's list these are the ones that the model has under autocast.
    """

    _FLOAT32 = (torch.softmax, Tensor.softmax, F.layer_norm, torch.layer_norm)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Widen the arguments of the operations on the list."""
        if func in self._FLOAT32 and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return func(*tree_map(_widened, args), **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
