"""What decays, what learns how fast, what stays as it is, and how the learning rate goes."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cwsam_cli.config.schema import LrFactors, OptimizerArgs, OptimizerConfig
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.optim import (
    build_optimizer,
    compute_gradient_norm,
    drop_gradients,
    learning_rate,
    local_shards,
    take_gradients,
)
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from tests.small import ARCH

KINDS: list[Any] = ["adamw", "adamw8bit"]


def _model(**changes: Any) -> ClassWiseSam:
    torch.manual_seed(0)
    shape: dict[str, Any] = ARCH | {"detail_stem": True}
    return ClassWiseSam(Architecture(**shape | changes))


MIXTURE: dict[str, Any] = {
    "embed_dim": 32,
    "moe_start_layer_index": 1,
    "moe_num_expert_groups": 2,
    "moe_experts_per_group": 2,
    "moe_k_experts": 1,
    "moe_decoder_experts": 2,
    "moe_decoder_k_experts": 1,
    "adaptor": "adaptor",
    "input_type": "fft",
}


def _build(model: nn.Module, *, name: Any = "adamw", stay: tuple[str, ...] = (), **args: Any) -> torch.optim.Optimizer:
    config = OptimizerConfig(name=name, args=OptimizerArgs(**args))
    return build_optimizer(model, local_shards(model), config, stay=stay)


def _by_name(model: ClassWiseSam, optimizer: torch.optim.Optimizer, setting: str) -> dict[str, float]:
    values = {id(p): group[setting] for group in optimizer.param_groups for p in group["params"]}
    return {name: values[id(parameter)] for name, parameter in model.named_parameters()}


def _decay_by_name(model: ClassWiseSam, decay: float, **options: Any) -> dict[str, float]:
    return _by_name(model, _build(model, weight_decay=decay, **options), "weight_decay")


def _rates(steps: int, warmup: int, lr: float = 1e-3, lr_min: float = 1e-5) -> list[float]:
    return [learning_rate(step, steps, lr=lr, lr_min=lr_min, warmup=warmup) for step in range(steps)]


@pytest.mark.parametrize("name", KINDS)
def test_norms_biases_tokens_and_position_tables_do_not_decay(name: Any) -> None:
    decays = _decay_by_name(_model(), 0.07, name=name)
    stays = {name for name, decay in decays.items() if decay == 0}
    kinds = ("bias", "norm", "class_tokens", "pos_embed", "rel_pos", "neck.1", "neck.3", "output_upscaling.1")
    assert stays == {name for name in decays if any(kind in name for kind in kinds)}


def test_experts_routers_and_adapters_decay_as_other_matrices_do() -> None:
    decays = _decay_by_name(_model(**MIXTURE), 0.07)
    mixture = {name: decay for name, decay in decays.items() if "mlp.groups" in name or "router" in name}
    assert {name.rpartition(".")[2] for name in mixture} == {
        "lin1_weight", "lin1_bias", "lin2_weight", "lin2_bias", "weight", "bias"
    }  # fmt: skip
    adapters = {name: decay for name, decay in decays.items() if "adapter_" in name or ".prompt." in name}
    assert len(adapters) > 8
    for name, decay in (mixture | adapters).items():
        assert decay == (0.0 if name.endswith("bias") else 0.07), name


def test_a_weight_that_does_not_wholly_learn_does_not_decay() -> None:
    filters = "image_encoder.patch_embed.proj.weight"
    decays, plain = _decay_by_name(_model(), 0.07, stay=(filters,)), _decay_by_name(_model(), 0.07)
    assert (plain[filters], decays[filters]) == (0.07, 0.0)
    assert {name for name in plain if plain[name] != decays[name]} == {filters}


def test_weight_matrices_and_filters_decay() -> None:
    decays = _decay_by_name(_model(), 0.07)
    for name in (
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.blocks.0.attn.qkv.weight",
        "image_encoder.blocks.1.mlp.lin2.weight",
        "image_encoder.neck.0.weight",
        "mask_decoder.transformer.layers.0.self_attn.q_proj.weight",
        "mask_decoder.output_upscaling.3.weight",
        "mask_decoder.class_hypernetwork.layers.2.weight",
        "mask_decoder.detail_stem.reduce.weight",
    ):
        assert decays[name] == 0.07, name


@pytest.mark.parametrize("factors", [LrFactors(), LrFactors(encoder=0.1, experts=3.0)])
@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_is_in_the_optimizer_once(name: Any, factors: LrFactors) -> None:
    model = _model(**MIXTURE)
    optimizer = _build(model, name=name, lr_factors=factors)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}


def test_the_optimizer_is_adamw_with_the_given_numbers() -> None:
    optimizer = _build(_model(), lr=3e-4, weight_decay=0.1, betas=(0.8, 0.95))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(3e-4, (0.8, 0.95))}


def test_the_8_bit_optimizer_has_the_given_numbers_too() -> None:
    optimizer = _build(_model(), name="adamw8bit", lr=3e-4, weight_decay=0.1, betas=(0.8, 0.95))
    assert "AdamW8bit" in {kind.__name__ for kind in type(optimizer).mro()}
    assert {(group["lr"], tuple(group["betas"])) for group in optimizer.param_groups} == {(3e-4, (0.8, 0.95))}


# --- learning rates by part of the model ---

FACTORS = LrFactors(encoder=2.0, adapters=3.0, experts=5.0, routers=7.0, decoder=11.0)


def test_each_part_of_the_model_has_its_own_factor() -> None:
    model = _model(**MIXTURE)
    factors = _by_name(model, _build(model, lr_factors=FACTORS), "lr_factor")
    assert factors == {name: getattr(FACTORS, _part(name)) for name in factors}
    assert set(factors.values()) == {2.0, 3.0, 5.0, 7.0, 11.0}


def _part(name: str) -> str:
    """Told from a weight's name piece by piece."""
    room, *path = name.split(".")
    if "groups" in path:
        return "experts"
    if "routers" in path or "group_router" in path:
        return "routers"
    if room == "mask_decoder":
        return "decoder"
    return "adapters" if path[0] == "prompt" or any(piece.startswith("adapter_") for piece in path) else "encoder"


