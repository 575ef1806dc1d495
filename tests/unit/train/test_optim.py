"""What decays, and how the learning rate goes."""

import itertools

import pytest
import torch

from cwsam_cli.config.schema import OptimizerArgs, OptimizerConfig
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.train.optim import build_optimizer, learning_rate


def _model() -> ClassWiseSam:
    return ClassWiseSam(
        Architecture(
            embed_dim=16,
            depth=2,
            num_heads=2,
            global_attn_indexes=(1,),
            num_bands=3,
            num_classes=4,
            inp_size=32,
            window_size=2,
            patch_size=8,
            prompt_embed_dim=32,
            decoder_mlp_dim=32,
            detail_stem=True,
        )
    )


def _decay_by_name(model: ClassWiseSam, decay: float) -> dict[str, float]:
    optimizer = build_optimizer(model, OptimizerConfig(args=OptimizerArgs(weight_decay=decay)))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return {name: decays[id(parameter)] for name, parameter in model.named_parameters()}


def _rates(steps: int, warmup: int, lr: float = 1e-3, lr_min: float = 1e-5) -> list[float]:
    return [learning_rate(step, steps, lr=lr, lr_min=lr_min, warmup=warmup) for step in range(steps)]


def test_norms_biases_tokens_and_position_tables_do_not_decay() -> None:
    decays = _decay_by_name(_model(), 0.07)
    stays = {name for name, decay in decays.items() if decay == 0}
    kinds = ("bias", "norm", "class_tokens", "pos_embed", "rel_pos", "neck.1", "neck.3", "output_upscaling.1")
    assert stays == {name for name in decays if any(kind in name for kind in kinds)}


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


def test_every_parameter_is_in_the_optimizer_once() -> None:
    model = _model()
    held = [id(p) for group in build_optimizer(model, OptimizerConfig()).param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}


def test_the_optimizer_is_adamw_with_the_given_numbers() -> None:
    args = OptimizerArgs(lr=3e-4, weight_decay=0.1, betas=(0.8, 0.95))
    optimizer = build_optimizer(_model(), OptimizerConfig(args=args))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(3e-4, (0.8, 0.95))}


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
