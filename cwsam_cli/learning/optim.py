"""Build the optimizer and compute the learning rate.

The optimizer works on each process's own shards as plain tensors. Its state is then laid out
like the weights, and 8-bit AdamW, which does not support sharding, works too.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cwsam_cli.config.schema import LrFactors, OptimizerConfig
from cwsam_cli.distributed.layout import is_sharded
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import MachineError
from cwsam_cli.learning.stages import is_adapter
from cwsam_cli.model.experts import ExpertGroup
from cwsam_cli.model.growth import is_mixture

VALUES_PER_SCALE = 256
"""Values that share one scale in 8-bit AdamW."""

MIN_8BIT_VALUES = 4096
"""Smallest weight, in values before sharding, whose averages 8-bit AdamW keeps in 8 bits."""

Shards = dict[str, nn.Parameter]
"""This process's shard of each weight by name. A shard shares the memory of its weight."""


def local_shards(model: nn.Module) -> Shards:
    """Return this process's shard of each weight as a plain tensor; whole weights if the model is not sharded."""
    with torch.no_grad():
        return {
            name: nn.Parameter(parameter.to_local(), parameter.requires_grad) if is_sharded(parameter) else parameter
            for name, parameter in model.named_parameters()
        }


def build_optimizer(
    model: nn.Module, shards: Shards, config: OptimizerConfig, *, stay: Sequence[str] = ()
) -> torch.optim.Optimizer:
    """Build AdamW. Only weight matrices decay, not norms, biases, tokens and position tables.

    Args:
        model: the model. Its modules decide which weights are matrices.
        shards: this process's shards of the model.
        config: settings of the optimizer. Each parameter group gets its `lr_factor`.
        stay: further weights without decay. Decay would shrink their frozen parts.

    Returns:
        The optimizer over the shards.

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
        if shards[name].numel():  # if a weight has fewer rows than processes, some shards are empty
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
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about kernels that are not used here
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MachineError(
            f"`optimizer.name: adamw8bit` needs bitsandbytes: {error}", hint="pip install bitsandbytes, or use adamw"
        ) from None

    class ByWholeWeight(AdamW8bit):
        """8-bit AdamW that chooses 8 or 32 bits per parameter group; the library chooses by the size of a shard."""

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            """Return the settings of one parameter."""
            config: dict[str, Any] = super().get_config(gindex, pindex, group)  # type: ignore[no-untyped-call]
            return config | {"min_8bit_size": group["min_8bit_size"]}

    return ByWholeWeight


def lr_factor(name: str, factors: LrFactors) -> float:
    """Return the factor of a weight's learning rate, by the part of the model it belongs to."""
    if is_mixture(name):
        return factors.experts if ".groups." in name else factors.routers
    if name.startswith("mask_decoder."):
        return factors.decoder
    return factors.adapters if is_adapter(name) else factors.encoder


def take_gradients(model: nn.Module, shards: Shards, frozen: Mapping[str, Sequence[int]]) -> None:
    """Copy the gradients of the weights to the shards.

    Args:
        model: the model after its backward passes.
        shards: this process's shards of the model.
        frozen: input bands whose filters do not learn, by name of the weight. Their gradients become 0.
    """
    for name, parameter in model.named_parameters():
        shard = shards[name]
        if shard is not parameter:
            shard.grad = (
                parameter.grad.to_local() if parameter.grad is not None and is_sharded(parameter.grad) else None
            )
        if shard.grad is not None and name in frozen:
            shard.grad[:, list(frozen[name])] = 0


def drop_gradients(model: nn.Module, shards: Shards) -> None:
    """Free all gradients."""
    for holder in (*model.parameters(), *shards.values()):
        holder.grad = None


def compute_gradient_norm(shards: Shards, world: World) -> Tensor:
    """Compute the norm of the full gradient over the shards of all processes."""
    squares = [shard.grad.square().sum().to(world.device) for shard in shards.values() if shard.grad is not None]
    return world.total(torch.stack([torch.zeros((), device=world.device), *squares]).sum()).sqrt()


def learning_rate(step: int, steps: int, *, lr: float, lr_min: float, warmup: int) -> float:
    """Compute the learning rate of a step: linear warm-up to `lr`, then half a cosine down to `lr_min`.

    Args:
        step: number of the step, from 0.
        steps: steps of the whole run.
        lr: highest learning rate.
        lr_min: learning rate at the last step.
        warmup: steps of warm-up, limited to a tenth of `steps`.
    """
    warmup = min(warmup, steps // 10)
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * min(1.0, done))) / 2
