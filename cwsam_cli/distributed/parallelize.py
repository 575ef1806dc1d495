"""Shard a model over processes. No other module shards.

Each encoder block, expert group and decoder layer is one unit of torch's fully sharded data
parallel (FSDP): its weights are gathered for its own passes and released afterwards. The
routers of a layer form one unit. Expert groups are separate units, because one expert block of
the 10B model, gathered at once, would take 2.4 GiB in bf16.

Autocast decides the number formats, as in one process, so several processes compute the same
result. Only experts are gathered in half precision: they are nearly all of a large model and
cast their weights themselves. Norms, tokens and position tables stay in float32.

With expert parallelism, the ranks form a second mesh (fsdp, experts). Along `experts`, each rank
keeps some whole experts of every group, so that a frozen group is spread evenly too. Along
`fsdp`, experts are sharded as above, in units of their own.
Source: Zhao et al., PyTorch FSDP, 2023; torch.distributed.fsdp.fully_shard.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

from cwsam_cli.config.schema import FsdpSettings, Precision
from cwsam_cli.distributed.exchange import TokenExchange
from cwsam_cli.distributed.world import DTYPES
from cwsam_cli.errors import ConfigError
from cwsam_cli.model.experts import ExpertGroup, HierarchicalExperts, expert_layers
from cwsam_cli.model.network import ClassWiseSam


def checkpoint_activations(model: ClassWiseSam) -> None:
    """Make encoder blocks drop their activations and recompute them in the backward pass.

    Call this before `shard`, so that the recomputation reuses the weights that the backward pass
    has gathered. The recomputation runs to its end (`early_stop=False`); otherwise the hooks of
    units inside a block would not run.
    """
    for block in model.image_encoder.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, early_stop=False)


_MOST_AUTO = 16
"""Largest `expert_parallel` that `auto` chooses."""


def choose_expert_parallel(
    wanted: int | Literal["auto"], model: ClassWiseSam, *, processes: int, per_machine: int
) -> int:
    """Decide over how many ranks the experts of each group are distributed.

    Args:
        wanted: `fsdp_settings.expert_parallel` of the configuration.
        model: the model, possibly on the meta device.
        processes: number of ranks.
        per_machine: number of consecutive ranks that share a machine.

    Returns:
        The number of ranks; 1 for a model without experts.

    Raises:
        ConfigError: the wanted number does not divide the number of processes, or of experts per group.
    """
    experts = {layer.experts for _, layer in expert_layers(model)}
    if not experts:
        return 1
    if wanted == "auto":
        common = math.gcd(per_machine, *experts)
        return max(count for count in range(1, _MOST_AUTO + 1) if common % count == 0)
    for what, number in [("processes", processes), *(("experts per group", own) for own in sorted(experts))]:
        if number % wanted:
            raise ConfigError(
                f"`fsdp_settings.expert_parallel` is {wanted}, which does not divide the number of {what} ({number})",
                hint="--set fsdp_settings.expert_parallel=auto",
            )
    return wanted


def shard(
    model: ClassWiseSam,
    mesh: DeviceMesh,
    *,
    precision: Precision,
    settings: FsdpSettings,
    accumulates: bool,
    expert_parallel: int = 1,
) -> None:
    """Shard a model in place, also on the meta device; `assign_weights` then gives it its weights.

    Args:
        model: the model.
        mesh: mesh of one dimension with all processes.
        precision: number format in which experts' weights are gathered.
        settings: `fsdp_settings` of the configuration.
        accumulates: whether a step has several batches. Gradients that are summed over processes only in the
            last one are summed over batches and processes in one format, which is then float32.
        expert_parallel: number of ranks over which the experts of each group are distributed.
    """
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if settings.cpu_offload else OffloadPolicy()
    keep = not settings.reshard_after_forward

    def unit(
        module: nn.Module,
        dtype: torch.dtype = torch.float32,
        *,
        over: DeviceMesh = mesh,
        keep: bool = keep,
        sums_once: bool = True,
    ) -> None:
        fully_shard(
            module,
            mesh=over,
            reshard_after_forward=not keep,
            shard_placement_fn=partial(_placement, size=over.size(), even=settings.shard_experts_evenly),
            mp_policy=MixedPrecisionPolicy(
                param_dtype=dtype,
                reduce_dtype=torch.float32 if accumulates and sums_once else DTYPES[settings.reduce_dtype],
                cast_forward_inputs=False,
            ),
            offload_policy=offload,
        )
        module.is_kept, module.sums_once = keep, sums_once  # type: ignore[assignment] # `shards.units` finds units by them

    expert_mesh = mesh
    if expert_parallel > 1:
        shape = mesh.size() // expert_parallel, expert_parallel
        expert_mesh = init_device_mesh(mesh.device_type, shape, mesh_dim_names=("fsdp", "experts"))
    for _, layer in list(expert_layers(model)):
        layer.is_whole = False
        if expert_parallel > 1:
            _distribute_experts(layer, expert_mesh["experts"])
        for group in layer.groups:
            over = expert_mesh["fsdp"] if expert_parallel > 1 else mesh
            # Experts that no other rank holds send no gradients, so summing them once would only cost memory.
            unit(group, DTYPES[precision], over=over, sums_once=keep and expert_parallel > 1 and over.size() > 1)
        unit(layer)  # what is left of it: the routers
    for block in (*model.image_encoder.blocks, *model.mask_decoder.transformer.layers):
        unit(block)
    unit(model, keep=True)


def _distribute_experts(layer: HierarchicalExperts, mesh: DeviceMesh) -> None:
    """Keep this rank's experts of each group, and let the layer's tokens travel to the experts of the others."""
    for group in cast(Iterable[ExpertGroup], layer.groups):
        for name, parameter in list(group.named_parameters(recurse=False)):
            part = distribute_tensor(parameter.data, mesh, [Shard(0)])
            setattr(group, name, nn.Parameter(part, parameter.requires_grad))
        group.stacks = partial(_local_stacks, group.stacks)  # type: ignore[method-assign]
    layer.exchange = TokenExchange(mesh.get_group(), groups=len(layer.groups), experts=layer.experts // mesh.size())


def _local_stacks(stacks: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(cast(DTensor, stack).to_local() for stack in stacks())


def _placement(parameter: nn.Parameter, *, size: int, even: bool) -> Shard | None:
    """Choose the dimension along which FSDP cuts a weight.

    Experts that are distributed over ranks are cut along their width, because torch supports two cuts of one
    dimension only in part. Other experts' weights (E, out, in) are cut along `out` or `in` if E does not divide
    evenly but one of them does.
    """
    if isinstance(parameter, DTensor):
        return next((Shard(dim) for dim in range(1, parameter.ndim) if parameter.shape[dim] % size == 0), None)
    if even and parameter.ndim == 3 and parameter.shape[0] % size:
        return next((Shard(dim) for dim in (1, 2) if parameter.shape[dim] % size == 0), None)
    return None
