"""Optimizer and learning rate.

The optimizer works on each process's own shards as plain tensors: what it knows of a weight
is then laid out as the weight is, and 8-bit AdamW, which knows nothing of sharding, works too.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cwsam_cli.config.schema import LrFactors, OptimizerConfig
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import MachineError
from cwsam_cli.learning.stages import is_adapter
from cwsam_cli.model.experts import ExpertGroup
from cwsam_cli.model.growth import is_mixture

VALUES_PER_SCALE = 256
"""Values of a weight whose 8-bit averages share a scale."""

MIN_8BIT_VALUES = 4096
"""Values of the smallest weight whose averages 8-bit AdamW keeps in 8 bits, whatever the number of processes."""

Shards = dict[str, nn.Parameter]
"""This process's part of each weight, by name; it shares the weight's memory."""


def local_shards(model: nn.Module) -> Shards:
    """A model's weights as plain tensors: of a sharded one this process's parts, else all of them."""
    with torch.no_grad():
        return {
            name: nn.Parameter(parameter.to_local(), parameter.requires_grad)
            if isinstance(parameter, DTensor)
            else parameter
            for name, parameter in model.named_parameters()
        }


def build_optimizer(
    model: nn.Module, shards: Shards, config: OptimizerConfig, *, stay: Sequence[str] = ()
) -> torch.optim.Optimizer:
    """AdamW; weight matrices decay; norms, biases, tokens and position tables do not.

    Args:
        model: whose modules tell what is a weight matrix.
        shards: of the model.
        config: its `lr_factors` become each parameter group's `lr_factor`.
        stay: further weights without decay; it would shrink what does not wholly learn.

    Raises:
        MachineError: 8-bit AdamW is not installed.
    """
    matrices = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if (isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and name == "weight")
        or (isinstance(module, ExpertGroup) and name.endswith("_weight"))
    } - set(stay)
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if shards[name].numel():  # of a weight with fewer rows than processes, some have no part
            key = name in matrices, lr_factor(name, config.args.lr_factors), parameter.numel() >= MIN_8BIT_VALUES
            groups.setdefault(key, []).append(shards[name])
    rows = [
        {
            "params": own,
            "weight_decay": config.args.weight_decay if decays else 0.0,
            "lr_factor": factor,
            "min_8bit_size": 0 if is_large else math.inf,
        }
        for (decays, factor, is_large), own in groups.items()
    ]
    kind = torch.optim.AdamW if config.name == "adamw" else _adamw8bit()
    optimizer: torch.optim.Optimizer = kind(rows, lr=config.args.lr, betas=config.args.betas)
    return optimizer


def _adamw8bit() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MachineError(
            f"`optimizer.name: adamw8bit` needs bitsandbytes: {error}", hint="pip install bitsandbytes, or use adamw"
        ) from None

    class ByWholeWeight(AdamW8bit):
        """Decides between 8 and 32 bits by each parameter group, where the library goes by the size of a shard."""

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            """The settings of one parameter."""
            config: dict[str, Any] = super().get_config(gindex, pindex, group)  # type: ignore[no-untyped-call]
            return config | {"min_8bit_size": group["min_8bit_size"]}

    return ByWholeWeight


def lr_factor(name: str, factors: LrFactors) -> float:
    """What a weight's learning rate is multiplied by, after the part of the model that it belongs to."""
    if is_mixture(name):
        return factors.experts if ".groups." in name else factors.routers
    if name.startswith("mask_decoder."):
        return factors.decoder
    return factors.adapters if is_adapter(name) else factors.encoder


def take_gradients(model: nn.Module, shards: Shards, frozen: Mapping[str, Sequence[int]]) -> None:
    """Give the shards their weights' gradients.

    Args:
        model: after its backward passes.
        shards: of the model.
        frozen: input bands, by weight, whose filters stay as they are.
    """
    for name, parameter in model.named_parameters():
        shard = shards[name]
        if shard is not parameter:
            shard.grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else None
        if shard.grad is not None and name in frozen:
            shard.grad[:, list(frozen[name])] = 0


def drop_gradients(model: nn.Module, shards: Shards) -> None:
    """Forget all gradients."""
    for holder in (*model.parameters(), *shards.values()):
        holder.grad = None


def gradient_norm(shards: Shards, world: World) -> Tensor:
    """The norm of the whole gradient, over all processes' shards."""
    squares = [shard.grad.square().sum().to(world.device) for shard in shards.values() if shard.grad is not None]
    return world.total(torch.stack([torch.zeros((), device=world.device), *squares]).sum()).sqrt()


def learning_rate(step: int, steps: int, *, lr: float, lr_min: float, warmup: int) -> float:
    """Linear warm-up to `lr`, then half a cosine to `lr_min` at the last step.

    Args:
        step: from 0.
        steps: of the whole run.
        lr: the highest rate.
        lr_min: the last rate.
        warmup: steps of warm-up; never more than a tenth of a short run.
    """
    warmup = min(warmup, steps // 10)
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * min(1.0, done))) / 2
