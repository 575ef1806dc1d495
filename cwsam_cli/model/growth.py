"""Grow a dense model, or a small mixture, into a larger mixture of experts.

# E experts a group, D width

Every expert of the target starts from the same block of the source: group 0 is the source's
experts exactly, or exact copies of its MLP; the experts of further groups are interpolations
of two base experts, noise relative to each tensor's own spread, or both. Each tensor is drawn
from a generator of its own name and the seed: the result is the same in any order and for
any number of processes.
Source: Komatsuzaki et al., Sparse Upcycling, 2023; Nakamura et al., Drop-Upcycling, 2025.
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
"""Of the group router, for group 0: with two groups kept it weighs about 0.98."""

_EXPERT = re.compile(r"(?P<layer>.+\.mlp)\.groups\.(?P<group>\d+)\.(?P<lin>lin[12])_(?P<kind>weight|bias)")
_ROUTER = re.compile(r"(?P<layer>.+\.mlp)\.routers\.(?P<group>\d+)\.weight")
_GROUP_ROUTER = re.compile(r"(?P<layer>.+\.mlp)\.group_router\.(?P<kind>weight|bias)")
_DENSE = re.compile(r"(?P<layer>.+\.mlp)\.(?P<lin>lin[12])\.(?P<kind>weight|bias)")

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Grown:
    """A tensor of the target's mixture and where it came from."""

    value: Tensor
    source: str
    """Name of the source tensor; empty where there is none."""
    note: str


def is_mixture(name: str) -> bool:
    """Whether a tensor belongs to experts or their routers."""
    return any(pattern.fullmatch(name) for pattern in (_EXPERT, _ROUTER, _GROUP_ROUTER))


def shrink(name: str, source: Weights) -> Grown | None:
    """Make a tensor of a dense MLP from the first expert of the source's mixture in its place.

    Returns:
        The tensor, or None where the source has no mixture there.
    """
    match = _DENSE.fullmatch(name)
    origin = f"{match['layer']}.groups.0.{match['lin']}_{match['kind']}" if match else ""
    return Grown(source[origin][0], origin, "expert 0 alone") if origin in source else None


def grow(name: str, shape: torch.Size, source: Weights, groups: int, config: UpcycleConfig, seed: int) -> Grown | None:
    """Make one tensor of a mixture from a smaller model's weights.

    Args:
        name: of the target's tensor.
        shape: of the target's tensor.
        source: the smaller model's weights, by our names.
        groups: G of the target's layer.
        config: how new experts are made.
        seed: of the noise.

    Returns:
        The tensor, or None where the source has no such layer.
    """
    if match := _EXPERT.fullmatch(name):
        return _grow_expert(name, match, shape, source, groups, config, seed)
    if match := _ROUTER.fullmatch(name):
        return _grow_router(name, match, shape, source, config, seed)
    match = _GROUP_ROUTER.fullmatch(name)
    return _grow_group_router(name, match, shape, source, seed) if match else None


def _grow_group_router(name: str, match: re.Match[str], shape: torch.Size, source: Weights, seed: int) -> Grown | None:
    """Keep the rows of the source's groups. New ones start random, and no more likely than the least likely group."""
    layer, kind = match["layer"], match["kind"]
    if not _has_layer(source, layer):
        return None
    learned = source.get(name)
    if learned is not None and learned.shape == shape:
        return Grown(learned, name, "loaded")
    if kind == "weight":
        value = torch.randn(shape, generator=_generator(seed, name)) * ROUTER_STD
    else:
        value = torch.zeros(shape)
        value[0] = BASE_BIAS
    if learned is None:
        return Grown(value, "", "drawn" if kind == "weight" else "favours group 0")
    if kind == "bias":
        value = torch.full(shape, float(learned.min()))
    value[: len(learned)] = learned.float()
    return Grown(value, name, f"keeps {len(learned)} groups' rows, {len(value) - len(learned)} are new")


def equal_bases(source: Weights, layer: str) -> bool:
    """Whether all base experts of a layer are equal, so that only noise tells new ones apart."""
    return f"{layer}.groups.0.lin1_weight" not in source


