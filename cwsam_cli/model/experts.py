"""A hierarchical mixture of experts in place of an MLP.

# N tokens, D width, G groups, E experts per group, K = kg·ke chosen experts per token, S = N·K slots

One router chooses groups, and one router per group chooses experts in it. The weight of a chosen
expert is the product of both probabilities, renormalised so that the weights of a token sum to 1.
Identical experts therefore give exactly the output of the dense MLP. There is no capacity limit:
every token reaches its experts.

Slots are sorted by expert, and each group is one grouped matrix product over its stacked
weights. A loop over experts with index masks takes 1.3 × the time at 96 experts. Indexing the
stack (`weight[e]`) makes the backward pass 60 times slower.
Source: Shazeer et al. 2017; Fedus et al., Switch Transformers, 2022 (balance); Zoph et al.,
ST-MoE, 2022 (z-loss); Riquelme et al., V-MoE, 2021 (noise).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.model.routing import Routing, sum_routing

Activation = Callable[[Tensor], Tensor]


class ExpertGroup(nn.Module):
    """Group of E two-layer MLPs with stacked weights, which are multiplied, frozen and sharded together."""

    def __init__(self, dim: int, hidden: int, experts: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.lin1_weight = nn.Parameter(torch.empty(experts, hidden, dim))
        self.lin1_bias = nn.Parameter(torch.empty(experts, hidden))
        self.lin2_weight = nn.Parameter(torch.empty(experts, dim, hidden))
        self.lin2_bias = nn.Parameter(torch.empty(experts, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every expert like a linear layer of torch."""
        for weight, bias in ((self.lin1_weight, self.lin1_bias), (self.lin2_weight, self.lin2_bias)):
            bound = weight.shape[-1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor, rows: list[int]) -> Tensor:
        """Apply each expert to its rows.

        Args:
            x: rows (S, D), sorted by expert; S may be 0.
            rows: number of rows of each expert.

        Returns:
            Rows (S, D).
        """
        hidden = self.activation(_linear(x, self.lin1_weight, self.lin1_bias, rows))
        return _linear(hidden, self.lin2_weight, self.lin2_bias, rows)


def _linear(x: Tensor, weight: Tensor, bias: Tensor, rows: list[int]) -> Tensor:
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if not x.shape[0]:  # the grouped product has no backward pass without rows
        return torch.einsum("nd,ehd->nh", x, weight) + bias.sum(dim=0)
    ends = torch.tensor(list(accumulate(rows)), dtype=torch.int32, device=x.device)
    out: Tensor = _AddBias.apply(F.grouped_mm(x, weight.transpose(1, 2), offs=ends), bias, rows)
    return out


