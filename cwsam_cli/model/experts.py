"""A hierarchical mixture of experts in place of an MLP.

# N tokens, D width, G groups, E experts per group, K = kg·ke chosen experts per token, S = N·K slots

One router chooses groups, and one router per group chooses experts in it. The weight of a chosen
expert is the product of both probabilities, renormalised so that the weights of a token sum to 1.
Identical experts therefore give exactly the output of the dense MLP. There is no capacity limit:
every token reaches its experts.

Slots are sorted by expert, and stacked weights are multiplied in one grouped product. If one
accelerator holds all groups, they are one stack, and the host reads nothing. Otherwise each group
is a product of its own, and the host reads the number of slots of each group. That costs nothing
on a CPU. torch's own grouped product reads on the host as well, except for bf16 on CUDA devices
of compute capability 9 or 10.
A loop over experts with index masks takes 1.3 × the time at 96 experts. Indexing the stack
(`weight[e]`) makes the backward pass 60 times slower.
Source: Shazeer et al. 2017; Fedus et al., Switch Transformers, 2022 (balance); Zoph et al.,
ST-MoE, 2022 (z-loss); Riquelme et al., V-MoE, 2021 (noise).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.model.grouped import grouped_linear
from cwsam_cli.model.routing import Routing, sum_routing

Activation = Callable[[Tensor], Tensor]

_STACKS = ("lin1_weight", "lin1_bias", "lin2_weight", "lin2_bias")


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

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Apply each expert to its rows.

        Args:
            x: rows (S, D), sorted by expert; S may be 0.
            numbers: number of each row's expert within the group (S,).

        Returns:
            Rows (S, D).
        """
        stacks = self.stacks()
        return _apply_experts(x, numbers, stacks, [(stack,) for stack in stacks], self.activation)

    def stacks(self) -> tuple[Tensor, ...]:
        """Return the weights and biases, in the order of `_STACKS`."""
        return tuple(getattr(self, name) for name in _STACKS)


def _apply_experts(
    x: Tensor,
    numbers: Tensor,
    stacks: Sequence[Tensor],
    parameters: Sequence[Sequence[Tensor]],
    activation: Activation,
) -> Tensor:
    """Apply each expert of one or more groups to its rows.

    Args:
        x: rows (S, D), sorted by expert.
        numbers: number of each row's expert (S,).
        stacks: values of the weights and biases of all experts, in the order of `_STACKS`.
        parameters: the parameters that make up each stack. They receive its gradient.
        activation: activation between the two layers.
    """
    weight1, bias1, weight2, bias2 = stacks
    experts = torch.arange(len(weight1), device=x.device, dtype=numbers.dtype)
    ends = torch.searchsorted(numbers, experts, right=True, out_int32=True)
    hidden = activation(grouped_linear(x, numbers, ends, weight1, bias1, [*parameters[0], *parameters[1]]))
    return grouped_linear(hidden, numbers, ends, weight2, bias2, [*parameters[2], *parameters[3]])


RunGroups = Callable[[Tensor, Tensor, list[int]], Tensor]
"""Function like `HierarchicalExperts.run_groups`."""