def _grow_expert(
    name: str,
    match: re.Match[str],
    shape: torch.Size,
    source: Weights,
    groups: int,
    config: UpcycleConfig,
    seed: int,
) -> Grown | None:
    layer, group, lin, kind = match["layer"], int(match["group"]), match["lin"], match["kind"]
    if name in source and source[name].shape == shape:
        return Grown(source[name], name, "loaded")
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
            f"`{origin}` is {tuple(source[origin].shape)}, `{name}` must be {tuple(shape)}",
            hint="a model grows in experts and groups only, not in width",
        )
    if len(base) not in (1, experts):
        raise CheckpointError(
            f"`{origin}` has {len(base)} experts, `{name}` needs {experts}",
            hint="keep moe_experts_per_group as it is in the source, and grow moe_num_expert_groups",
        )
    base = base.expand(shape)
    if group == 0 and groups > 1:
        return Grown(base.clone(), origin, f"copied to {experts} experts" if origin == dense_name else "loaded")
    grown = torch.empty(shape, dtype=base.dtype)
    values = _generator(seed, name)
    # Which experts mix and which units are redrawn must agree between the tensors of one expert.
    choices = _generator(seed, f"{layer}.groups.{group}")
    for expert in range(experts):
        first, second = torch.randperm(max(2, experts), generator=choices)[:2].clamp(max=experts - 1).tolist()
        alpha = float(torch.empty(()).uniform_(0.2, 0.8, generator=choices))
        hidden = shape[1] if lin == "lin1" else shape[-1] if kind == "weight" else 0
        mine = base[expert].float()
        if groups == 1 and expert == 0:
            grown[expert] = mine
            continue
        if config.method.startswith("interpolate"):
            mine = alpha * base[first].float() + (1 - alpha) * base[second].float()
        if config.method == "drop":
            mine = _redraw(mine, lin, kind, hidden, config.drop, _generator(seed, f"{layer}.{group}.{expert}"), values)
        if config.method in ("noise", "interpolate+noise"):
            mine = mine + config.noise * base[expert].float().std() * torch.randn(mine.shape, generator=values)
        grown[expert] = mine
    return Grown(grown, origin, f"{config.method} into {experts} experts")


def _redraw(
    weight: Tensor, lin: str, kind: str, hidden: int, share: float, units: torch.Generator, values: torch.Generator
) -> Tensor:
    """Draw a share of the hidden units anew, from the tensor's own mean and spread."""
    if not hidden:  # the second layer's bias belongs to no hidden unit
        return weight
    chosen = torch.randperm(hidden, generator=units)[: round(share * hidden)]
    fresh = weight.mean() + weight.std() * torch.randn(weight.shape, generator=values)
    weight = weight.clone()
    if lin == "lin1":
        weight[chosen] = fresh[chosen]
    elif kind == "weight":
        weight[:, chosen] = fresh[:, chosen]
    return weight


def _grow_router(
    name: str, match: re.Match[str], shape: torch.Size, source: Weights, config: UpcycleConfig, seed: int
) -> Grown | None:
    layer, group = match["layer"], int(match["group"])
    if not _has_layer(source, layer):
        return None
    if name in source and source[name].shape == shape:
        return Grown(source[name], name, "loaded")
    base_name = f"{layer}.routers.0.weight"
    if base_name in source and source[base_name].shape == shape:
        base, origin = source[base_name].float(), base_name
    else:  # a dense layer has no router: all groups begin with the same fresh one
        base, origin = torch.randn(shape, generator=_generator(seed, base_name)) * ROUTER_STD, ""
    if group == 0:
        return Grown(base, origin, "drawn")
    noise = torch.randn(shape, generator=_generator(seed, name))
    return Grown(base + config.noise * base.std() * noise, origin, "group 0's, with noise")


def _has_layer(source: Weights, layer: str) -> bool:
    return f"{layer}.lin1.weight" in source or f"{layer}.groups.0.lin1_weight" in source


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
