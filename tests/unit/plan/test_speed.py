"""The shortest time of a step, and what limits it."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cwsam_cli.config.load import load_config
from cwsam_cli.main import app
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.plan.cards import CARDS, Card
from cwsam_cli.plan.live import LiveStorages
from cwsam_cli.plan.speed import _UPDATE, StepTime, check_time, estimate_time

SETTINGS = [
    "model.args.inp_size=64",
    "train_dataset.batch_size=2",
    "model.args.encoder_mode={depth: 1, global_attn_indexes: [], moe_num_expert_groups: 0}",
]
FAST = Card(tflops=1e9, float32_tflops=1e9, bandwidth=1e21, link=1e21, memory=10**12)
"""Card that takes no time."""


def _time(*settings: str, gpus: int = 2, card: Card = CARDS["h100"]) -> StepTime:
    config = load_config("tiny", [*SETTINGS, *settings])
    arch = architecture(config.model, num_bands=3, num_classes=7)
    with torch.device("meta"):
        names = frozenset(name for name, _ in ClassWiseSam(arch).named_parameters())
    return estimate_time(config, arch, names, gpus=gpus, card=card)


@pytest.mark.parametrize(
    ("slow", "limit"),
    [
        ({"float32_tflops": 1e-6}, "arithmetic"),
        ({"bandwidth": 1e3}, "memory traffic"),
        ({"link": 1e3}, "communication"),
        ({}, "kernel launches"),
    ],
)
def test_the_slowest_part_limits_the_step(slow: dict[str, Any], limit: str) -> None:
    time = _time("training_settings.precision=fp32", card=dataclasses.replace(FAST, **slow))
    assert time.limit == limit
    assert time.step_s == max(time.arithmetic_s + time.memory_s, time.launching_s, time.communication_s)
    assert f"limited by {limit}" in time.as_text()


def test_half_precision_uses_the_peak_of_half_precision() -> None:
    card = dataclasses.replace(FAST, float32_tflops=1e-6)
    single, half = (_time(f"training_settings.precision={name}", card=card) for name in ("fp32", "bf16"))
    assert half.arithmetic_s < 0.1 * single.arithmetic_s


def test_one_gpu_sends_nothing_and_more_gpus_send_more() -> None:
    assert _time(gpus=1).sent.total == 0
    two, four = _time(gpus=2).sent, _time(gpus=4).sent
    assert four.total == pytest.approx(1.5 * two.total, rel=0.02)  # (N - 1) / N of every weight and gradient


def test_a_network_of_machines_is_not_faster_than_its_network_cards() -> None:
    card = dataclasses.replace(FAST, link=900e9)
    one, two = _time(gpus=8, card=card), _time(gpus=16, card=card)
    assert one.communication_s == pytest.approx(one.sent.total / 900e9)
    assert two.communication_s == pytest.approx(two.sent.total / 400e9)


def test_the_optimizer_moves_what_torchs_own_moves() -> None:
    weight = nn.Parameter(torch.zeros(100_000))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], foreach=True)  # the default on CUDA
    optimizer.step()
    with LiveStorages(nn.Identity()) as live:
        optimizer.step()
    moved = sum(kernel.moved * count for kernel, count in live.work().kernels.items())
    assert moved / weight.numel() == pytest.approx(_UPDATE["adamw"], rel=0.1)


def test_the_better_number_of_ranks_for_experts_is_named() -> None:
    config = load_config(
        "tiny",
        [*SETTINGS[:2], "model.args.encoder_mode={depth: 1, global_attn_indexes: [], moe_start_layer_index: 0}"],
    )
    arch = architecture(config.model, num_bands=3, num_classes=7)
    with torch.device("meta"):
        names = frozenset(name for name, _ in ClassWiseSam(arch).named_parameters())
    check = check_time(config, arch, names, gpus=4, card=dataclasses.replace(FAST, link=1e3))
    assert check.other is not None
    assert (check.configured.expert_parallel, check.other.expert_parallel) == (1, 4)
    assert check.better is check.other  # weights of experts do not travel
    assert check.other.sent.all_to_all > 0 and check.other.sent.all_gather < check.configured.sent.all_gather
    assert "better: --set fsdp_settings.expert_parallel=4" in check.as_text()


def test_rates_on_the_command_line_replace_those_of_the_card() -> None:
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    base = ["plan", "--config", "tiny", *options, "--gpus", "2", "--json"]

    def planned(*more: str) -> Any:
        result = CliRunner().invoke(app, [*base, *more])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    h100, slow, a100 = planned(), planned("--link", "45GB", "--bandwidth", "335GB"), planned("--card", "a100")
    assert slow["time"]["configured"]["communication_s"] == pytest.approx(
        10 * h100["time"]["configured"]["communication_s"]
    )
    assert slow["time"]["configured"]["memory_s"] > 9 * h100["time"]["configured"]["memory_s"]
    assert a100["time"]["configured"]["communication_s"] == pytest.approx(
        1.5 * h100["time"]["configured"]["communication_s"]
    )
    assert planned("--card", "l40s")["memory"]["gpu_memory"] == 48 * 10**9
    refused = CliRunner().invoke(app, [*base, "--link", "450"])
    assert refused.exit_code == 2
    assert "--link `450` has no unit" in refused.stderr
