"""Work with a model that may be sharded, and with its weights.

Nothing here imports torch's sharding, which takes 2 CPU seconds that one process does not need. A sharded tensor and a
unit of FSDP are recognised by their attributes.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cwsam_cli.distributed.layout import is_sharded, layout_of

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

    class Unit(FSDPModule):
        """A unit of FSDP, with the attributes that `parallelize.shard` gives it."""

        sums_once: bool
        is_kept: bool


def units(model: nn.Module) -> "Iterator[Unit]":
    """Yield the modules of a model whose weights `parallelize.shard` made a unit of FSDP."""
    for module in model.modules():
        if hasattr(module, "sums_once"):
            yield module  # type: ignore[misc]


def assign_weights(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], device: torch.device) -> Iterator[str]:
    """Copy weights into a model, one tensor at a time. All processes get the first process's values.

    Args:
        model: model with allocated, undefined weights.
        tensors: all tensors of the model by name, in the same order in every process. In all but
            the first process they may be on the meta device.
        device: device of this process.

    Yields:
        Each name, after its tensor was copied.
    """
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in tensors:
        target = targets[name]
        is_received = dist.is_initialized() and dist.get_rank() > 0
        if is_received or tensor.is_meta:  # broadcasting writes into the tensor, which may be the caller's
            value = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        else:
            value = tensor.to(device).contiguous()
        if dist.is_initialized():
            dist.broadcast(value, src=0)
        with torch.no_grad():
            if is_sharded(target):
                target.to_local().copy_(value[layout_of(target).slices(value.shape, dist.get_rank())])
            else:
                target.copy_(value)
        yield name


def gather_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    """Gather a sharded tensor in every process, on `device`. A plain tensor is returned as it is.

    torch's own `full_tensor` does not support experts that are distributed and then divided unevenly.
    """
    if not is_sharded(tensor):
        return tensor
    layout = layout_of(tensor)
    places = [layout.slices(tensor.shape, rank) for rank in range(layout.processes)]
    whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    largest = max(whole[place].numel() for place in places)
    own, parts = whole.new_zeros(largest), whole.new_empty(layout.processes, largest)
    local = tensor.to_local()
    own[: local.numel()] = local.flatten()
    dist.all_gather([*parts], own)
    for part, place in zip(parts, places, strict=True):
        target = whole[place]
        target.copy_(part[: target.numel()].view(target.shape))
    return whole


def sharded_like(parameter: nn.Parameter, local: Tensor) -> Tensor:
    """Wrap this process's shard as a tensor that is sharded like a weight. If the weight is plain, return it as is.

    The shard stays on its device. `DTensor.from_local` would copy an offloaded one to the GPU.
    """
    if not is_sharded(parameter):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor(local, parameter._spec, requires_grad=False)


def begin_batch(model: nn.Module, *, last: bool) -> None:
    """Sum gradients over the processes, and release kept weights, only in the last batch of a step.

    Without expert parallelism, experts sum their gradients after every batch. Unsharded until the
    last batch, the gradients of the 10B model's experts would take 40 GB in every process. With
    expert parallelism over 8 processes they take 5 GB, so experts that are kept sum them once.

    Args:
        model: the model. Without shards, nothing changes.
        last: whether the batch that begins is the last one of the step.
    """
    for module in units(model):
        if module.sums_once:
            module.set_requires_gradient_sync(last, recurse=False)
        if module.is_kept:
            module.set_reshard_after_backward(last, recurse=False)


def refresh_units(model: nn.Module) -> None:
    """Make each unit notice which weights learn now.

    When a unit is first gathered, it sets the number format of its gradients from the weights that
    learn then. If all were frozen, it sets none, and fails when they start to learn.
    """
    for module in units(model):
        module.unshard()
        module.reshard()


def release_gathered(model: nn.Module) -> None:
    """Release weights still gathered after a forward pass without a backward pass; they go stale if shards change."""
    for module in units(model):
        module.reshard()
