"""How weights are cut, without any process."""

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard

from cwsam_cli.train.parallelize import _placement


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
