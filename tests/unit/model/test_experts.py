"""The mixture of experts equals a plain loop, serves every token, and its routers learn."""

import dataclasses
import math
import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from cwsam_cli.model.encoder import MLP
from cwsam_cli.model.experts import HierarchicalExperts, collect_routing, expert_layers
from cwsam_cli.model.routing import Routing, routing_loss, sum_counts
from tests.pretended_accelerator import COUNT, DEVICE

DIM, HIDDEN = 16, 24
SHAPES = [
    # groups, experts, groups kept, experts kept
    (1, 4, 1, 1),
    (1, 4, 1, 2),
    (1, 4, 1, 4),
    (3, 4, 1, 1),
    (3, 4, 1, 2),
    (3, 4, 2, 1),
    (3, 4, 2, 2),
    (2, 3, 2, 3),
    (4, 1, 2, 1),
]


def _layer(groups: int = 3, experts: int = 4, kg: int = 2, ke: int = 2, **changes: Any) -> HierarchicalExperts:
    """Experts that differ, and routers sure enough of themselves to use them all."""
    torch.manual_seed(0)
    layer = HierarchicalExperts(
        DIM, HIDDEN, groups=groups, experts=experts, top_groups=kg, top_experts=ke, **changes
    ).eval()
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.5 if "router" in name else 0.3)
    return layer


def _tokens(count: int = 24, seed: int = 1) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def _oracle(layer: HierarchicalExperts, x: Tensor) -> Tensor:
    """Token by token and expert by expert: nothing sorted, nothing batched."""
    rows = []
    for token in x:
        groups = torch.ones(1) if layer.group_router is None else layer.group_router(token).softmax(dim=0)
        scores, certainty = {}, {}
        for g in groups.topk(layer.top_groups).indices.tolist():
            within = layer.routers[g](token).softmax(dim=0)
            for e in within.topk(layer.top_experts).indices.tolist():
                scores[g, e] = groups[g] * within[e]
                certainty[g, e] = torch.ones(())
                if layer.top_groups == 1:  # 1, with the gradient of the logarithm
                    certainty[g, e] = groups[g] / groups[g].detach()
                    if layer.top_experts == 1:
                        certainty[g, e] = certainty[g, e] * within[e] / within[e].detach()
        total = sum(scores.values())
        served = torch.zeros(DIM)
        for (g, e), score in scores.items():
            group = layer.groups[g]
            hidden = F.gelu(F.linear(token, group.lin1_weight[e], group.lin1_bias[e]))
            answer = F.linear(hidden, group.lin2_weight[e], group.lin2_bias[e])
            served = served + score / total * certainty[g, e] * answer
        rows.append(served)
    return torch.stack(rows)


