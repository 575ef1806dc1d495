"""Share a model out over processes: the only place that shards.

Each encoder block, each expert group and each decoder layer is a unit of torch's fully
sharded data parallel: its weights are gathered for its own passes and let go again. A whole
expert block of the 10B model gathered at once would be 2.4 GiB in bf16, so groups are units
of their own. Routers are one unit a
layer.

Autocast decides the number formats, as it does in one process, so that many compute what one
does. Only experts, which are nearly all of a large model and cast their weights themselves,
are gathered in half precision; norms, tokens and position tables keep their float32.
Source: Zhao et al., PyTorch FSDP, 2023; torch.distributed.fsdp.fully_shard.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import broadcast, is_initialized
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

from cwsam_cli.config.schema import FsdpSettings, Precision
from cwsam_cli.model.experts import ExpertGroup, HierarchicalExperts
from cwsam_cli.model.network import ClassWiseSam

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def checkpoint_activations(model: ClassWiseSam) -> None:
    """Let encoder blocks forget their activations and compute them again in the backward pass.

    Before `shard`, so that the second forward pass gathers nothing anew that the backward
    pass has gathered. It runs to its end: units inside a block would else miss theirs.
    """
    for block in model.image_encoder.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, early_stop=False)


def shard(
    model: ClassWiseSam, mesh: DeviceMesh, *, precision: Precision, settings: FsdpSettings, accumulates: bool
) -> None:
    """Share a model out; on the meta device too.

    Args:
        model: becomes sharded in place; `assign_weights` gives it its weights.
        mesh: one dimension, all processes.
        precision: in which experts' weights are gathered.
        settings: of the configuration.
        accumulates: a step has several batches. Weights other than experts sum their gradients over the
            batches in the format in which they are then summed over the processes, so that is float32.
    """
    reduced = DTYPES[settings.reduce_dtype]
    reduced_once = torch.float32 if accumulates else reduced
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if settings.cpu_offload else OffloadPolicy()

    def unit(
        module: nn.Module | list[nn.Module],
        dtype: torch.dtype = torch.float32,
        *,
        keep: bool = False,
    ) -> None:
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=settings.reshard_after_forward and not keep,
            shard_placement_fn=partial(_placement, size=mesh.size(), even=settings.shard_experts_evenly),
            mp_policy=MixedPrecisionPolicy(
                param_dtype=dtype,
                reduce_dtype=reduced if isinstance(module, ExpertGroup) else reduced_once,
                cast_forward_inputs=False,
            ),
            offload_policy=offload,
        )

    for layer in [module for module in model.modules() if isinstance(module, HierarchicalExperts)]:
        for group in layer.groups:
            unit(group, DTYPES[precision])
        unit([*layer.routers, *([layer.group_router] if layer.group_router else [])])
    for block in (*model.image_encoder.blocks, *model.mask_decoder.transformer.layers):
        unit(block)
    unit(model, keep=True)


def _placement(parameter: nn.Parameter, *, size: int, even: bool) -> Shard | None:
    """Experts' weights (E, out, in) are cut along `out` or `in` where that is even and cutting along E is not."""
    if even and parameter.ndim == 3 and parameter.shape[0] % size:
        return next((Shard(dim) for dim in (1, 2) if parameter.shape[dim] % size == 0), None)
    return None


def assign_weights(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], device: torch.device) -> Iterator[str]:
    """Give a model its weights, one tensor at a time; a sharded one gets them from the first process.

    Args:
        model: laid out in memory, its values undefined.
        tensors: all the model's tensors by name, the same names in the same order in every
            process; elsewhere than in the first one they may be on the meta device.
        device: of this process.

    Yields:
        Each name, once its tensor is where it belongs.
    """
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in tensors:
        target = targets[name]
        value = torch.empty(tensor.shape, device=device) if tensor.is_meta else tensor.to(device)
        with torch.no_grad():
            if isinstance(target, DTensor):
                part = distribute_tensor(value.contiguous(), target.device_mesh, target.placements)
                target.to_local().copy_(part.to_local())
            else:
                if is_initialized():
                    broadcast(value, src=0)
                target.copy_(value)
        yield name


def gather_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor put together from its shards, in every process, on `device`; a plain one as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    part = DTensor.from_local(
        tensor.to_local().to(device),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
    return part.full_tensor()


def sharded_like(parameter: nn.Parameter, local: Tensor) -> Tensor:
    """A tensor of a weight's shape from this process's part of it; a plain one where the weight is plain.

    The part stays where it is: `DTensor.from_local` would copy one that is offloaded to the GPU.
    """
    if not isinstance(parameter, DTensor):
        return local
    return DTensor(local, parameter._spec, requires_grad=False)


def sync_gradients(model: nn.Module, *, last: bool) -> None:
    """Sum gradients over the processes only in the last of the batches that a step accumulates.

    Expert groups sum theirs every time: kept whole until the last, the 10B model's would fill
    40 GB in every process. One process has nothing to sum.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule) and not isinstance(module, ExpertGroup):
            module.set_requires_gradient_sync(last, recurse=False)


def refresh_units(model: nn.Module) -> None:
    """Let each unit see what learns now.

    A unit decides on its gradients' number format when it is first gathered, by the weights that learn
    then. One whose weights were all frozen keeps none, and fails when they begin to learn.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def release_gathered(model: nn.Module) -> None:
    """Drop gathered weights after a forward pass without a backward one: they would outlive a change of the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
