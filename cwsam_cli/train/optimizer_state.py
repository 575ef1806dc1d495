"""What an optimizer knows of each weight, as tensors that a state can hold, and back.

AdamW's averages are sharded as their weights are, and reshard with them. 8-bit averages are
codes with one scale for every 256 values of a process's own shard, so each process writes
its own: as many processes read them bit for bit, another number decodes, cuts and encodes.
Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import Metadata
from torch.distributed.tensor import DTensor, Shard

from cwsam_cli.train.optim import Shards
from cwsam_cli.train.parallelize import sharded_like
from cwsam_cli.train.state import OptimizerFacts, PlainState, Tensors, read_tensors, shapes
from cwsam_cli.train.world import World

BLOCK = 256
"""Values that share a scale."""

_PARTS = {"state1": "absmax1", "state2": "absmax2"}


def optimizer_tensors(
    model: nn.Module, shards: Shards, optimizer: torch.optim.Optimizer, world: World
) -> tuple[Tensors, OptimizerFacts]:
    """What an optimizer knows of each weight: tensors, and facts that are none."""
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
    return tensors, OptimizerFacts(steps=steps, cut={name: _dim(parameters[name]) for name in steps})


def restore_optimizer(
    folder: Path,
    index: Metadata,
    plain: PlainState,
    model: nn.Module,
    shards: Shards,
    optimizer: torch.optim.Optimizer,
    world: World,
) -> None:
    """Give an optimizer what `optimizer_tensors` kept.

    Args:
        folder: of the state.
        index: of the state.
        plain: what `state.json` says.
        model: as it is now, perhaps shared out otherwise.
        shards: of the model.
        optimizer: new.
        world: as it is now.
    """
    kept = plain.optimizer
    groups = {shard: group for group in optimizer.param_groups for shard in group["params"]}
    for name, step in kept.steps.items():
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
    written = shapes(index)
    alike = plain.processes == world.size and all(now.cut[name] == kept.cut.get(name) for name in now.cut)
    same = alike and all(written.get(name) == (tensor.shape, tensor.dtype) for name, tensor in tensors.items())
    if same or isinstance(optimizer, torch.optim.AdamW):
        read_tensors(folder, tensors, index)
        return
    parameters = dict(model.named_parameters())
    for name in kept.steps:
        known = optimizer.state.get(shards[name]) or {}
        wanted = [(key, scale) for key, scale in _PARTS.items() if key in known]
        parts = {
            place: torch.empty(written[place][0], dtype=written[place][1])
            for keys in wanted
            for key in keys
            for rank in range(plain.processes)
            if (place := _own(name, key, rank)) in written
        }
        read_tensors(folder, parts, index)
        for key, scale in wanted:
            code = _code(optimizer, key)
            own = _joined(name, key, plain, parts, code)
            if isinstance(parameters[name], DTensor):
                own = own.chunk(world.size, _dim(parameters[name]))[world.rank]
            if scale in known:
                codes, scales = quantize(own, code)
                known[key].copy_(codes)
                known[scale].copy_(scales)
            else:
                known[key].copy_(own)


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


def _joined(name: str, key: str, kept: PlainState, parts: Tensors, code: Tensor) -> Tensor:
    """An average of a whole weight in float32, put together from what each process wrote."""
    values = []
    for rank in range(kept.processes):
        place, scale = _own(name, key, rank), _own(name, _PARTS[key], rank)
        if place in parts:  # else that process had no part of this weight
            values.append(dequantize(parts[place], parts[scale], code) if scale in parts else parts[place])
    return torch.cat(values, dim=kept.optimizer.cut[name])


def dequantize(codes: Tensor, scale: Tensor, code: Tensor) -> Tensor:
    """Values of 8-bit codes: uint8 of any shape, one scale for every `BLOCK` of them in order."""
    spread = scale.repeat_interleave(BLOCK)[: codes.numel()].view(codes.shape)
    return code.cpu()[codes.int()] * spread


def quantize(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest codes of values, and the scales of their blocks.

    A positive value of an average without a sign never becomes 0: it is what a step is divided by, so the
    next step would be many times too large.

    Args:
        values: float32, any shape.
        code: what the 256 codes stand for, ascending.

    Returns:
        Codes, uint8 of the same shape, and one scale for every `BLOCK` of them in order.
    """
    flat = values.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(dim=1)
    relative = (blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).flatten()[: len(flat)]
    code = code.cpu()
    codes = torch.bucketize(relative, (code[1:] + code[:-1]) / 2)
    if code[0] == 0:
        codes = codes.clamp(min=(flat > 0).to(codes.dtype))
    return codes.to(torch.uint8).view(values.shape), scale