def _gradients(layer: HierarchicalExperts, y: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Of a random projection of the output; 0 where nothing arrives."""
    layer.zero_grad()
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.device)
    names, tensors = zip(*layer.named_parameters(), strict=True)
    grads = torch.autograd.grad((y.float() * direction).sum(), [x, *tensors], allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if grad is None else grad
        for name, tensor, grad in zip(("input", *names), (x, *tensors), grads, strict=True)
    }


def _one_expert_everywhere(layer: HierarchicalExperts) -> MLP:
    """Make all experts one MLP."""
    mlp = MLP(DIM, HIDDEN)
    with torch.no_grad():
        for group in layer.groups:
            for lin in ("lin1", "lin2"):
                for kind in ("weight", "bias"):
                    getattr(group, f"{lin}_{kind}").copy_(getattr(getattr(mlp, lin), kind))
    return mlp


def _only_group(layer: HierarchicalExperts, group: int) -> None:
    """Bias the group router so that every token goes to one group first."""
    assert layer.group_router is not None
    with torch.no_grad():
        layer.group_router.bias[group] = 50.0


def _trained(layer: HierarchicalExperts, x: Tensor) -> Routing:
    with collect_routing(layer.train()) as routing:
        layer(x)
    return routing[""]


# What comes out, and what goes back


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_all_gradients_equal_a_plain_loop(shape: tuple[int, int, int, int], packed: bool) -> None:
    layer, x = _layer(*shape), _tokens().requires_grad_()
    if packed:
        layer.pack()
    expected, served = _oracle(layer, x), layer(x)
    torch.testing.assert_close(served, expected)
    theirs, ours = _gradients(layer, expected, x), _gradients(layer, served, x)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("shape", [(1, 4, 1, 2), (3, 4, 1, 1), (3, 4, 2, 2)])
def test_outputs_and_gradients_stay_close_to_the_loop_in_bfloat16(shape: tuple[int, int, int, int]) -> None:
    layer, x = _layer(*shape), _tokens().requires_grad_()
    expected = _oracle(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        served = layer(x)
    assert served.dtype == torch.bfloat16
    assert (served - expected).norm() < 0.02 * expected.norm()
    theirs, ours = _gradients(layer, expected, x), _gradients(layer, served, x)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 0.03 * gradient.norm(), name


def test_thousands_of_rows_an_expert_lose_nothing_of_the_gradient_in_bfloat16() -> None:
    """Summing that many numbers in bfloat16 itself would stop growing."""
    layer, x = _layer(groups=2, experts=2, kg=2, ke=2), _tokens(6000)
    direction = torch.randn(6000, DIM, generator=torch.Generator().manual_seed(2)) + 1
    gradients = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            served = layer(x)
        (served.float() * direction).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in layer.named_parameters()})
    exact, rough = gradients
    for name, gradient in exact.items():
        assert gradient is not None
        assert (rough[name] - gradient).norm() < 0.03 * gradient.norm(), name


def _on_accelerator(shape: tuple[int, int, int, int], device: str) -> tuple[Tensor, dict[str, Tensor], int]:
    """Output and gradients of a layer, and the number of its operations in a forward pass without gradients."""
    layer, x = _layer(*shape).to(device), _tokens().to(device).requires_grad_()
    with torch.no_grad():
        layer(x)
    COUNT.clear()
    with torch.no_grad():
        layer(x.view(2, 3, 4, DIM))
    operations = COUNT["operations"]
    y = layer(x)
    gradients = _gradients(layer, y, x)
    assert not COUNT["reads"] and not COUNT["downs"]
    return y.detach().cpu(), {name: gradient.cpu() for name, gradient in gradients.items()}, operations


@pytest.mark.parametrize(("shape", "most"), [((6, 16, 2, 2), 40), ((3, 4, 2, 2), 40), ((1, 4, 1, 1), 45)])
def test_an_accelerator_never_waits_for_the_host(
    accelerated: Callable[..., Any], shape: tuple[int, int, int, int], most: int
) -> None:
    y, gradients, operations = accelerated(_on_accelerator, shape, DEVICE)
    assert operations <= most
    expected, theirs, _ = accelerated(_on_accelerator, shape, "cpu")
    torch.testing.assert_close(y, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_replaced_weights_count_and_copies_keep_theirs() -> None:
    layer, other, x = _layer(), _layer(), _tokens()
    for packed in (layer, other):
        packed.pack()
    nn.init.zeros_(other.groups[1].lin2_weight)
    expected = other(x)
    layer.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(layer(x), expected)
    copy = deepcopy(other)
    nn.init.ones_(other.groups[1].lin2_weight)
    torch.testing.assert_close(copy(x), expected)
    torch.testing.assert_close(other(x), _oracle(other, x))


def test_any_leading_shape_is_a_list_of_tokens() -> None:
    layer, x = _layer(), _tokens()
    with torch.no_grad():
        torch.testing.assert_close(layer(x.view(2, 3, 4, DIM)), layer(x).view(2, 3, 4, DIM))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_of_a_token_sum_to_1(shape: tuple[int, int, int, int]) -> None:
    layer = _layer(*shape)
    with torch.no_grad():
        for group in layer.groups:  # every expert answers 5, so that the answer is 5 · Σ w
            group.lin2_weight.zero_()
            group.lin2_bias.fill_(5.0)
        torch.testing.assert_close(layer(_tokens()), torch.full((24, DIM), 5.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_identical_experts_are_the_dense_mlp_whatever_the_router_says(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    layer, x = _layer(*shape), _tokens()
    mlp = _one_expert_everywhere(layer)
    torch.manual_seed(seed)
    for name, parameter in layer.named_parameters():
        if "router" in name:
            nn.init.normal_(parameter, std=3.0)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), mlp(x))


def test_the_activation_is_the_one_given() -> None:
    layer, x = _layer(activation=F.relu), _tokens()
    mlp = _one_expert_everywhere(layer)
    mlp.activation = F.relu
    with torch.no_grad():
        torch.testing.assert_close(layer(x), mlp(x))


def test_deterministic_in_eval() -> None:
    layer, x = _layer(noisy=True), _tokens(200)
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x))


# Every token is served


@pytest.mark.parametrize("favoured", [0, 1, 2])
@pytest.mark.parametrize(("kg", "ke"), [(1, 1), (1, 2), (2, 2)])
def test_no_token_is_dropped_when_all_want_the_same_group(favoured: int, kg: int, ke: int) -> None:
    layer, x = _layer(kg=kg, ke=ke), _tokens(40)
    _only_group(layer, favoured)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), _oracle(layer, x))


def test_no_token_is_dropped_when_all_want_the_same_expert() -> None:
    layer, x = _layer(kg=1, ke=1), _tokens(40)
    _only_group(layer, 1)
    x[:, 0] = 10.0
    with torch.no_grad():
        layer.routers[1].weight[3, 0] = 10.0
        expert = MLP(DIM, HIDDEN)
        group = layer.groups[1]
        expert.lin1.weight.copy_(group.lin1_weight[3])
        expert.lin1.bias.copy_(group.lin1_bias[3])
        expert.lin2.weight.copy_(group.lin2_weight[3])
        expert.lin2.bias.copy_(group.lin2_bias[3])
        torch.testing.assert_close(layer(x), expert(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_without_tokens_have_a_gradient_of_zero_and_not_none(dtype: torch.dtype) -> None:
    layer = _layer(kg=1)
    _only_group(layer, 1)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        layer(_tokens()).float().square().sum().backward()
    for index, group in enumerate(layer.groups):
        for name, parameter in group.named_parameters():
            assert parameter.grad is not None, (index, name)
            assert bool(parameter.grad.any()) == (index == 1), (index, name)


@pytest.mark.parametrize("learning", [True, False])
def test_every_group_is_called_once_in_every_forward_pass(learning: bool) -> None:
    layer = _layer(kg=1).train(learning)
    _only_group(layer, 2)
    rows: dict[int, list[int]] = {}
    for index, group in enumerate(layer.groups):
        group.register_forward_hook(
            lambda module, args, output, index=index: rows.setdefault(index, []).append(len(args[0]))
        )
    for _ in range(2):
        layer(_tokens(10))
    assert rows == {0: [0, 0], 1: [0, 0], 2: [20, 20]}


def test_a_token_of_its_own_is_served_as_among_others() -> None:
    layer, x = _layer(), _tokens()
    with torch.no_grad():
        torch.testing.assert_close(layer(x[5:6]), layer(x)[5:6])


# Routers


@pytest.mark.parametrize(("kg", "ke"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_gradients_reach_every_router_from_the_output_alone(kg: int, ke: int) -> None:
    layer = _layer(kg=kg, ke=ke)
    (layer(_tokens(64)) * torch.randn(64, DIM)).sum().backward()
    for name, parameter in layer.named_parameters():
        if "router" in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-3, name


@pytest.mark.parametrize("kept", [1, 2])
def test_gradients_reach_the_router_of_an_only_group(kept: int) -> None:
    layer = _layer(groups=1, kg=1, ke=kept)
    (layer(_tokens(64)) * torch.randn(64, DIM)).sum().backward()
    gradient = layer.routers[0].weight.grad
    assert gradient is not None and gradient.abs().max() > 1e-3


@pytest.mark.parametrize(("kg", "ke"), [(1, 1), (1, 2), (2, 1)])
def test_routers_learn_which_experts_answer_best(kg: int, ke: int) -> None:
    layer, x = _layer(kg=kg, ke=ke), _tokens(64)
    with torch.no_grad():  # group 2's expert 1 answers 0, all others something else
        for index, group in enumerate(layer.groups):
            group.lin2_weight.zero_()
            group.lin2_bias.fill_(1.0)
            if index == 2:
                group.lin2_bias[1] = 0.0
    routers = [parameter for name, parameter in layer.named_parameters() if "router" in name]
    optimizer = torch.optim.Adam(routers, lr=0.05)
    before = layer(x).square().mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert layer(x).square().mean().item() < 0.7 * before


def test_routing_is_computed_in_float32_under_bfloat16() -> None:
    layer, x = _layer(), _tokens()
    exact = _trained(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = _trained(layer, x)
    for ours, theirs in (
        (mixed.counts.values, exact.counts.values),
        (mixed.z, exact.z),
        (mixed.balance, exact.balance),
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("where", ["routers", "tokens"])
def test_what_is_one_number_in_bfloat16_is_told_apart_by_the_routers(where: str) -> None:
    layer, x = _layer(groups=1, experts=2, kg=1, ke=1), torch.ones(3, DIM)
    group, router = layer.groups[0], layer.routers[0].weight
    with torch.no_grad():
        group.lin2_weight.zero_()
        group.lin2_bias.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, DIM))
        router.zero_()
        router[0, 0], router[1, 1] = 1.0, 1.0  # each expert looks at a value of its own
        (router if where == "routers" else x)[1, 1] = 1.001
    if where == "tokens":
        x = x[1:2]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert (layer(x) == 1).all()


def test_noise_on_the_routers_changes_training_and_not_evaluation() -> None:
    noisy, plain, x = _layer(noisy=True), _layer(), _tokens(200)
    with torch.no_grad():
        assert torch.equal(noisy(x), plain(x))
        noisy.train(), plain.train()
        assert torch.equal(plain(x), plain(x))
        assert not torch.equal(noisy(x), noisy(x))


def test_noise_sends_some_tokens_to_other_groups_and_experts() -> None:
    noisy, plain, x = _layer(noisy=True, kg=1, ke=1), _layer(kg=1, ke=1), _tokens(500)
    with torch.no_grad():
        ours, theirs = _trained(noisy, x), _trained(plain, x)
    assert not torch.equal(ours.counts.group_load, theirs.counts.group_load)
    assert (ours.counts.expert_load - theirs.counts.expert_load).abs().sum() < 0.5


# Losses and load


def _even() -> tuple[HierarchicalExperts, Tensor]:
    """Twelve tokens, one for each of 3 · 4 experts, and routers that know it."""
    layer, x = _layer(kg=1, ke=1), torch.eye(12, DIM)
    assert layer.group_router is not None
    with torch.no_grad():
        for parameter in (layer.group_router.bias, layer.group_router.weight, *layer.routers.parameters()):
            parameter.zero_()
        for token in range(12):
            layer.group_router.weight[token // 4, token] = 2.0
            for router in layer.routers:
                router.weight[token % 4, token] = 2.0
    return layer, x


def test_the_balance_loss_of_an_even_load_is_1_a_level() -> None:
    layer, x = _even()
    routing = _trained(layer, x)
    torch.testing.assert_close(routing.counts.expert_load, torch.full((3, 4), 1 / 12))
    assert routing.balance.item() == pytest.approx(2.0, abs=1e-6)
    alone = _layer(groups=1, kg=1, ke=1)
    nn.init.zeros_(alone.routers[0].weight)
    assert _trained(alone, x).balance.item() == pytest.approx(1.0, abs=1e-6)


def test_the_balance_loss_grows_with_the_skew_of_either_level() -> None:
    losses = []
    for bias in (0.0, 0.5, 1.0, 3.0):
        layer, x = _even()
        assert layer.group_router is not None
        with torch.no_grad():
            layer.group_router.bias[1] = bias
        losses.append(_trained(layer, x).balance.item())
    assert losses == sorted(losses) and losses[1] == pytest.approx(2.0, abs=0.01) and losses[-1] > 3.0
    layer, x = _even()
    with torch.no_grad():
        layer.routers[2].weight[0] = 5.0
    assert _trained(layer, x).balance.item() > 2.3


def test_the_balance_loss_of_one_expert_with_all_tokens_by_hand() -> None:
    layer = _layer(groups=2, experts=2, kg=1, ke=1)
    assert layer.group_router is not None
    with torch.no_grad():
        layer.group_router.weight.zero_()
        layer.group_router.bias.copy_(torch.tensor([math.log(3), 0.0]))  # p = 3/4 and 1/4
        for router in layer.routers:
            router.weight.copy_(torch.tensor([[math.log(4)], [0.0]]).expand(2, DIM) / DIM)  # p = 4/5 and 1/5
    routing = _trained(layer, torch.ones(7, DIM))
    assert routing.balance.item() == pytest.approx(2 * (3 / 4) + 2 * (4 / 5), rel=1e-5)
    torch.testing.assert_close(routing.counts.group_load, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(routing.counts.expert_load, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("shape", [(1, 4, 1, 2), (3, 4, 2, 2)])
def test_the_balance_loss_of_a_random_router_by_hand(shape: tuple[int, int, int, int]) -> None:
    groups, experts, kg, ke = shape
    layer, x = _layer(*shape), _tokens(50)
    routing = _trained(layer, x)
    p = torch.stack([router(x).softmax(dim=1) for router in layer.routers], dim=1)  # (N, G, E)
    q = torch.ones(50, 1) if layer.group_router is None else layer.group_router(x).softmax(dim=1)
    kept = [set(q[n].topk(kg).indices.tolist()) for n in range(50)]
    expected = 0.0
    for g in range(groups):
        members = [n for n in range(50) if g in kept[n]]
        load = len(members) / (50 * kg)
        if groups > 1:
            expected += groups * load * q[:, g].mean().item()
        for e in range(experts):
            chosen = sum(e in p[n, g].topk(ke).indices for n in members)
            share = chosen / (len(members) * ke)
            expected += load * experts * share * p[members, g, e].mean().item()
    assert routing.balance.item() == pytest.approx(expected, rel=1e-5)


def test_descent_on_the_balance_loss_alone_spreads_the_tokens() -> None:
    layer, x = _layer(kg=1, ke=1).train(), _tokens(200)
    assert layer.group_router is not None
    with torch.no_grad():
        layer.group_router.bias[0] = 3.0
    before = _trained(layer, x)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(30):
        optimizer.zero_grad()
        _trained(layer, x).balance.backward()
        optimizer.step()
    after = _trained(layer, x)
    assert before.counts.group_load[0] > 0.7
    assert after.counts.group_load[0] < before.counts.group_load[0] - 0.15
    assert after.balance.item() < before.balance.item()


def test_the_balance_and_z_losses_reach_all_routers_and_no_expert() -> None:
    for loss in ("balance", "z"):
        layer = _layer(kg=2, ke=2)
        getattr(_trained(layer, _tokens(64)), loss).backward()
        for name, parameter in layer.named_parameters():
            reached = parameter.grad is not None and bool(parameter.grad.any())
            assert reached == ("router" in name), (loss, name)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_z_loss_is_the_mean_squared_logsumexp_of_each_level(groups: int) -> None:
    layer, x = _layer(groups=groups, kg=1), _tokens(9)
    expected = sum(
        math.log(sum(math.exp(logit) for logit in logits)) ** 2
        for router in layer.routers
        for logits in router(x).tolist()
    ) / (9 * groups)
    if layer.group_router is not None:
        logits = layer.group_router(x).tolist()
        expected += sum(math.log(sum(math.exp(logit) for logit in row)) ** 2 for row in logits) / 9
    assert _trained(layer, x).z.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_loads_are_shares_of_the_slots(shape: tuple[int, int, int, int]) -> None:
    groups, experts, kg, ke = shape
    layer, x = _layer(*shape), _tokens(50)
    rows: list[Tensor] = []
    for group in layer.groups:
        group.register_forward_hook(
            lambda module, args, output: rows.append(torch.bincount(args[1], minlength=experts))
        )
    routing = _trained(layer, x)
    assert routing.counts.expert_load.shape == (groups, experts)
    assert float(routing.counts.expert_load.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(routing.counts.group_load.sum()) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(routing.counts.expert_load.sum(dim=1), routing.counts.group_load)
    torch.testing.assert_close(routing.counts.expert_load * (50 * kg * ke), torch.stack(rows).float())


def test_the_entropy_of_routers_that_know_nothing_is_the_logarithm_of_the_experts() -> None:
    layer, x = _layer(), _tokens()
    unsure = _trained(layer, x).counts.entropy.item()
    for name, parameter in layer.named_parameters():
        if "router" in name:
            nn.init.zeros_(parameter)
    assert _trained(layer, x).counts.entropy.item() == pytest.approx(math.log(12), rel=1e-5)
    assert 0 < unsure < math.log(12)


def test_evaluation_collects_no_routing() -> None:
    layer = _layer()
    with collect_routing(layer.eval()) as routing:
        layer(_tokens())
    assert routing == {}


def test_nothing_is_collected_outside_the_block() -> None:
    layer = _layer().train()
    with collect_routing(layer) as routing:
        layer(_tokens())
    kept = routing[""]
    layer(_tokens(5))
    assert routing[""] is kept


def test_the_routing_loss_is_the_mean_over_the_layers_of_the_weighted_losses() -> None:
    model = nn.Sequential(_layer(), nn.LayerNorm(DIM), _layer(groups=1, kg=1))
    assert [name for name, _ in expert_layers(model)] == ["0", "2"]
    with collect_routing(model.train()) as routing:
        model(_tokens())
    assert [*routing] == ["0", "2"]
    loss = routing_loss(routing, balance=0.5, z=2.0)
    expected = sum(0.5 * own.balance.item() + 2.0 * own.z.item() for own in routing.values()) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert loss.requires_grad


def test_a_dense_model_has_no_routing() -> None:
    model = nn.Sequential(MLP(DIM, HIDDEN)).train()
    with collect_routing(model) as routing:
        model(_tokens())
    assert routing == {}


# Freezing


@pytest.mark.parametrize("ke", [1, 2])
def test_a_frozen_group_gets_no_gradient_and_still_passes_one_on(ke: int) -> None:
    gradients = []
    for frozen in (False, True):
        layer, x = _layer(kg=2, ke=ke), _tokens().requires_grad_()
        layer.groups[0].requires_grad_(not frozen)
        layer(x).square().sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
        for index, group in enumerate(layer.groups):
            for name, parameter in group.named_parameters():
                assert (parameter.grad is None) == (frozen and index == 0), (index, name)
    torch.testing.assert_close(*gradients)


# A new layer


def test_new_routers_begin_small_and_unbiased_and_experts_as_linear_layers_do() -> None:
    torch.manual_seed(0)
    layer = HierarchicalExperts(64, 256, groups=6, experts=16, top_groups=2, top_experts=2)
    assert layer.group_router is not None
    for router in (*layer.routers, layer.group_router):
        assert router.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not layer.group_router.bias.any()
    for group in layer.groups:
        for name, fan_in in (("lin1_weight", 64), ("lin2_weight", 256)):
            tensor = getattr(group, name)
            assert tensor.abs().max().item() == pytest.approx(fan_in**-0.5, rel=1e-3)
            assert tensor.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.02)


def test_one_group_has_no_group_router() -> None:
    layer = _layer(groups=1, kg=1)
    assert layer.group_router is None
    assert not [name for name, _ in layer.named_parameters() if "group_router" in name]


# A large batch that several processes share


def _cut(layer: HierarchicalExperts, *parts: Tensor) -> list[Routing]:
    """The routing of each part of a batch."""
    return [_trained(layer, part) for part in parts]


@pytest.mark.parametrize("shape", [(1, 4, 1, 2), (3, 4, 1, 1), (3, 4, 2, 2)])
def test_shares_of_the_routing_add_up_to_that_of_the_whole_batch(shape: tuple[int, int, int, int]) -> None:
    layer, x = _layer(*shape), _tokens(40)
    whole = _trained(layer, x)
    parts = _cut(layer, x[:7], x[7:7], x[7:30], x[30:])  # one is empty
    counts = sum((part.counts for part in parts[1:]), parts[0].counts)
    shares = [dataclasses.replace(part, counts=counts) for part in parts]
    torch.testing.assert_close(torch.stack([share.balance for share in shares]).sum(), whole.balance)
    torch.testing.assert_close(torch.stack([share.z for share in shares]).sum(), whole.z)
    for share in shares:  # what has no gradient is the whole's in each
        torch.testing.assert_close(share.counts.group_load, whole.counts.group_load)
        torch.testing.assert_close(share.counts.expert_load, whole.counts.expert_load)
        torch.testing.assert_close(share.counts.entropy, whole.counts.entropy)


def test_gradients_of_the_shares_add_up_too() -> None:
    layer, x = _layer(kg=1), _tokens(40)
    routers = [parameter for name, parameter in layer.named_parameters() if "router" in name]
    whole = _trained(layer, x)
    expected = torch.autograd.grad(whole.balance + whole.z, routers)
    counts = whole.counts
    found = [torch.zeros_like(gradient) for gradient in expected]
    for part in (x[:7], x[7:30], x[30:]):
        share = dataclasses.replace(_trained(layer, part), counts=counts)
        for total, gradient in zip(found, torch.autograd.grad(share.balance + share.z, routers), strict=True):
            total += gradient
    for total, gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(total, gradient)


def test_no_token_costs_nothing_and_moves_no_router() -> None:
    layer = _layer()
    routing = _trained(layer, _tokens(0))
    (routing.balance + routing.z).backward()
    assert (routing.balance.item(), routing.z.item()) == (0, 0)
    assert not routing.counts.group_load.any() and routing.counts.entropy.isfinite()
    assert not [
        name for name, parameter in layer.named_parameters() if parameter.grad is not None and parameter.grad.any()
    ]


def test_counts_are_summed_once_over_all_layers() -> None:
    model = nn.ModuleList([_layer(), _layer(groups=1, kg=1)])
    with collect_routing(model.train()) as routing:
        for layer in model:
            layer(_tokens(30))
    asked: list[Tensor] = []

    def doubled(counts: Tensor) -> Tensor:
        asked.append(counts)
        return counts * 2

    alone = routing_loss(routing, balance=1.0, z=1.0)
    shared = routing_loss(sum_counts(routing, doubled), balance=1.0, z=1.0)
    assert len(asked) == 1 and not asked[0].requires_grad
    torch.testing.assert_close(shared * 2, alone)  # of two equal processes, each has half


# Memory


def _most_alive(layers: nn.Sequential, x: Tensor) -> int:
    """Bytes of the tensors alive at the backward pass's worst moment, beside weights and their gradients."""
    alive: dict[int, int] = {}
    sums = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in alive:
                    storage = tensor.untyped_storage()
                    alive[id(storage)] = storage.nbytes()
                    weakref.finalize(storage, alive.pop, id(storage)).atexit = False
            sums.append(sum(alive.values()))
            return out

    for parameter in layers.parameters():
        parameter.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
    with collect_routing(layers) as routing:
        out = x
        for layer in layers:
            out = checkpoint(layer, out, use_reentrant=False, early_stop=False)
    with Watch():
        (out.square().mean() + routing_loss(routing, balance=1.0, z=1.0)).backward()
    return max(sums)


def test_recomputed_blocks_are_freed_one_after_the_other() -> None:
    one, eight = (
        _most_alive(nn.Sequential(*(_layer() for _ in range(count))).train(), _tokens(400).requires_grad_())
        for count in (1, 8)
    )
    rows = 400 * 2 * 2 * 4  # bytes of one value for every slot
    assert one > rows * (DIM + 2 * HIDDEN)  # a block's slots and hidden layer
    assert eight < 2 * one  # kept graphs would make it eight times as much


def test_a_recomputation_changes_no_gradient() -> None:
    gradients = []
    for recomputes in (False, True):
        layer, x = _layer().train(), _tokens().requires_grad_()
        with collect_routing(layer) as routing:
            out = checkpoint(layer, x, use_reentrant=False, early_stop=False) if recomputes else layer(x)
        (out.square().sum() + routing_loss(routing, balance=1.0, z=1.0)).backward()
        gradients.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None and recomputed is not None
        assert torch.equal(plain, recomputed)
