"""How weights are cut, without any process."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from cwsam_cli.distributed.parallelize import _placement, sharded_like


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
