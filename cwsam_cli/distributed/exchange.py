"""Bring tokens to the processes that hold their experts, and back (expert parallelism).

# R ranks that exchange, G groups, E experts per group on this rank, S slots of this rank, T slots that it receives

Each rank holds E experts of every group. Rows travel twice in the forward pass and twice in the
backward pass; weights do not travel. No row is dropped, however uneven the load: a rank may
receive no row or all rows.

The loss expects gradients that are averaged over all processes. A rank's experts receive the
summed gradients of R ranks, and FSDP averages them only over the ranks that share an expert. The
backward pass therefore divides by R before the experts, and multiplies by R after them. If R is
a power of two, this is exact in fp32 and bf16. In fp16, small gradients may underflow.
Source: Lepikhin et al., GShard, 2021; torch.distributed.all_to_all_single.
"""

from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cwsam_cli.model.experts import RunGroups, permute_rows


class TokenExchange:
    """Exchange of tokens between ranks, for one expert layer.

    Args:
        ranks: the R ranks.
        groups: number of groups G.
        experts: number of experts E per group and rank.
    """

    def __init__(self, ranks: dist.ProcessGroup, *, groups: int, experts: int) -> None:
        self._ranks, self._shape = ranks, (ranks.size(), groups, experts)

    def number(self, chosen: Tensor) -> Tensor:
        """Renumber experts from (group, rank, expert) to (rank, group, expert)."""
        numbers = torch.arange(prod(self._shape), device=chosen.device)
        return numbers.view(self._shape).transpose(0, 1).flatten()[chosen]

    def __call__(self, slots: Tensor, numbers: Tensor, run: RunGroups) -> Tensor:
        """Bring slots to their experts and back.

        Args:
            slots: rows (S, D) of this rank, sorted by number.
            numbers: numbers of their experts (S,).
            run: function that runs this rank's experts.

        Returns:
            Served rows (S, D), in the order of `slots`.
        """
        ranks, groups, experts = self._shape
        sent = numbers.new_zeros(prod(self._shape)).scatter_add_(0, numbers, torch.ones_like(numbers))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self._ranks)
        to_ranks, arrivals = self.read(sent, received)
        from_ranks = [sum(counts) for counts in arrivals]
        arrived = self._send(slots, to_ranks, from_ranks, float(ranks))
        # Rows arrive by (sender, group, expert). The experts need them by (group, expert).
        own = torch.arange(prod(self._shape), device=slots.device).view(groups, -1)[:, :experts].flatten()
        own_T, order_T = own.repeat(ranks).repeat_interleave(received, output_size=sum(from_ranks)).sort(stable=True)
        inverse_T = torch.empty_like(order_T).scatter_(0, order_T, torch.arange(len(order_T), device=slots.device))
        rows = [sum(counts) for counts in zip(*arrivals, strict=True)]
        by_group = [sum(rows[start : start + experts]) for start in range(0, len(rows), experts)]
        served = run(permute_rows(arrived, order_T, inverse_T), own_T, by_group)
        back = permute_rows(served, inverse_T, order_T)
        return self._send(back, from_ranks, to_ranks, 1 / ranks)

    def _send(self, x: Tensor, to_ranks: list[int], from_ranks: list[int], factor: float) -> Tensor:
        arrived: Tensor = _Travel.apply(x, to_ranks, from_ranks, self._ranks, factor)  # type: ignore[no-untyped-call]
        return arrived

    def read(self, sent: Tensor, received: Tensor) -> tuple[list[int], list[list[int]]]:
        """Read on the host how many rows travel. Nothing else is read.

        Args:
            sent: rows to each expert of each rank (R·G·E,).
            received: rows from each rank to each expert of this rank (R·G·E,).

        Returns:
            Rows to each rank, and rows from each rank to each expert.
        """
        both = torch.cat([sent, received]).view(2, self._shape[0], -1).tolist()
        return [sum(counts) for counts in both[0]], both[1]


class _Travel(torch.autograd.Function):
    """Send rows to the ranks of a group. Gradients travel back, and are multiplied by a factor."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, to_ranks: list[int], from_ranks: list[int], group: dist.ProcessGroup, factor: float
    ) -> Tensor:
        ctx.sizes, ctx.group, ctx.factor = (to_ranks, from_ranks), group, factor
        return _all_to_all(x, to_ranks, from_ranks, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        to_ranks, from_ranks = ctx.sizes
        return _all_to_all(grad, from_ranks, to_ranks, ctx.group).mul_(ctx.factor), None, None, None, None


def _all_to_all(x: Tensor, to_ranks: list[int], from_ranks: list[int], group: dist.ProcessGroup) -> Tensor:
    out = x.new_empty(sum(from_ranks), x.shape[1])
    dist.all_to_all_single(out, x.contiguous(), from_ranks, to_ranks, group=group)
    return out
