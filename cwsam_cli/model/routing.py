"""Count how tokens are routed to experts, and compute the losses on the routers.

# N tokens, G groups, E experts per group, kg chosen groups per token, ke chosen experts per chosen group

Source: Fedus et al., Switch Transformers, 2022 (balance); Zoph et al., ST-MoE, 2022 (z-loss).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class RoutingCounts:
    """Routing counts of one layer over one or more forward passes, without gradient."""

    values: Tensor
    """Number of tokens, sum of their entropies, tokens per group (G) and slots per expert (G·E): (2 + G + G·E,)."""
    groups: int
    """Number of groups G."""

    def __add__(self, other: "RoutingCounts") -> "RoutingCounts":
        return RoutingCounts(self.values + other.values, self.groups)

    @property
    def tokens(self) -> Tensor:
        """Number of tokens, or 1 if there are none."""
        return self.values[0].clamp(min=1)

    @property
    def chosen(self) -> Tensor:
        """Tokens per group, (G,)."""
        return self.values[2 : 2 + self.groups]

    @property
    def slots(self) -> Tensor:
        """Slots per expert, (G, E)."""
        return self.values[2 + self.groups :].view(self.groups, -1)

    @property
    def group_load(self) -> Tensor:
        """Share of the slots per group, (G,)."""
        return self.chosen / self.chosen.sum().clamp(min=1)

    @property
    def expert_load(self) -> Tensor:
        """Share of the slots per expert, (G, E)."""
        return self.slots / self.slots.sum().clamp(min=1)

    @property
    def entropy(self) -> Tensor:
        """Mean entropy of a token's expert distribution in nats, at most log(G·E)."""
        return self.values[1] / self.tokens


@dataclass(frozen=True, slots=True)
class Routing:
    """Sums over the tokens of one forward pass of one layer.

    The losses are those of this pass. If `counts` holds the sums over several processes, they are
    this process's share, and the shares of all processes sum to the loss of one large batch.
    """

    counts: RoutingCounts
    group_mass: Tensor
    """Sum of the probabilities of each group, (G,)."""
    expert_mass: Tensor
    """Sum of the probabilities of each expert, over the tokens that chose its group, (G, E)."""
    z_mass: Tensor
    """Sum of squared logsumexp of the logits: mean over the experts' routers, plus the group router."""

    @property
    def balance(self) -> Tensor:
        """Load-balancing loss of both levels. An even load gives 1 per level.

        This is Switch's loss, number · Σ share of slots · mean probability. It is taken over the
        groups, and over the experts of each group, weighted by the group's load.
        """
        groups, experts = self.expert_mass.shape
        slots, load = self.counts.slots, self.counts.group_load
        share = slots / slots.sum(dim=1, keepdim=True).clamp(min=1)
        mean = self.expert_mass / self.counts.chosen.clamp(min=1)[:, None]
        balance = (load * experts * (share * mean).sum(dim=1)).sum()
        if groups > 1:
            balance = balance + groups * (load * self.group_mass / self.counts.tokens).sum()
        return balance

    @property
    def z(self) -> Tensor:
        """Z-loss: mean squared logsumexp of the routers' logits."""
        return self.z_mass / self.counts.tokens


def sum_routing(
    group_logits: Tensor | None,
    groups: Tensor,
    expert_logits: Tensor,
    within: Tensor,
    group_index: Tensor,
    expert_index: Tensor,
) -> Routing:
    """Sum the routing over the tokens of one pass.

    Args:
        group_logits: logits of the groups (N, G); None with one group.
        groups: probability of each group (N, G).
        expert_logits: logits of the experts (N, G, E).
        within: probability of each expert in its group (N, G, E).
        group_index: chosen groups (N, kg).
        expert_index: chosen experts in each chosen group (N, kg, ke).
    """
    count, experts = within.shape[1:]
    of_group = F.one_hot(group_index, count).to(within.dtype)  # (N, kg, G)
    picked = of_group.sum(dim=1)  # (N, G)
    slots = F.one_hot(expert_index, experts).sum(dim=2).to(within.dtype)  # (N, kg, E)
    by_expert = torch.einsum("nke,nkg->ge", slots, of_group)
    z = expert_logits.logsumexp(dim=-1).square().mean(dim=1).sum()
    if group_logits is not None:
        z = z + group_logits.logsumexp(dim=-1).square().sum()
    joint = (groups[..., None] * within).flatten(1).detach()
    entropy = -(joint * joint.clamp(min=1e-9).log()).sum()
    tokens = entropy.new_full((), len(within))
    counts = torch.cat([torch.stack([tokens, entropy]), picked.sum(dim=0), by_expert.flatten()]).detach()
    return Routing(
        counts=RoutingCounts(counts, count),
        group_mass=groups.sum(dim=0),
        expert_mass=torch.einsum("nge,ng->ge", within, picked),
        z_mass=z,
    )


def sum_counts(routing: Mapping[str, Routing], total: Callable[[Tensor], Tensor]) -> dict[str, Routing]:
    """Replace the counts by their sums over all processes, in one reduction.

    Args:
        routing: routing by name of the layer, at least one.
        total: function that sums a tensor over all processes.
    """
    sizes = [len(own.counts.values) for own in routing.values()]
    sums = total(torch.cat([own.counts.values for own in routing.values()])).split(sizes)
    return {
        name: dataclasses.replace(own, counts=RoutingCounts(values, own.counts.groups))
        for (name, own), values in zip(routing.items(), sums, strict=True)
    }


def routing_loss(routing: Mapping[str, Routing], *, balance: float, z: float) -> Tensor:
    """Compute the mean over the expert layers of the weighted balance and z-losses.

    Args:
        routing: routing by name of the layer, at least one.
        balance: weight of the load-balancing loss.
        z: weight of the z-loss.
    """
    return torch.stack([balance * own.balance + z * own.z for own in routing.values()]).mean()
