"""Counting the bytes that are alive."""

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from cwsam_cli.config.schema import ModelArgs, ModelConfig, TrainingSettings
from cwsam_cli.distributed.world import World
from cwsam_cli.learning.loop import backward_passes
from cwsam_cli.learning.losses import BatchTotals
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.plan.live import LiveBytes, LiveStorages
from cwsam_cli.plan.simulate import run_tracked_passes


def test_what_is_freed_is_no_longer_counted() -> None:
    with LiveStorages(nn.Identity()) as live:
        first = torch.zeros(1000)
        del first
        second, third = torch.zeros(500), torch.zeros(250)
        assert live.worst == LiveBytes(activations=4000)
        fourth = torch.zeros(300)
    assert live.worst == LiveBytes(activations=4200)
    assert len(second) + len(third) + len(fourth) == 1050


def test_views_share_what_they_look_at() -> None:
    with LiveStorages(nn.Identity()) as live:
        whole = torch.zeros(10, 100)
        kept = [whole.t(), whole[3], whole.flatten()]
    assert live.worst == LiveBytes(activations=4000)
    assert len(kept) == 3


def test_a_storage_that_is_made_empty_counts_for_nothing() -> None:
    with LiveStorages(nn.Identity()) as live:
        first = torch.zeros(1000)
        first.untyped_storage().resize_(0)
        second = torch.zeros(1000)
        assert live.worst == LiveBytes(activations=4000)
        first.untyped_storage().resize_(2000)
    assert live.worst == LiveBytes(activations=6000)
    assert len(second) == 1000


def test_a_gradient_counts_until_it_has_arrived() -> None:
    model = nn.Linear(100, 100, bias=False)
    with LiveStorages(model) as live:
        model(torch.zeros(1, 100)).sum().backward()
    assert live.worst.activations >= 100 * 100 * 4
    assert model.weight.grad is None
    with live:  # the hooks went with the mode
        pass
    model(torch.zeros(1, 100)).sum().backward()
    assert model.weight.grad is not None


def test_copies_that_autocast_keeps_of_weights_are_told_apart() -> None:
    model = nn.Linear(100, 100, bias=False)
    with LiveStorages(model) as live, torch.autocast("cpu", torch.bfloat16):
        out = model(torch.zeros(1, 100))
    assert live.worst.gathered == 100 * 100 * 2
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("accumulated", [1, 2])
def test_layers_count_as_often_as_a_deeper_model_would_run_them(accumulated: int) -> None:
    def alive(layers: int, order: list[int] | None) -> LiveStorages:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(layers)), nn.Linear(64, 9))
        with LiveStorages(model, list(model), order) as live:
            for _ in range(accumulated):
                with torch.autocast("cpu", torch.bfloat16):
                    out = model(torch.randn(32, 64))
                out.float().logsumexp(dim=1).sum().backward()
        return live

    few, many = alive(3, [0, 1, 1, 1, 1, 2, 3]), alive(6, None)
    assert few.worst == many.worst
    assert few.most_activations == many.most_activations
    assert few.worst.total > 1.5 * alive(3, None).worst.total


def test_torchs_own_tracker_finds_the_same_bytes() -> None:
    model = ClassWiseSam(
        architecture(ModelConfig(name="sam_tiny", args=ModelArgs(inp_size=64)), num_bands=3, num_classes=7)
    )
    arch = model.arch
    image, label = torch.randn(8, 3, arch.inp_size, arch.inp_size), torch.ones(8, arch.inp_size, arch.inp_size).byte()
    args, settings = ModelArgs(loss="ce+dice"), TrainingSettings()
    ours = run_tracked_passes(model, [(image, label)], args=args, settings=settings).worst.total
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        here = [(image.clone(), label.clone())]
        weights, totals = torch.ones(7), BatchTotals(torch.ones(()), torch.ones(()), torch.ones(1))
        backward_passes(
            model, here, World(torch.device("cpu")), args=args, settings=settings, weights=weights, totals=totals
        )
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    held = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
    assert theirs["Total"] - held == pytest.approx(ours, rel=0.02)
