"""Bring tokens to the processes that hold their experts, and back (expert parallelism).

# R ranks that exchange, G groups, E experts per group on this rank, S slots of this rank, T slots that it receives

Each rank holds E experts of every group. Rows travel twice in the forward pass and twice in the
backward pass; weights do not travel. No row is dropped, however uneven the load: a rank may
receive no row or all rows.

A rank's experts receive the gradients of R ranks summed, while FSDP averages gradients over
processes. The backward pass therefore divides by R before the experts and multiplies by R after
them. All R are consecutive ranks, so with R a power of two this is exact.
Source: Lepikhin et al., GShard, 2021; torch.distributed.all_to_all_single.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cwsam_cli.model.experts import Run, permute_rows


@dataclass(frozen=True, slots=True)
class TokenExchange:
    """Exchange of tokens between ranks, for one expert layer."""

    group: dist.ProcessGroup
    """The R ranks."""
    groups: int
    """Number of groups G."""
    experts: int
    """Number of experts E per group and rank."""

    def number(self, chosen: Tensor) -> Tensor:
        """Renumber experts from (group, rank, expert) to (rank, group, expert)."""
        shape = self.group.size(), self.groups, self.experts
        numbers = torch.arange(self.group.size() * self.groups * self.experts, device=chosen.device)
        return numbers.view(shape).transpose(0, 1).flatten()[chosen]

    def __call__(self, slots: Tensor, numbers: Tensor, run: Run) -> Tensor:
        """Bring slots to their experts and back.

        Args:
            slots: rows (S, D) of this rank, sorted by number.
            numbers: numbers of their experts (S,), in any order.
            run: function that runs this rank's experts.

        Returns:
            Served rows (S, D), in the order of `slots`.
        """
        ranks, own = self.group.size(), self.groups * self.experts
        sent = numbers.new_zeros(ranks * own).scatter_add_(0, numbers, torch.ones_like(numbers))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        sizes = torch.cat([sent.view(ranks, own).sum(dim=1), received]).tolist()  # the only read on the host
        to_ranks, counts = sizes[:ranks], sizes[ranks:]
        from_ranks = [sum(counts[start : start + own]) for start in range(0, len(counts), own)]
        rows = [sum(counts[expert::own]) for expert in range(own)]
        by_group = [rows[start : start + self.experts] for start in range(0, own, self.experts)]
        arrived = _Travel.apply(slots, to_ranks, from_ranks, self.group, 1.0 * ranks)
        # Rows arrive by (sender, group, expert). The experts need them by (group, expert).
        expert_T = torch.arange(own, device=slots.device).repeat(ranks).repeat_interleave(
            received, output_size=sum(counts)
        )
        order_T = expert_T.argsort(stable=True)
        inverse_T = torch.empty_like(order_T).scatter_(0, order_T, torch.arange(len(order_T), device=slots.device))
        served = run(permute_rows(arrived, order_T, inverse_T), by_group)
        returned: Tensor = _Travel.apply(
            permute_rows(served, inverse_T, order_T), from_ranks, to_ranks, self.group, 1.0 / ranks
        )
        return returned


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
