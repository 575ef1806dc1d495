"""How weights are cut and experts are distributed, without any process."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from cwsam_cli.distributed.parallelize import _placement, choose_expert_parallel
from cwsam_cli.distributed.shards import assign_weights, sharded_like
from cwsam_cli.errors import ConfigError
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from tests.distributed import workers


@pytest.mark.parametrize(
    ("shape", "size", "cut"),
    [
        ((16, 5120, 1280), 8, None),  # experts divide
        ((16, 5120, 1280), 64, Shard(1)),
        ((16, 1280, 5120), 512, Shard(2)),  # 1280 does not divide
        ((16, 5120, 1280), 768, None),  # nothing does
        ((3, 7), 2, None),  # biases
    ],
)
def test_experts_are_cut_where_that_is_even(shape: tuple[int, ...], size: int, cut: Shard | None) -> None:
    weight = nn.Parameter(torch.empty(shape, device="meta"))
    assert _placement(weight, size=size, even=True) == cut
    assert _placement(weight, size=size, even=False) is None


def test_a_part_that_lies_elsewhere_than_its_weight_is_not_copied() -> None:
    """As an offloaded shard lies on the host while the weight's mesh is of GPUs."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2,))
        weight = nn.Parameter(distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)]))
        part = torch.empty(2, 3, device="meta")
        whole: Any = sharded_like(weight, part)
        assert whole.to_local().device.type == "meta"
        assert (whole.shape, whole.placements) == (weight.shape, weight.placements)
        here = torch.ones(2, 3)
        same: Any = sharded_like(weight, here)
        assert same.to_local().data_ptr() == here.data_ptr()
    finally:
        dist.destroy_process_group()


def test_values_from_the_first_process_do_not_overwrite_tensors_of_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def receive(value: torch.Tensor, src: int) -> None:
        value.fill_(7)

    monkeypatch.setattr(dist, "broadcast", receive)
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        model, own = nn.Linear(3, 1, bias=False), torch.zeros(1, 3)
        assert list(assign_weights(model, [("weight", own)], torch.device("cpu"))) == ["weight"]
    finally:
        dist.destroy_process_group()
    assert torch.equal(model.weight, torch.full((1, 3), 7.0))
    assert torch.equal(own, torch.zeros(1, 3))


def _model(experts: int, decoder_experts: int) -> ClassWiseSam:
    shape = {"moe_experts_per_group": experts, "moe_decoder_experts": decoder_experts, "moe_k_experts": 1}
    shape |= {"moe_num_expert_groups": 3 if experts else 0}
    with torch.device("meta"):
        return ClassWiseSam(architecture(workers.configuration({"shape": shape}).model, num_bands=4, num_classes=4))


@pytest.mark.parametrize(
    ("wanted", "experts", "processes", "per_machine", "chosen"),
    [
        ("auto", (16, 16), 8, 8, 8),
        ("auto", (16, 16), 64, 8, 8),
        ("auto", (16, 16), 64, 64, 16),
        ("auto", (64, 64), 64, 64, 16),  # at most 16
        ("auto", (16, 16), 6, 6, 2),
        ("auto", (16, 3), 8, 8, 1),
        ("auto", (16, 0), 8, 8, 8),
        ("auto", (0, 0), 8, 8, 1),
        ("auto", (16, 16), 1, 1, 1),
        (4, (16, 16), 8, 8, 4),
        (8, (16, 16), 16, 1, 8),
        (1, (16, 3), 7, 7, 1),
        (5, (0, 0), 8, 8, 1),  # no experts
    ],
)
def test_experts_are_distributed_as_wanted(
    wanted: Any, experts: tuple[int, int], processes: int, per_machine: int, chosen: int
) -> None:
    assert choose_expert_parallel(wanted, _model(*experts), processes=processes, per_machine=per_machine) == chosen


@pytest.mark.parametrize(
    ("wanted", "experts", "processes", "what"),
    [
        (2, (16, 16), 1, r"processes \(1\)"),
        (3, (12, 12), 8, r"processes \(8\)"),
        (8, (16, 4), 8, r"experts per group \(4\)"),
        (8, (12, 16), 8, r"experts per group \(12\)"),
    ],
)
def test_a_number_that_does_not_divide_is_refused(
    wanted: int, experts: tuple[int, int], processes: int, what: str
) -> None:
    message = rf"^`fsdp_settings.expert_parallel` is {wanted}, which does not divide the number of {what}$"
    with pytest.raises(ConfigError, match=message) as caught:
        choose_expert_parallel(wanted, _model(*experts), processes=processes, per_machine=processes)
    assert caught.value.hint == "--set fsdp_settings.expert_parallel=auto"
    assert caught.value.exit_code == 3