class Exchange(Protocol):
    """Carrier of rows between processes that each hold some experts of every group."""

    def number(self, chosen: Tensor) -> Tensor:
        """Renumber chosen experts, so that the experts of one process have consecutive numbers."""

    def __call__(self, slots: Tensor, numbers: Tensor, run: RunGroups) -> Tensor:
        """Bring slots to their experts and back.

        Args:
            slots: rows (S, D) of this process, sorted by the new numbers of their experts.
            numbers: these numbers (S,).
            run: function that runs this process's experts.

        Returns:
            Served rows (S, D), in the order of `slots`.
        """


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
        self.experts, self.activation = experts, activation
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
        self.is_whole = True
        """Whether this process holds all experts, unsharded."""
        self._packed: list[Tensor] = []
        """One stack of all groups for each of `_STACKS`, whose parts the parameters are; see `pack`."""
        self.exchange: Exchange | None = None
        """Carrier of rows to other processes. None if this process holds some part of every expert."""
        self.collect: Callable[[Routing], None] | None = None
        """Function that receives the routing of each forward pass in training mode; see `collect_routing`."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the stacks out of copies, whose parameters have storages of their own."""
        return self.__dict__ | {"_packed": []}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HierarchicalExperts":
        self._packed = []
        super()._apply(fn, recurse)
        if self.is_whole and self.groups[0].lin1_weight.device.type not in ("cpu", "meta"):
            self.pack()
        return self

    @torch.no_grad()
    def pack(self) -> None:
        """Store the weights of all groups in one stack, so that all groups are one product.

        The parameters are replaced by parts of the stack, so nothing is stored twice. Moving a
        layer to an accelerator packs it.
        """
        self._packed = []
        for name in _STACKS:
            parts = [getattr(group, name) for group in self.groups]
            stack = torch.cat(parts)
            for group, old, new in zip(self.groups, parts, stack.chunk(len(parts)), strict=True):
                setattr(group, name, nn.Parameter(new, requires_grad=old.requires_grad))
            self._packed.append(stack)

    def _is_packed(self) -> bool:
        """Whether the parameters still are parts of the stacks. Loading may have replaced them."""
        return bool(self._packed) and all(
            getattr(group, name).untyped_storage()._cdata == stack.untyped_storage()._cdata
            for name, stack in zip(_STACKS, self._packed, strict=True)
            for group in self.groups
        )

    # What `torch.compiler.assume_constant_result` sets. It imports the compiler for this, which takes 1 CPU second.
    _is_packed._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (…, D) to (…, D), in the dtype that a linear layer would return."""
        tokens = x.flatten(end_dim=-2)
        with torch.autocast(x.device.type, enabled=False):
            weights, chosen = self._route(tokens.float())
        if torch.is_autocast_enabled(x.device.type):
            tokens = tokens.to(torch.get_autocast_dtype(x.device.type))
        with torch.autocast(x.device.type, enabled=False):
            slots = self._serve(tokens, chosen).view(*x.shape[:-1], self.top_groups * self.top_experts, x.shape[-1])
            return (slots * weights.to(slots.dtype).view(*slots.shape[:-1], 1)).sum(dim=-2)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the experts of each token.

        Args:
            x: tokens (N, D) float32.

        Returns:
            Weights (N, K) float32, and numbers of the chosen experts (N, K), counted over all groups.
        """
        weights, chosen = self._route(x)
        return weights.flatten(1), chosen.flatten(1)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the experts of each token: weights and numbers (N, kg, ke), as in `route`."""
        expert_logits, group_logits = self._logits(x)
        within = expert_logits.softmax(dim=-1)
        groups = within.new_ones(len(x), 1) if group_logits is None else group_logits.softmax(dim=-1)
        best_groups, group_index = (part[..., None] for part in groups.topk(self.top_groups, dim=-1))  # (N, kg, 1)
        of_group = within.gather(1, group_index.expand(-1, -1, self.experts))
        best, expert_index = of_group.topk(self.top_experts, dim=-1)  # (N, kg, ke)
        joint = best * best_groups
        weights = joint / joint.sum(dim=(1, 2), keepdim=True)
        if self.top_groups == 1:  # renormalising cancels a single group's probability; this keeps its gradient
            weights = weights * _straight_through(best_groups)
            if self.top_experts == 1:
                weights = weights * _straight_through(best)
        if (
            self.training
        ):  # even if nothing collects it: activation checkpointing expects the same tensors on recomputation
            routing = sum_routing(group_logits, groups, expert_logits, within, group_index[..., 0], expert_index)
            if self.collect is not None:
                self.collect(routing)
        return weights, torch.add(expert_index, group_index, alpha=self.experts)

    def _logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the logits of the experts (N, G, E) and of the groups (N, G); None with one group.

        All routers are one product.
        """
        routers = [*self.routers, *([] if self.group_router is None else [self.group_router])]
        logits = F.linear(x, torch.cat([router.weight for router in routers]))
        if self.group_router is None:
            return self._noise(logits[:, None]), None
        experts, groups = logits.split([len(self.groups) * self.experts, len(self.groups)], dim=1)
        return self._noise(experts.unflatten(1, (-1, self.experts))), self._noise(groups + self.group_router.bias)

    def _noise(self, logits: Tensor) -> Tensor:
        return logits + torch.randn_like(logits) / logits.shape[-1] if self.noisy and self.training else logits

    def _serve(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Run the chosen experts on tokens (N, D): sort the slots by expert, run the groups, undo the sorting.

        Args:
            tokens: tokens (N, D).
            chosen: numbers of their experts (N, kg, ke).

        Returns:
            Slots (S, D), in the order of `chosen`.
        """
        flat = chosen.flatten() if self.exchange is None else self.exchange.number(chosen.flatten())
        numbers, order = flat.sort(stable=True)
        slots = torch.arange(len(order), device=order.device)
        inverse = torch.empty(len(order), dtype=order.dtype, device=order.device).scatter_(0, order, slots)
        dispatched = _Dispatch.apply(tokens, order, inverse, self.top_groups * self.top_experts)
        if self.exchange is None:
            served = self.run_groups(dispatched, numbers)
        else:
            served = self.exchange(dispatched, numbers, self.run_groups)
        return permute_rows(served, inverse, order)

    def run_groups(self, slots: Tensor, numbers: Tensor, sizes: list[int] | None = None) -> Tensor:
        """Run the groups on slots that are sorted by expert.

        Every group is called unless all groups are one product, also without rows: processes that
        share a group wait for each other.

        Args:
            slots: rows (S, D).
            numbers: number of each row's expert (S,), counted over all groups.
            sizes: number of rows of each group. If None, the host reads them where it needs them.

        Returns:
            Rows (S, D).
        """
        if self.is_whole and (self._is_packed() or torch.compiler.is_compiling()):
            parameters = [[getattr(group, name) for group in self.groups] for name in _STACKS]
            stacks = self._packed if self._is_packed() else [torch.cat(parts).detach() for parts in parameters]
            return _apply_experts(slots, numbers, stacks, parameters, self.activation)
        if sizes is None:
            firsts = torch.arange(len(self.groups) + 1, device=numbers.device) * self.experts
            sizes = torch.searchsorted(numbers, firsts).diff().tolist()
        parts = zip(self.groups, slots.split(sizes), numbers.split(sizes), strict=True)
        return torch.cat([group(own, number - self.experts * g) for g, (group, own, number) in enumerate(parts)])


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


def permute_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Return `x[order]` for a permutation of the rows and its inverse."""
    return _Permute.apply(x, order, inverse)


class _Permute(torch.autograd.Function):
    """Permute rows. Both passes gather; torch's own backward pass would scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


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
