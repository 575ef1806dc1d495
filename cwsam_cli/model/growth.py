"""Grow a dense model, or a small mixture, into a larger mixture of experts.

# E experts per group, D width

Every expert of the larger model starts from the same block of the smaller one. Group 0 equals
the smaller model's experts, or copies of its MLP. The experts of further groups are
interpolations of two base experts, base experts with noise, or both. Each tensor has a random
generator seeded by its name and the seed, so the result does not depend on the order of the
tensors or the number of processes.
Source: Komatsuzaki et al., Sparse Upcycling, 2023.
"""

import hashlib
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from cwsam_cli.config.schema import UpcycleConfig
from cwsam_cli.errors import CheckpointError

ROUTER_STD = 0.02
BASE_BIAS = 4.0
"""Bias of the group router for group 0. With two chosen groups, group 0 gets a weight of about 0.98."""

_EXPERT = re.compile(r"(?P<layer>.+\.mlp)\.groups\.(?P<group>\d+)\.(?P<lin>lin[12])_(?P<kind>weight|bias)")
_ROUTER = re.compile(r"(?P<layer>.+\.mlp)\.routers\.(?P<group>\d+)\.weight")
_GROUP_ROUTER = re.compile(r"(?P<layer>.+\.mlp)\.group_router\.(?P<kind>weight|bias)")
_DENSE = re.compile(r"(?P<layer>.+\.mlp)\.(?P<lin>lin[12])\.(?P<kind>weight|bias)")

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class GrownTensor:
    """A tensor of the larger model's experts or routers."""

    value: Tensor
    source: str
    """Name of the tensor it was made from; empty if there is none."""
    note: str
    """How it was made, for the report."""


def is_mixture(name: str) -> bool:
    """Check whether a tensor belongs to experts or routers."""
    return any(pattern.fullmatch(name) for pattern in (_EXPERT, _ROUTER, _GROUP_ROUTER))


def shrink(name: str, source: Weights) -> GrownTensor | None:
    """Make a tensor of a dense MLP from the first expert of the checkpoint's expert layer.

    Args:
        name: name of the dense tensor.
        source: weights of the checkpoint.

    Returns:
        The tensor, or None if the checkpoint has no experts there.
    """
    match = _DENSE.fullmatch(name)
    origin = f"{match['layer']}.groups.0.{match['lin']}_{match['kind']}" if match else ""
    return GrownTensor(source[origin][0], origin, "expert 0 alone") if origin in source else None


def grow(
    name: str, shape: torch.Size, source: Weights, groups: int, config: UpcycleConfig, seed: int
) -> GrownTensor | None:
    """Make one tensor of experts or routers from the weights of a smaller model.

    Args:
        name: name of the tensor in the larger model.
        shape: shape of the tensor in the larger model.
        source: weights of the smaller model, under the names of our model.
        groups: number of groups in the layer of the larger model.
        config: how new experts are made.
        seed: seed of the random numbers.

    Returns:
        The tensor, or None if the smaller model has no such layer.

    Raises:
        CheckpointError: width or number of experts per group differ.
    """
    if match := _EXPERT.fullmatch(name):
        return _grow_expert(name, match, shape, source, groups, config, seed)
    if match := _ROUTER.fullmatch(name):
        return _grow_router(name, match, shape, source, config, seed)
    match = _GROUP_ROUTER.fullmatch(name)
    return _grow_group_router(name, match, shape, source, seed) if match else None


def _grow_group_router(
    name: str, match: re.Match[str], shape: torch.Size, source: Weights, seed: int
) -> GrownTensor | None:
    """Keep the rows of existing groups. New rows are random, with the smallest bias of the existing groups."""
    layer, kind = match["layer"], match["kind"]
    if not _has_layer(source, layer):
        return None
    learned = source.get(name)
    if learned is not None and learned.shape == shape:
        return GrownTensor(learned, name, "loaded")
    if kind == "weight":
        value = torch.randn(shape, generator=_generator(seed, name)) * ROUTER_STD
    else:
        value = torch.zeros(shape)
        value[0] = BASE_BIAS
    if learned is None:
        return GrownTensor(value, "", "drawn" if kind == "weight" else "favours group 0")
    if kind == "bias":
        value = torch.full(shape, float(learned.min()))
    value[: len(learned)] = learned.float()
    return GrownTensor(value, name, f"keeps {len(learned)} groups' rows, {len(value) - len(learned)} are new")