def test_factors_do_not_change_what_decays() -> None:
    model = _model(**MIXTURE)
    optimizer = _build(model, lr_factors=FACTORS, weight_decay=0.07)
    assert _by_name(model, optimizer, "weight_decay") == _decay_by_name(model, 0.07)


def test_without_factors_all_learn_alike() -> None:
    model = _model(**MIXTURE)
    assert set(_by_name(model, _build(model), "lr_factor").values()) == {1.0}


# --- gradients ---


@pytest.mark.parametrize("bands", [(0, 1, 2), (3, 1, 0)])
def test_frozen_bands_get_a_gradient_of_zero_and_the_others_their_own(bands: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, image = nn.Conv2d(5, 4, 2, stride=2), torch.randn(2, 5, 4, 4)
    taken: list[dict[str, Tensor]] = []
    for frozen in ({}, {"weight": list(bands)}):
        shards = local_shards(layer)
        drop_gradients(layer, shards)
        layer(image).square().sum().backward()
        take_gradients(layer, shards, frozen)
        taken.append({name: shard.grad.clone() for name, shard in shards.items() if shard.grad is not None})
    free, held = taken
    for band in range(5):
        expected = torch.zeros(4, 2, 2) if band in bands else free["weight"][:, band]
        assert torch.equal(held["weight"][:, band], expected)
        assert free["weight"][:, band].any()
    assert torch.equal(held["bias"], free["bias"])


def test_frozen_bands_stay_bit_for_bit_and_the_others_learn_whatever_decays() -> None:
    model = _model(num_bands=5)
    filters = "image_encoder.patch_embed.proj.weight"
    shards = local_shards(model)
    before = shards[filters].detach().clone()
    config = OptimizerConfig(args=OptimizerArgs(lr=1e-2, weight_decay=0.5))
    optimizer = build_optimizer(model, shards, config, stay=(filters,))
    for _ in range(3):
        model(torch.randn(2, 5, 32, 32)).square().mean().backward()
        take_gradients(model, shards, {filters: [0, 1, 3]})
        optimizer.step()
        drop_gradients(model, shards)
    after = shards[filters]
    assert [torch.equal(after[:, band], before[:, band]) for band in range(5)] == [True, True, False, True, False]


def test_the_norm_is_that_of_all_gradients_together() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.grad, shards = torch.full((2, 3), 2.0), local_shards(layer)
    assert compute_gradient_norm(shards, World(torch.device("cpu"))).item() == pytest.approx(24**0.5)
    layer.bias.grad = torch.full((2,), 5.0)
    assert compute_gradient_norm(shards, World(torch.device("cpu"))).item() == pytest.approx(74**0.5)


def test_the_norm_of_no_gradient_is_0() -> None:
    assert compute_gradient_norm(local_shards(nn.Linear(3, 2)), World(torch.device("cpu"))).item() == 0


# --- 8 bits ---


class Wide(nn.Module):
    """Two matrices large enough for averages in 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(32, 512), nn.Linear(512, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def _taught(name: Any) -> tuple[list[float], torch.optim.Optimizer]:
    """The losses of 60 steps towards a function of the input, and the optimizer after them."""
    model = Wide()
    optimizer = _build(model, name=name, lr=2e-3)
    x = torch.randn(256, 32)
    y = torch.stack([x[:, i] * x[:, i + 1] for i in range(16)], dim=1)
    losses = []
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, optimizer


def _averages(optimizer: torch.optim.Optimizer) -> dict[int, int]:
    """Bytes that the optimizer keeps, by the number of values of a weight."""
    return {
        weight.numel(): sum(value.nbytes for value in known.values() if isinstance(value, Tensor) and value.numel() > 1)
        for weight, known in optimizer.state.items()
    }


def test_8_bit_adamw_learns_as_adamw_does_in_less_than_a_third_of_the_memory() -> None:
    (exact, full), (rough, small) = _taught("adamw"), _taught("adamw8bit")
    assert exact[-1] < 0.3 * exact[0]
    assert rough[:2] == pytest.approx(exact[:2], rel=1e-4)
    assert rough[-1] == pytest.approx(exact[-1], rel=0.05)
    large = [count for count in _averages(full) if count >= 4096]
    assert len(large) == 2
    for count in large:
        assert _averages(small)[count] <= 0.3 * _averages(full)[count]


# --- the schedule ---


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 100), (1000, 0), (200, 7), (20, 1)])
def test_the_rate_warms_up_peaks_and_falls_to_its_end(steps: int, warmup: int) -> None:
    rates = _rates(steps, warmup)
    assert rates.index(max(rates)) == warmup
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    rising, falling = rates[: warmup + 1], rates[warmup:]
    assert all(one < other for one, other in itertools.pairwise(rising))
    assert all(one > other for one, other in itertools.pairwise(falling))


def test_warm_up_is_a_straight_line_that_starts_above_zero() -> None:
    rates = _rates(1000, 4)
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])


def test_the_cosine_is_halfway_down_in_the_middle() -> None:
    assert _rates(101, 0)[50] == pytest.approx((1e-3 + 1e-5) / 2)


def test_warm_up_takes_no_more_than_a_tenth_of_a_short_run() -> None:
    rates = _rates(50, 1000)
    assert rates.index(max(rates)) == 5
    assert max(rates) == pytest.approx(1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_a_few_steps_has_rates_within_bounds(steps: int) -> None:
    rates = _rates(steps, 10)
    assert rates[0] == pytest.approx(1e-3)
    assert all(1e-5 * 0.999 <= rate <= 1e-3 * 1.001 for rate in rates)


def test_steps_beyond_the_run_stay_at_the_least_rate() -> None:
    assert learning_rate(150, 100, lr=1e-3, lr_min=1e-5, warmup=0) == pytest.approx(1e-5)


def test_equal_rates_stay_level_after_warm_up() -> None:
    assert _rates(30, 0, lr=1e-4, lr_min=1e-4) == pytest.approx([1e-4] * 30)