class _AddBias(torch.autograd.Function):
    """Add each expert's bias to its rows in place. One bias per row takes 1/4 of the layer's time at D = 256."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, rows: list[int]) -> Tensor:
        ctx.rows = rows
        ctx.mark_dirty(x)
        for part, own in zip(x.split(rows), bias, strict=True):
            part.add_(own)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        wanted = ctx.needs_input_grad[1]
        sums = torch.stack([part.sum(dim=0) for part in grad.split(ctx.rows)]) if wanted else None
        return grad, sums, None


class HierarchicalExperts(nn.Module):
    """Routers and groups of experts, in place of an MLP D → hidden → D.

    Args:
        dim: width D of a token.
        hidden: width between the two layers of an expert.
        groups: number of groups G.
        experts: number of experts E per group.
        top_groups: number of groups chosen per token.
        top_experts: number of experts chosen per chosen group.
        noisy: whether to add Gaussian noise to the routers' logits in training. Its standard deviation
            is 1 / number of logits.
        activation: activation between the two layers of an expert.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        groups: int,
        experts: int,
        top_groups: int,
        top_experts: int,
        noisy: bool = False,
        activation: Activation = F.gelu,
    ) -> None:
        super().__init__()
        self.experts = experts
        self.top_groups, self.top_experts, self.noisy = top_groups, top_experts, noisy
        self.group_router = nn.Linear(dim, groups) if groups > 1 else None
        routers = [nn.Linear(dim, experts, bias=False) for _ in range(groups)]
        self.routers = nn.ModuleList(routers)
        self.groups = nn.ModuleList(ExpertGroup(dim, hidden, experts, activation) for _ in range(groups))
        for router in routers:
            nn.init.normal_(router.weight, std=0.02)
        if self.group_router is not None:
            nn.init.normal_(self.group_router.weight, std=0.02)
            nn.init.zeros_(self.group_router.bias)
        self.collect: Callable[[Routing], None] | None = None
        """Function that receives the routing of each forward pass in training mode; see `collect_routing`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (…, D) to (…, D), in the dtype that a linear layer would return."""
        tokens = x.flatten(end_dim=-2)
        if torch.is_autocast_enabled(x.device.type):
            tokens = tokens.to(torch.get_autocast_dtype(x.device.type))
        with torch.autocast(x.device.type, enabled=False):
            weights, chosen = self.route(x.flatten(end_dim=-2).float())
            return self._serve(tokens, weights, chosen).reshape(x.shape)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the experts of each token.

        Args:
            x: tokens (N, D) float32.

        Returns:
            Weights (N, K) float32, and numbers of the chosen experts (N, K), counted over all groups.
        """
        expert_logits = self._noise(torch.stack([router(x) for router in self.routers], dim=1))  # (N, G, E)
        within = expert_logits.softmax(dim=-1)
        if self.group_router is None:
            group_logits, groups = None, within.new_ones(len(x), 1)
        else:
            group_logits = self._noise(self.group_router(x))
            groups = group_logits.softmax(dim=-1)
        best_groups, group_index = groups.topk(self.top_groups, dim=-1)  # (N, kg)
        experts = within.shape[-1]
        of_group = within.gather(1, group_index[..., None].expand(-1, -1, experts))
        best, expert_index = of_group.topk(self.top_experts, dim=-1)  # (N, kg, ke)
        joint = best * best_groups[..., None]
        weights = joint / joint.sum(dim=(1, 2), keepdim=True)
        if self.top_groups == 1:  # renormalising cancels a single group's probability; this keeps its gradient
            weights = weights * _straight_through(best_groups)[..., None]
            if self.top_experts == 1:
                weights = weights * _straight_through(best)
        chosen = group_index[..., None] * experts + expert_index
        if (
            self.training
        ):  # even if nothing collects it: activation checkpointing expects the same tensors on recomputation
            routing = sum_routing(group_logits, groups, expert_logits, within, group_index, expert_index)
            if self.collect is not None:
                self.collect(routing)
        return weights.flatten(1), chosen.flatten(1)

    def _noise(self, logits: Tensor) -> Tensor:
        return logits + torch.randn_like(logits) / logits.shape[-1] if self.noisy and self.training else logits

    def _serve(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Run the chosen experts. Every group is called, even without rows: sharded groups wait for each other."""
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        slots: Tensor = _Dispatch.apply(tokens, order, inverse, chosen.shape[1])
        rows = self._rows(flat)
        parts = slots.split([sum(own) for own in rows])
        served = torch.cat([group(part, own) for group, part, own in zip(self.groups, parts, rows, strict=True)])
        back = _Collect.apply(served, order, inverse).view(*chosen.shape, tokens.shape[1])
        return torch.einsum("nkd,nk->nd", back, weights.to(back.dtype))

    def _rows(self, chosen: Tensor) -> list[list[int]]:
        """Count the slots of each expert of each group. Only these shapes depend on the data."""
        counts = torch.bincount(chosen, minlength=len(self.groups) * self.experts)
        return counts.view(len(self.groups), -1).tolist()


class _Dispatch(torch.autograd.Function):
    """Copy each token to its slots, sorted by expert. Both passes gather; torch's own backward pass would scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, slots: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.slots = slots
        return x.index_select(0, order // slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        return (
            grad.index_select(0, inverse).view(len(inverse) // ctx.slots, ctx.slots, grad.shape[1]).sum(dim=1),
            None,
            None,
            None,
        )


class _Collect(torch.autograd.Function):
    """Undo the sorting by expert. Both passes gather."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order), None, None


def _straight_through(probability: Tensor) -> Tensor:
    """Return exactly 1, with the gradient of log p."""
    return probability / probability.detach()


def expert_layers(model: nn.Module) -> Iterator[tuple[str, HierarchicalExperts]]:
    """Yield the expert layers of a model by name."""
    for name, module in model.named_modules():
        if isinstance(module, HierarchicalExperts):
            yield name, module


@contextmanager
def collect_routing(model: nn.Module) -> Iterator[dict[str, Routing]]:
    """Collect the routing of each expert layer's latest forward pass in training mode.

    Layers do not keep their routing themselves. It would keep the graph of a whole block alive,
    which activation checkpointing recomputes in the backward pass.

    Yields:
        Routing by name of the layer. It is filled inside the `with` statement only.
    """
    collected: dict[str, Routing] = {}

    def keep(name: str) -> Callable[[Routing], None]:
        return lambda routing: collected.update({name: routing})

    layers = list(expert_layers(model))
    for name, layer in layers:
        layer.collect = keep(name)
    try:
        yield collected
    finally:
        for _, layer in layers:
            layer.collect = None
