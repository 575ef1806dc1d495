"""What an optimizer knows comes back bit for bit, and within its codes' resolution when shards are cut anew."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cwsam_cli.config.schema import OptimizerArgs, OptimizerConfig
from cwsam_cli.distributed.layout import Layout
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError
from cwsam_cli.learning.optim import build_optimizer, local_shards
from cwsam_cli.train.optimizer_state import (
    VALUES_PER_SCALE,
    dequantize,
    optimizer_tensors,
    quantize,
    restore_optimizer,
)
from cwsam_cli.train.state import StateRecord, read_index
from tests.states import fill, plain_state, save_state

WORLD = World(torch.device("cpu"))
KINDS: list[Any] = ["adamw", "adamw8bit"]


class Net(nn.Module):
    """Averages in 8 bits and in 32, and a weight that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow, self.idle = nn.Linear(50, 100), nn.Linear(100, 3), nn.Linear(70, 70)
        self.idle.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x).relu())


def _begin(kind: Any) -> tuple[Net, torch.optim.Optimizer]:
    model = Net()
    config = OptimizerConfig(name=kind, args=OptimizerArgs(lr=1e-2, weight_decay=0.1))
    return model, build_optimizer(model, local_shards(model), config)


def _learn(model: Net, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Learn, each step from data of its own; the losses."""
    losses = []
    for step in steps:
        x = torch.randn(16, 50, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _write(folder: Path, model: Net, optimizer: torch.optim.Optimizer) -> StateRecord:
    """Save what the optimizer knows; returns what `state.json` says."""
    tensors, facts = optimizer_tensors(model, local_shards(model), optimizer, WORLD)
    save_state(folder, tensors, optimizer=facts)
    return plain_state(optimizer=facts)


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path: Path, kind: Any) -> None:
    model, optimizer = _begin(kind)
    _learn(model, optimizer, range(5))
    plain = _write(tmp_path / "last", model, optimizer)
    other, fresh = _begin(kind)
    other.load_state_dict(model.state_dict())
    restore_optimizer(tmp_path / "last", read_index(tmp_path / "last"), plain, other, local_shards(other), fresh, WORLD)
    _learn(model, optimizer, range(5, 12))
    _learn(other, fresh, range(5, 12))
    assert _same(model, other)


def test_codes_are_not_coded_again_where_this_process_has_an_empty_shard(tmp_path: Path) -> None:
    """The optimizer leaves out a weight whose shard is empty. The saved record names it for all processes."""
    model, optimizer = _begin("adamw8bit")
    _learn(model, optimizer, range(2))
    known, generator = optimizer.state[model.wide.weight], torch.Generator().manual_seed(0)
    for codes in (known["state1"], known["state2"]):  # the largest code of most blocks is missing
        codes.copy_(torch.randint(100, 200, codes.shape, generator=generator))
    saved = _write(tmp_path / "last", model, optimizer)
    saved = dataclasses.replace(
        saved, optimizer=dataclasses.replace(saved.optimizer, expert_parallel={"narrow.weight": 2})
    )
    other, fresh = _begin("adamw8bit")
    for group in fresh.param_groups:
        group["params"] = [weight for weight in group["params"] if weight is not other.narrow.weight]
    restore_optimizer(tmp_path / "last", read_index(tmp_path / "last"), saved, other, local_shards(other), fresh, WORLD)
    restored = fresh.state[other.wide.weight]
    for key in ("state1", "absmax1", "state2", "absmax2"):
        assert torch.equal(restored[key], known[key])


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_averages_it_would_not(tmp_path: Path, kind: Any) -> None:
    model, optimizer = _begin(kind)
    _learn(model, optimizer, range(5))
    other, fresh = _begin(kind)
    other.load_state_dict(model.state_dict())
    _learn(model, optimizer, range(5, 6))
    _learn(other, fresh, range(5, 6))
    assert not _same(model, other)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_learned_is_kept(kind: Any) -> None:
    model, optimizer = _begin(kind)
    tensors, plain = optimizer_tensors(model, local_shards(model), optimizer, WORLD)
    assert (tensors, plain.steps) == ({}, {})
    _learn(model, optimizer, range(3))
    tensors, plain = optimizer_tensors(model, local_shards(model), optimizer, WORLD)
    assert plain.steps == dict.fromkeys(["wide.weight", "wide.bias", "narrow.weight", "narrow.bias"], 3)
    assert not [name for name in tensors if "idle" in name]


def test_a_weight_that_joins_later_has_its_own_count_of_steps(tmp_path: Path) -> None:
    model, optimizer = _begin("adamw")
    _learn(model, optimizer, range(2))
    model.wide.requires_grad_(False)
    _learn(model, optimizer, range(2, 5))
    plain = _write(tmp_path / "last", model, optimizer)
    assert plain.optimizer.steps == {"wide.weight": 2, "wide.bias": 2, "narrow.weight": 5, "narrow.bias": 5}
    other, fresh = _begin("adamw")
    restore_optimizer(tmp_path / "last", read_index(tmp_path / "last"), plain, other, local_shards(other), fresh, WORLD)
    assert {int(known["step"]) for known in fresh.state.values()} == {2, 5}


def test_codes_and_scales_are_kept_as_they_are() -> None:
    model, optimizer = _begin("adamw8bit")
    _learn(model, optimizer, range(3))
    tensors, _ = optimizer_tensors(model, local_shards(model), optimizer, WORLD)
    kept = {name: tensor.dtype for name, tensor in tensors.items() if "/wide.weight/" in name}
    assert kept == {
        "optimizer/wide.weight/state1/0": torch.uint8,
        "optimizer/wide.weight/state2/0": torch.uint8,
        "optimizer/wide.weight/absmax1/0": torch.float32,
        "optimizer/wide.weight/absmax2/0": torch.float32,
    }
    assert tensors["optimizer/wide.weight/absmax1/0"].numel() == -(-5000 // VALUES_PER_SCALE)
    assert tensors["optimizer/narrow.weight/state1/0"].dtype == torch.float32


# --- codes ---


def _map(key: str) -> Tensor:
    _, optimizer = _begin("adamw8bit")
    bnb: Any = optimizer
    bnb.fill_qmap()
    code: Tensor = bnb.name2qmap[key]
    return code


@pytest.mark.parametrize("shape", [(VALUES_PER_SCALE,), (3, VALUES_PER_SCALE), (1000,), (7, 13, 5), (1,)])
@pytest.mark.parametrize("key", ["dynamic", "udynamic"])
def test_values_come_back_within_the_resolution_of_their_codes(key: str, shape: tuple[int, ...]) -> None:
    code = _map(key)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 1, shape[-1])
    values = values.abs() if key == "udynamic" else values
    codes, scale = quantize(values, code)
    assert (codes.dtype, codes.shape) == (torch.uint8, values.shape)
    assert scale.shape == (-(-values.numel() // VALUES_PER_SCALE),)
    found = dequantize(codes, scale, code)
    spread = scale.repeat_interleave(VALUES_PER_SCALE)[: values.numel()].view(shape)
    relative = values / spread
    upper = torch.searchsorted(code, relative).clamp(1, 255)
    step = (code[upper] - code[upper - 1]) * spread  # between the codes beside a value
    below = (code[0] - relative).clamp(min=0) * spread  # the least code is not quite -1
    least = code[1] * spread if key == "udynamic" else torch.zeros(())  # positive values never become 0
    assert ((found - values).abs() <= torch.maximum(step / 2 * 1.0001 + below, least) + 1e-12).all()


@pytest.mark.parametrize("key", ["dynamic", "udynamic"])
def test_the_largest_of_a_block_is_exact_and_so_is_0(key: str) -> None:
    code = _map(key)
    values = torch.zeros(2 * VALUES_PER_SCALE)
    values[3], values[VALUES_PER_SCALE + 5] = 0.37, 1e-5
    codes, scale = quantize(values, code)
    assert torch.equal(dequantize(codes, scale, code), values)
    assert torch.equal(scale, torch.tensor([0.37, 1e-5]))


def test_a_positive_second_average_never_becomes_0() -> None:
    code = _map("udynamic")
    values = torch.tensor([1.0, 1e-30, 0.0, 1e-9])
    codes, scale = quantize(values, code)
    found = dequantize(codes, scale, code)
    assert (found > 0).tolist() == [True, True, False, True]
    assert found[1] == found[3] == code[1]


def test_a_block_of_zeros_stays_zeros() -> None:
    codes, scale = quantize(torch.zeros(300), _map("dynamic"))
    assert torch.equal(dequantize(codes, scale, _map("dynamic")), torch.zeros(300))
    assert scale.isfinite().all()


def test_coding_what_was_decoded_changes_next_to_nothing() -> None:
    code = _map("dynamic")
    codes = torch.randint(256, (40 * VALUES_PER_SCALE,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    codes[::VALUES_PER_SCALE] = 255  # each block holds its largest
    scale = torch.rand(40, generator=torch.Generator().manual_seed(1)) + 0.1
    again, scale_again = quantize(dequantize(codes, scale, code), code)
    torch.testing.assert_close(scale_again, scale)
    assert (again != codes).float().mean() < 1e-3
    assert (again.int() - codes.int()).abs().max() <= 1


def test_the_codes_are_those_of_the_library() -> None:
    """Its own decoding of what an optimizer holds is ours."""
    functional = pytest.importorskip("bitsandbytes.functional")
    model, optimizer = _begin("adamw8bit")
    _learn(model, optimizer, range(3))
    known = optimizer.state[model.wide.weight]
    for key, scale, qmap in (("state1", "absmax1", "qmap1"), ("state2", "absmax2", "qmap2")):
        expected = functional.dequantize_blockwise(
            known[key], absmax=known[scale], code=known[qmap], blocksize=VALUES_PER_SCALE
        ).view_as(known[key])
        torch.testing.assert_close(dequantize(known[key], known[scale], known[qmap]), expected)


# --- cut anew ---


def _write_parts(folder: Path, tensors: dict[str, Tensor], layouts: dict[str, Layout], code: dict[str, Tensor]) -> None:
    """Write what several processes, each with its part of every weight, would have written."""
    written: dict[str, Tensor] = {}
    for name, layout in layouts.items():
        for key, scale in (("state1", "absmax1"), ("state2", "absmax2")):
            value = tensors[f"optimizer/{name}/{key}/0"]
            if f"optimizer/{name}/{scale}/0" in tensors:
                value = dequantize(value, tensors[f"optimizer/{name}/{scale}/0"], code[key])
            for expert, experts in enumerate(value.chunk(layout.expert_parallel)):
                shards = experts.chunk(layout.processes // layout.expert_parallel, layout.cut)
                for rank, part in zip(range(expert, layout.processes, layout.expert_parallel), shards, strict=False):
                    written[f"optimizer/{name}/{key}/{rank}"] = part.contiguous()
                    if part.numel() >= 1200:  # as if the library's limit were lower: some parts are coded
                        codes, scales = quantize(part, code[key])
                        written[f"optimizer/{name}/{key}/{rank}"] = codes
                        written[f"optimizer/{name}/{scale}/{rank}"] = scales
    save_state(folder, written)


@pytest.mark.parametrize(
    ("processes", "cut", "expert_parallel"),
    [(2, 0, 1), (2, 1, 1), (4, 0, 1), (2, 0, 2), (4, 1, 2), (4, 0, 2), (4, 1, 4)],
)
def test_what_several_processes_wrote_is_put_together_by_one(
    tmp_path: Path, processes: int, cut: int, expert_parallel: int
) -> None:
    """Of four processes, the last one has no part of a weight with three rows."""
    model, optimizer = _begin("adamw8bit")
    _learn(model, optimizer, range(6))
    shards = local_shards(model)
    tensors, plain = optimizer_tensors(model, shards, optimizer, WORLD)
    code = {"state1": _map("dynamic"), "state2": _map("udynamic")}
    layouts = {name: Layout(processes) for name in plain.steps}
    layouts |= {
        name: Layout(processes, cut, expert_parallel if shards[name].shape[0] % 4 == 0 else 1)
        for name in plain.steps
        if shards[name].ndim > 1
    }
    _write_parts(tmp_path / "last", tensors, layouts, code)
    facts = dataclasses.replace(
        plain,
        cut={name: layout.cut for name, layout in layouts.items()},
        expert_parallel={name: layout.expert_parallel for name, layout in layouts.items()},
    )
    other, fresh = _begin("adamw8bit")
    other.load_state_dict(model.state_dict())
    kept = plain_state(processes=processes, optimizer=facts)
    restore_optimizer(tmp_path / "last", read_index(tmp_path / "last"), kept, other, local_shards(other), fresh, WORLD)
    for name in plain.steps:
        before, after = optimizer.state[shards[name]], fresh.state[dict(other.named_parameters())[name]]
        assert before["step"] == after["step"] == 6
        for key, scale in (("state1", "absmax1"), ("state2", "absmax2")):
            if scale not in before:
                assert torch.equal(after[key], before[key])
                continue
            one, two = (dequantize(known[key], known[scale], code[key]) for known in (before, after))
            largest = before[scale].max()
            assert (one - two).abs().max() <= 0.02 * largest  # the widest gap of the codes, coded twice
            assert (one - two).norm() <= 0.03 * one.norm()
    start = [parameter.detach().clone() for parameter in model.parameters()]
    losses = [_learn(model, optimizer, range(6, 12)), _learn(other, fresh, range(6, 12))]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    for begun, first, second in zip(start, model.parameters(), other.parameters(), strict=True):
        assert (first - second).norm() <= 0.05 * (first - begun).norm()


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    model, optimizer = _begin("adamw8bit")
    _learn(model, optimizer, range(2))
    tensors, plain = optimizer_tensors(model, local_shards(model), optimizer, WORLD)
    save_state(tmp_path / "last", tensors)  # of two processes, only the first one wrote
    other, fresh = _begin("adamw8bit")
    kept = plain_state(processes=2, optimizer=plain)
    index = read_index(tmp_path / "last")
    with pytest.raises(CheckpointError, match="damaged"):
        restore_optimizer(tmp_path / "last", index, kept, other, local_shards(other), fresh, WORLD)


def test_a_state_of_32_bits_may_be_read_by_name(tmp_path: Path) -> None:
    model, optimizer = _begin("adamw")
    _learn(model, optimizer, range(2))
    _write(tmp_path / "last", model, optimizer)
    read = {"optimizer/wide.weight/exp_avg": torch.zeros(100, 50)}
    fill(tmp_path / "last", read)
    assert torch.equal(read["optimizer/wide.weight/exp_avg"], optimizer.state[model.wide.weight]["exp_avg"])