def equal_bases(source: Weights, layer: str) -> bool:
    """Check whether all base experts of a layer are equal, so that only noise makes new ones differ."""
    return f"{layer}.groups.0.lin1_weight" not in source


def _grow_expert(
    name: str,
    match: re.Match[str],
    shape: torch.Size,
    source: Weights,
    groups: int,
    config: UpcycleConfig,
    seed: int,
) -> GrownTensor | None:
    layer, group, lin, kind = match["layer"], int(match["group"]), match["lin"], match["kind"]
    if name in source and source[name].shape == shape:
        return GrownTensor(source[name], name, "loaded")
    base_name = f"{layer}.groups.0.{lin}_{kind}"
    dense_name = f"{layer}.{lin}.{kind}"
    origin = base_name if base_name in source else dense_name
    if origin not in source:
        return None
    base = source[origin]
    experts = shape[0]
    if origin == dense_name:
        base = base[None]
    if base.shape[1:] != shape[1:]:
        raise CheckpointError(
            f"`{origin}` is {tuple(source[origin].shape)}, but `{name}` must be {tuple(shape)}",
            hint="only the numbers of experts and groups can grow, not the width",
        )
    if len(base) not in (1, experts):
        raise CheckpointError(
            f"`{origin}` has {len(base)} experts, but `{name}` needs {experts}",
            hint="keep moe_experts_per_group of the smaller model, and raise moe_num_expert_groups instead",
        )
    base = base.expand(shape)
    if group == 0 and groups > 1:
        return GrownTensor(base.clone(), origin, f"copied to {experts} experts" if origin == dense_name else "loaded")
    grown = torch.empty(shape, dtype=base.dtype)
    values = _generator(seed, name)
    # All tensors of one expert must mix the same experts.
    choices = _generator(seed, f"{layer}.groups.{group}")
    for expert in range(experts):
        first, second = torch.randperm(max(2, experts), generator=choices)[:2].clamp(max=experts - 1).tolist()
        alpha = float(torch.empty(()).uniform_(0.2, 0.8, generator=choices))
        value = base[expert].float()
        if groups == 1 and expert == 0:
            grown[expert] = value
            continue
        if config.method.startswith("interpolate"):
            value = alpha * base[first].float() + (1 - alpha) * base[second].float()
        if config.method in ("noise", "interpolate+noise"):
            value = value + config.noise * base[expert].float().std() * torch.randn(value.shape, generator=values)
        grown[expert] = value
    return GrownTensor(grown, origin, f"{config.method} into {experts} experts")


def _grow_router(
    name: str, match: re.Match[str], shape: torch.Size, source: Weights, config: UpcycleConfig, seed: int
) -> GrownTensor | None:
    layer, group = match["layer"], int(match["group"])
    if not _has_layer(source, layer):
        return None
    if name in source and source[name].shape == shape:
        return GrownTensor(source[name], name, "loaded")
    base_name = f"{layer}.routers.0.weight"
    if base_name in source and source[base_name].shape == shape:
        base, origin = source[base_name].float(), base_name
    else:  # a dense layer has no router, so all groups start with the same random one
        base, origin = torch.randn(shape, generator=_generator(seed, base_name)) * ROUTER_STD, ""
    if group == 0:
        return GrownTensor(base, origin, "drawn")
    noise = torch.randn(shape, generator=_generator(seed, name))
    return GrownTensor(base + config.noise * base.std() * noise, origin, "group 0's, with noise")


def _has_layer(source: Weights, layer: str) -> bool:
    return f"{layer}.lin1.weight" in source or f"{layer}.groups.0.lin1_weight" in source


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
