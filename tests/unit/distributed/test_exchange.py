"""Rows come back to where they were, and the host reads once."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from cwsam_cli.distributed.exchange import TokenExchange
from cwsam_cli.model.experts import HierarchicalExperts

GROUPS, EXPERTS, DIM = 3, 4, 16


def _ranks(count: int) -> dist.ProcessGroup:
    if count == 1:
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    else:
        dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    assert dist.group.WORLD is not None
    return dist.group.WORLD


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    yield
    dist.destroy_process_group()


def _layer() -> HierarchicalExperts:
    torch.manual_seed(0)
    layer = HierarchicalExperts(DIM, 32, groups=GROUPS, experts=EXPERTS, top_groups=2, top_experts=2)
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.5 if "router" in name else 0.3)
    return layer


def _pass(layer: HierarchicalExperts, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    out = layer(x)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])]


def test_the_experts_of_a_rank_have_consecutive_numbers() -> None:
    exchange = TokenExchange(_ranks(2), groups=GROUPS, experts=2)
    first = [0, 1, 4, 5, 8, 9]  # of each group of four, the first rank has the first two
    assert exchange.number(torch.tensor(first)).tolist() == list(range(6))
    assert exchange.number(torch.tensor([2, 3, 6, 7, 10, 11])).tolist() == list(range(6, 12))


@pytest.mark.parametrize("tokens", [0, 1, 50])
def test_a_rank_alone_serves_its_tokens_as_without_an_exchange(tokens: int) -> None:
    layer, x = _layer(), torch.randn(tokens, DIM)
    expected = _pass(layer, x)
    layer.exchange = TokenExchange(_ranks(1), groups=GROUPS, experts=EXPERTS)
    for mine, theirs in zip(_pass(layer, x), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_nothing_is_read_on_the_host_besides_the_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have no values, so every other read would fail."""
    layer = _layer()
    exchange = TokenExchange(_ranks(2), groups=GROUPS, experts=EXPERTS // 2)
    for group in layer.groups:
        for name, parameter in list(group.named_parameters()):
            setattr(group, name, nn.Parameter(parameter[:2].detach()))
    reads = []

    def read(sent: Tensor, received: Tensor) -> tuple[list[int], list[list[int]]]:
        reads.append(len(sent) + len(received))
        return [120, 80], [[10] * 6, [20, 10, 10, 20, 10, 10]]

    monkeypatch.setattr(exchange, "read", read)
    layer.exchange = exchange
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.autocast("cpu", torch.bfloat16):  # torch knows the shapes of grouped products in this format only
            out = layer(torch.randn(50, DIM))
        out.sum().backward()
    assert out.shape == (50, DIM)
    assert reads == [2 * GROUPS * EXPERTS]
