"""What an optimizer knows of each weight, as tensors that a state can hold, and back.

AdamW's averages are sharded as their weights are, and reshard with them. 8-bit averages are
codes with one scale for every 256 values of a process's own shard, so each process writes
its own: as many processes read them bit for bit, another number decodes, cuts and encodes.
Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from cwsam_cli.train.optim import Shards
from cwsam_cli.train.state import Shapes, Tensors, read_tensors, shapes
from cwsam_cli.train.world import World

BLOCK = 256
"""Values that share a scale."""

_PARTS = {"state1": "absmax1", "state2": "absmax2"}


def optimizer_tensors(
    model: nn.Module, shards: Shards, optimizer: torch.optim.Optimizer, world: World
) -> tuple[Tensors, dict[str, Any]]:
    """An optimizer's knowledge: tensors, and what JSON holds (steps by weight, how weights are cut)."""
    parameters = dict(model.named_parameters())
    tensors: Tensors = {}
    steps: dict[str, int] = {}
    for name, shard in shards.items():
        known = optimizer.state.get(shard) or {}
        if known:
            steps[name] = int(known["step"])
        for key in ("exp_avg", "exp_avg_sq"):
            if key in known:
                tensors[f"optimizer/{name}/{key}"] = sharded_like(parameters[name], known[key])
        for key in (*_PARTS, *_PARTS.values()):
            if key in known:
                tensors[_own(name, key, world.rank)] = known[key]
    return tensors, {"steps": steps, "cut": {name: _dim(parameters[name]) for name in steps}}


def restore_optimizer(
    folder: Path,
    plain: Mapping[str, Any],
    model: nn.Module,
    shards: Shards,
    optimizer: torch.optim.Optimizer,
    world: World,
) -> None:
    """Give an optimizer what `optimizer_tensors` kept.

    Args:
        folder: of the state.
        plain: what `state.json` says.
        model: as it is now, perhaps shared out otherwise.
        shards: of the model.
        optimizer: new.
        world: as it is now.
    """
    kept = plain["optimizer"]
    groups = {shard: group for group in optimizer.param_groups for shard in group["params"]}
    for name, step in kept["steps"].items():
        shard = shards[name]
        if shard not in groups:
            continue
        if isinstance(optimizer, torch.optim.AdamW):
            averages = {key: torch.zeros_like(shard, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[shard] = {"step": torch.tensor(float(step)), **averages}
        else:
            bnb: Any = optimizer
            bnb.init_state(groups[shard], shard, 0, 0)
            bnb.state[shard]["step"] = step
    tensors, now = optimizer_tensors(model, shards, optimizer, world)
    alike = plain["processes"] == world.size and all(now["cut"][name] == kept["cut"][name] for name in now["cut"])
    if alike or isinstance(optimizer, torch.optim.AdamW):
        read_tensors(folder, tensors)
        return
    written, parameters = shapes(folder), dict(model.named_parameters())
    for name in kept["steps"]:
        known = optimizer.state.get(shards[name]) or {}
        for key, scale in _PARTS.items():
            if key not in known:
                continue
            code = _code(optimizer, key)
            own = _recut(folder, name, key, plain, written, code)
            if isinstance(parameters[name], DTensor):
                own = own.chunk(world.size, _dim(parameters[name]))[world.rank]
            if scale in known:
                codes, scales = quantize(own, code)
                known[key].copy_(codes)
                known[scale].copy_(scales)
            else:
                known[key].copy_(own)


def sharded_like(parameter: nn.Parameter, local: Tensor) -> Tensor:
    """A tensor of a weight's shape from this process's part of it; a plain one where the weight is plain."""
    if not isinstance(parameter, DTensor):
        return local
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def _own(name: str, key: str, rank: int) -> str:
    return f"optimizer/{name}/{key}/{rank}"


def _dim(parameter: nn.Parameter) -> int:
    placement = parameter.placements[0] if isinstance(parameter, DTensor) else None
    return placement.dim if isinstance(placement, Shard) else 0


def _code(optimizer: Any, key: str) -> Tensor:
    """The values that the 256 codes of an average stand for, ascending; the second average has no sign."""
    if not optimizer.name2qmap:
        optimizer.fill_qmap()
    code: Tensor = optimizer.name2qmap["dynamic" if key == "state1" else "udynamic"]
    return code


def _recut(folder: Path, name: str, key: str, kept: Mapping[str, Any], written: Shapes, code: Tensor) -> Tensor:
    """An average of a whole weight in float32, put together from what each process wrote."""
    parts = []
    for rank in range(kept["processes"]):
        places = [place for place in (_own(name, key, rank), _own(name, _PARTS[key], rank)) if place in written]
        if not places:  # that process had no part of this weight
            continue
        wanted = {place: torch.empty(written[place][0], dtype=written[place][1]) for place in places}
        read_tensors(folder, wanted)
        value, *scale = wanted.values()
        parts.append(dequantize(value, scale[0], code) if scale else value)
    return torch.cat(parts, dim=kept["optimizer"]["cut"][name])


def dequantize(codes: Tensor, scale: Tensor, code: Tensor) -> Tensor:
    """Values of 8-bit codes: uint8 of any shape, one scale for every `BLOCK` of them in order."""
    spread = scale.repeat_interleave(BLOCK)[: codes.numel()].view(codes.shape)
    return code.cpu()[codes.int()] * spread


def quantize(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codes of values, and the scales of their blocks."""
    flat = values.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(dim=1)
    relative = (blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).flatten()[: len(flat)]
    code = code.cpu()
    codes = torch.bucketize(relative, (code[1:] + code[:-1]) / 2)
    return codes.to(torch.uint8).view(values.shape), scale
