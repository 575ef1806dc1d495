"""A plan's figures against what torch and bitsandbytes really allocate, and the changes it proposes."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from cwsam_cli.config.load import load_config
from cwsam_cli.config.schema import OptimizerConfig, RunConfig
from cwsam_cli.learning.optim import build_optimizer, local_shards
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.plan.check import MemoryCheck, check_memory, find_changes
from cwsam_cli.plan.live import LiveStorages
from cwsam_cli.plan.memory import MACHINE, MemoryEstimate, estimate_memory, usable
from cwsam_cli.plan.simulate import _fake_ranks as imagined_ranks

SMALL = [
    "model.args.encoder_mode={depth: 2, global_attn_indexes: [1], moe_start_layer_index: 1}",
    "train_dataset.batch_size=4",
]
OFFLOAD = "fsdp_settings.cpu_offload=true"


def _run(*overrides: str) -> tuple[RunConfig, Architecture, frozenset[str]]:
    config = load_config("tiny", [*SMALL, *overrides])
    arch = architecture(config.model, num_bands=3, num_classes=7)
    with torch.device("meta"):
        return config, arch, frozenset(name for name, _ in ClassWiseSam(arch).named_parameters())


def _plan(*overrides: str, gpus: int = 1) -> MemoryEstimate:
    return estimate_memory(*_run(*overrides), gpus=gpus)


def _optimizer_bytes(name: Any) -> int:
    """What an optimizer holds of `sam_tiny` after a step."""
    model = ClassWiseSam(_run()[1])
    optimizer = build_optimizer(model, local_shards(model), OptimizerConfig(name=name))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    optimizer.step()
    tensors = {
        tensor.untyped_storage().data_ptr(): tensor.nbytes
        for state in optimizer.state.values()
        for key, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and not key.startswith("qmap")  # one table for all weights
    }
    return sum(tensors.values())


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_the_optimizers_state_is_counted_to_the_byte(name: str) -> None:
    assert _plan(f"optimizer.name={name}").optimizer == _optimizer_bytes(name)


def test_8_bit_averages_take_less_than_a_third() -> None:
    assert _plan("optimizer.name=adamw8bit").optimizer < 0.3 * _plan().optimizer


def test_the_optimizers_step_needs_the_square_root_of_all_second_averages_at_once() -> None:
    weights = [nn.Parameter(torch.zeros(1000)) for _ in range(5)]
    optimizer = torch.optim.AdamW(weights, foreach=True)  # the default on CUDA
    for weight in weights:
        weight.grad = torch.zeros(1000)
    optimizer.step()
    with LiveStorages(nn.Identity()) as live:
        optimizer.step()
    assert live.worst.total == pytest.approx(4 * 5000, rel=0.01)
    assert _plan().updating == _plan().gradients
    assert _plan("optimizer.name=adamw8bit").updating == 0


def test_a_gpu_holds_its_shares_and_the_worst_moment() -> None:
    plan = _plan(gpus=2)
    shares = plan.parameters + plan.gradients + plan.optimizer + plan.average
    assert plan.gpu == shares + max(plan.step.total, plan.updating)
    assert plan.host == 0
    assert plan.parameters == pytest.approx(_plan().parameters / 2, rel=0.02)
    assert plan.optimizer == pytest.approx(_plan().optimizer / 2, rel=0.02)


def test_offloading_moves_shares_to_the_host_where_there_are_several_gpus() -> None:
    here, there = _plan(gpus=2), _plan(OFFLOAD, gpus=2)
    assert there.host == here.parameters + here.gradients + here.optimizer
    assert there.gpu == here.step.total
    assert _plan(OFFLOAD).host == 0
    assert f"{there.host * 2 / 1e9:.2f} GB per machine of 2" in there.as_text()
    assert MACHINE == 8


def test_a_moving_average_is_one_more_copy_of_what_learns() -> None:
    assert _plan("training_settings.ema=0.999").average == _plan().gradients


def test_both_figures_of_activations_stand_in_every_plan() -> None:
    kept, recomputed = _plan(), _plan("training_settings.activation_checkpointing=true")
    assert kept.activations_recomputed == recomputed.activations_recomputed < kept.activations_kept
    assert kept.activations_kept == recomputed.activations_kept == kept.step.activations


def test_what_learns_decides_what_is_kept() -> None:
    config, arch, names = _run()
    decoder = frozenset(name for name in names if name.startswith("mask_decoder."))
    plan = estimate_memory(config, arch, decoder, gpus=1)
    assert plan.parameters == _plan().parameters
    assert plan.gradients < 0.5 * _plan().gradients
    assert plan.optimizer == pytest.approx(2 * plan.gradients, rel=0.01)
    stages = {"integrate": set(decoder), "finetune": set(names)}
    assert check_memory(config, arch, stages, gpus=1, gpu_memory=10**12).stage == "finetune"


@pytest.mark.slow
def test_within_a_run_of_several_processes_the_plan_is_the_same() -> None:
    outside = _plan(gpus=2)
    with imagined_ranks(2):
        assert dist.is_initialized()
        assert _plan(gpus=2) == outside
        assert dist.is_initialized()


# What makes it fit


def _fitted(gpu_memory: int, *overrides: str, gpus: int = 1) -> MemoryCheck:
    config, arch, names = _run(*overrides)
    return check_memory(config, arch, {"all": set(names)}, gpus=gpus, gpu_memory=gpu_memory)


def _just_below(plan: MemoryEstimate, share: float) -> int:
    """GPU memory of which a share of the plan is too much."""
    return round(plan.gpu * share / usable(10**9) * 10**9)


def test_what_fits_needs_no_changes() -> None:
    fit = _fitted(_just_below(_plan(), 1.001))
    assert fit.fits
    assert fit.changes == []
    assert "\nfits in" in fit.as_text()


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("share", [0.99, 0.38])
def test_every_proposed_change_makes_the_run_fit_when_it_is_typed(share: float, gpus: int) -> None:
    memory = _just_below(_plan(gpus=gpus), share)
    fit = _fitted(memory, gpus=gpus)
    assert not fit.fits
    assert fit.changes
    for change in fit.changes:
        typed = " ".join(change.options).split()
        overrides = [value for option, value in zip(typed[::2], typed[1::2], strict=True) if option == "--set"]
        counts = [int(value) for option, value in zip(typed[::2], typed[1::2], strict=True) if option == "--gpus"]
        again = _plan(*overrides, gpus=max([gpus, *counts]))
        assert again.fits(memory)
        assert (again.gpu, again.host) == (change.gpu, change.host)
        assert " ".join(change.options) in fit.as_text()


def test_changes_together_hold_none_that_is_not_needed() -> None:
    memory = _just_below(_plan(), 0.38)
    (change,) = _fitted(memory).changes
    typed = " ".join(change.options).split()
    settings = [value for option, value in zip(typed[::2], typed[1::2], strict=True) if option == "--set"]
    gpus = max([1, *(int(value) for option, value in zip(typed[::2], typed[1::2], strict=True) if option == "--gpus")])
    assert len(settings) > 1
    kinds = [[one for one in settings if one.partition("=")[0] != left.partition("=")[0]] for left in settings]
    batch = ("train_dataset.batch_size", "training_settings.grad_accum_steps")  # go together
    for left, rest in zip(settings, kinds, strict=True):
        if left.partition("=")[0] not in batch:
            assert not _plan(*rest, gpus=gpus).fits(memory)


def test_a_smaller_batch_keeps_the_images_of_a_step() -> None:
    config, arch, names = _run(
        "training_settings.grad_accum_steps=3", "training_settings.activation_checkpointing=true"
    )
    memory = _just_below(estimate_memory(config, arch, names, gpus=1), 0.9)
    found = find_changes(config, arch, names, gpus=1, gpu_memory=memory)
    batches = [change.options for change in found if "batch_size" in change.options[0]]
    assert batches == [("--set train_dataset.batch_size=2", "--set training_settings.grad_accum_steps=6")]


def test_where_nothing_helps_nothing_is_proposed() -> None:
    fit = _fitted(1_000_000)
    assert not fit.fits
    assert fit.changes == []
    assert "no change" in fit.as_text()


def test_a_plan_is_data() -> None:
    raw = dataclasses.asdict(_plan())
    assert raw["step"].keys() == {"activations", "gathered", "reducing"}
