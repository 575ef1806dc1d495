"""Convert an optimizer's state to tensors that a saved run can hold, and restore it.

AdamW's averages are sharded like their weights, so torch reshards them. 8-bit averages are
codes with one scale per 256 values of a process's own shard, so each process writes its own.
The same number of processes reads them back bit for bit. A different number decodes them,
cuts them anew and encodes them again.
Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import Metadata

from cwsam_cli.distributed.layout import Layout, layout_of
from cwsam_cli.distributed.shards import sharded_like
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.optim import VALUES_PER_SCALE, Shards
from cwsam_cli.train.state import OptimizerRecord, Shapes, StateRecord, Tensors, read_tensors, shapes

_PARTS = {"state1": "absmax1", "state2": "absmax2"}


def optimizer_tensors(
    model: nn.Module, shards: Shards, optimizer: torch.optim.Optimizer, world: World
) -> tuple[Tensors, OptimizerRecord]:
    """Collect an optimizer's state: its tensors by name, and the values that are not tensors."""
    parameters = dict(model.named_parameters())
    tensors: Tensors = {}
    steps: dict[str, int] = {}
    for name, shard in shards.items():
        own_state = optimizer.state.get(shard) or {}
        if own_state:
            steps[name] = int(own_state["step"])
        for key in ("exp_avg", "exp_avg_sq"):
            if key in own_state:
                tensors[f"optimizer/{name}/{key}"] = sharded_like(parameters[name], own_state[key])
        for key in (*_PARTS, *_PARTS.values()):
            if key in own_state:
                tensors[_key(name, key, world.rank)] = own_state[key]
    layouts = {name: layout_of(parameters[name]) for name in steps}
    return tensors, OptimizerRecord(
        steps=steps,
        cut={name: layout.cut for name, layout in layouts.items()},
        expert_parallel={
            name: layout.expert_parallel for name, layout in layouts.items() if layout.expert_parallel > 1
        },
    )


def restore_optimizer(
    folder: Path,
    index: Metadata,
    record: StateRecord,
    model: nn.Module,
    shards: Shards,
    optimizer: torch.optim.Optimizer,
    world: World,
) -> None:
    """Restore an optimizer from what `optimizer_tensors` collected.

    Args:
        folder: folder of the saved state.
        index: index of the saved tensors.
        record: content of `state.json`.
        model: the model, possibly sharded over another number of processes than when it was saved.
        shards: this process's shards of the model.
        optimizer: a new optimizer; its state is overwritten.
        world: the processes of the current run.
    """
    saved = record.optimizer
    groups = {shard: group for group in optimizer.param_groups for shard in group["params"]}
    for name, step in saved.steps.items():
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
    tensors, current = optimizer_tensors(model, shards, optimizer, world)
    written = shapes(index)
    is_same_sharding = (
        record.processes == world.size
        and all(current.cut[name] == saved.cut.get(name) for name in current.cut)
        and all(current.expert_parallel.get(name, 1) == saved.expert_parallel.get(name, 1) for name in current.cut)
    )
    is_same_layout = is_same_sharding and all(
        written.get(name) == (tensor.shape, tensor.dtype) for name, tensor in tensors.items()
    )
    if is_same_layout or isinstance(optimizer, torch.optim.AdamW):
        read_tensors(folder, tensors, index)
        return
    parameters = dict(model.named_parameters())
    state = _Parts(folder, index, written, record)
    for name in saved.steps:
        own_state = optimizer.state.get(shards[name]) or {}
        for key, scale in _PARTS.items():
            if key not in own_state:
                continue
            code = _code(optimizer, key)
            shard_values = _recut(state, name, key, parameters[name], code, world)
            if scale in own_state:
                codes, scales = quantize(shard_values, code)
                own_state[key].copy_(codes)
                own_state[scale].copy_(scales)
            else:
                own_state[key].copy_(shard_values)


def _key(name: str, key: str, rank: int) -> str:
    return f"optimizer/{name}/{key}/{rank}"


def _code(optimizer: Any, key: str) -> Tensor:
    """Return the values of the 256 codes, ascending. The second average is never negative."""
    if not optimizer.name2qmap:
        optimizer.fill_qmap()
    code: Tensor = optimizer.name2qmap["dynamic" if key == "state1" else "udynamic"]
    return code


@dataclass(frozen=True, slots=True)
class _Parts:
    """A saved state whose averages are in parts, one per process that wrote it."""

    folder: Path
    index: Metadata
    written: Shapes
    record: StateRecord


def _recut(state: _Parts, name: str, key: str, parameter: nn.Parameter, code: Tensor, world: World) -> Tensor:
    """Assemble this process's shard of an average, in float32, from the saved parts it overlaps."""
    written, saved = state.written, state.record
    start, stop = layout_of(parameter).part(parameter.shape, world.rank)
    before = Layout(saved.processes, saved.optimizer.cut[name], saved.optimizer.expert_parallel.get(name, 1))
    read: Tensors = {}
    parts = []
    for rank in range(saved.processes):
        begin, end = before.part(parameter.shape, rank)
        first, last = [*map(max, start, begin)], [*map(min, stop, end)]
        if any(low >= high for low, high in zip(first, last, strict=True)):
            continue
        codes, scale = _key(name, key, rank), _key(name, _PARTS[key], rank)
        size, kind = written.get(codes, ([], torch.uint8))  # reading a part that is missing raises the error
        read[codes] = torch.empty(size, dtype=kind)
        if scale in written:
            read[scale] = torch.empty(written[scale][0], dtype=written[scale][1])
        parts.append((codes, scale, _slices(first, last, start), _slices(first, last, begin)))
    read_tensors(state.folder, read, state.index)
    values = torch.zeros([last - first for first, last in zip(start, stop, strict=True)])
    for codes, scale, own, of_part in parts:
        decoded = dequantize(read[codes], read[scale], code) if scale in read else read[codes]
        values[own] = decoded[of_part]
    return values


def _slices(first: list[int], last: list[int], origin: list[int]) -> tuple[slice, ...]:
    return tuple(slice(low - zero, high - zero) for low, high, zero in zip(first, last, origin, strict=True))


def dequantize(codes: Tensor, scale: Tensor, code: Tensor) -> Tensor:
    """Decode 8-bit codes.

    Args:
        codes: uint8, any shape.
        scale: float32, one per `VALUES_PER_SCALE` codes in order.
        code: values of the 256 codes, ascending.

    Returns:
        Values, float32, of the shape of `codes`.
    """
    spread = scale.repeat_interleave(VALUES_PER_SCALE)[: codes.numel()].view(codes.shape)
    return code.cpu()[codes.int()] * spread


def quantize(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Encode values as 8-bit codes.

    A positive value of the second average never becomes 0. The optimizer divides by it, so the
    next step would be many times too large.

    Args:
        values: float32, any shape.
        code: values of the 256 codes, ascending.

    Returns:
        Codes, uint8 of the same shape, and scales, one per `VALUES_PER_SCALE` codes in order.
    """
    flat = values.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % VALUES_PER_SCALE)).view(-1, VALUES_PER_SCALE)
    scale = blocks.abs().amax(dim=1)
    relative = (blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).flatten()[: len(flat)]
    code = code.cpu()
    codes = torch.bucketize(relative, (code[1:] + code[:-1]) / 2)
    if code[0] == 0:
        codes = codes.clamp(min=(flat > 0).to(codes.dtype))
    return codes.to(torch.uint8).view(values.shape), scale
