"""Where a mixture's tokens went, and the losses that keep its load even and its logits small.

# N tokens, G groups, E experts per group, kg groups kept, ke experts kept in each of them

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
    """Where tokens went in one or more forward passes of one layer; without gradient."""

    values: Tensor
    """Tokens, sum of the tokens' entropies, tokens by group (G), slots by expert (G·E): (2 + G + G·E,)."""
    groups: int
    """G."""

    def __add__(self, other: "RoutingCounts") -> "RoutingCounts":
        return RoutingCounts(self.values + other.values, self.groups)

    @property
    def tokens(self) -> Tensor:
        """Number of tokens, at least 1."""
        return self.values[0].clamp(min=1)

    @property
    def chosen(self) -> Tensor:
        """Tokens by group, (G,)."""
        return self.values[2 : 2 + self.groups]

    @property
    def slots(self) -> Tensor:
        """Slots by expert, (G, E)."""
        return self.values[2 + self.groups :].view(self.groups, -1)

    @property
    def group_load(self) -> Tensor:
        """Share of the slots by group, (G,)."""
        return self.chosen / self.chosen.sum().clamp(min=1)

    @property
    def expert_load(self) -> Tensor:
        """Share of the slots by expert, (G, E)."""
        return self.slots / self.slots.sum().clamp(min=1)

    @property
    def entropy(self) -> Tensor:
        """Mean entropy of a token's expert distribution, in nats; log(G·E) at most."""
        return self.values[1] / self.tokens


@dataclass(frozen=True, slots=True)
class Routing:
    """The routers' sums over the tokens of one forward pass of one layer.

    The losses are those of this pass. Once `counts` holds the sums over several processes, they
    are this process's share: the shares of all processes add up to the loss of one large batch.
    """

    counts: RoutingCounts
    group_mass: Tensor
    """Probability of each group, (G,)."""
    expert_mass: Tensor
    """Probability of each expert in its group over the tokens that chose the group, (G, E)."""
    z_mass: Tensor
    """Squared logsumexp of the routers' logits, the mean over a level's routers."""

    @property
    def balance(self) -> Tensor:
        """Load-balancing loss of both levels; 1 per level where the load is even.

        Switch's, number · Σ share of slots · mean probability, for the groups, and for the experts
        of each group over the tokens that chose it, weighted by the group's load.
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
        """Mean squared logsumexp of the routers' logits."""
        return self.z_mass / self.counts.tokens


def sum_routing(
    group_logits: Tensor | None,
    groups: Tensor,
    expert_logits: Tensor,
    within: Tensor,
    group_index: Tensor,
    expert_index: Tensor,
) -> Routing:
    """Sum up where the tokens of one pass went.

    Args:
        group_logits: (N, G); None with one group.
        groups: probability of each group, (N, G).
        expert_logits: (N, G, E).
        within: probability of each expert in its group, (N, G, E).
        group_index: groups kept, (N, kg).
        expert_index: experts kept in each of them, (N, kg, ke).
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
    tokens = entropy.new_tensor(len(within))
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
        routing: at least one layer's.
        total: sums a tensor over the processes.
    """
    sizes = [len(own.counts.values) for own in routing.values()]
    sums = total(torch.cat([own.counts.values for own in routing.values()])).split(sizes)
    return {
        name: dataclasses.replace(own, counts=RoutingCounts(values, own.counts.groups))
        for (name, own), values in zip(routing.items(), sums, strict=True)
    }


def routing_loss(routing: Mapping[str, Routing], *, balance: float, z: float) -> Tensor:
    """Mean over the expert layers of the weighted balance and z losses.

    Args:
        routing: at least one layer's.
        balance: weight of the load-balancing loss.
        z: weight of the z-loss.
    """
    return torch.stack([balance * own.balance + z * own.z for own in routing.values()]).mean()
