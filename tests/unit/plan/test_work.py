"""Counting what the operations of a step compute, move and send."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cwsam_cli.config.schema import ModelArgs, TrainingSettings
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.plan.live import LiveStorages
from cwsam_cli.plan.simulate import run_tracked_passes
from cwsam_cli.plan.work import Kernel, StepWork
from tests.small import small


def _work() -> LiveStorages:
    return LiveStorages(nn.Identity())


def test_a_product_reads_its_factors_and_writes_its_result() -> None:
    a, b = torch.zeros(10, 20), torch.zeros(20, 30)
    with _work() as live:
        a @ b
    assert live.work().kernels == {Kernel(2 * 10 * 20 * 30, 4 * (200 + 600 + 300), True): 1}


def test_views_and_empty_tensors_cost_nothing() -> None:
    a = torch.zeros(10, 20)
    with _work() as live:
        a.t().reshape(20, 2, 5).permute(2, 1, 0)[0], torch.empty(100)
    assert not live.work().kernels


def test_an_operation_in_place_reads_and_writes() -> None:
    a, b = torch.zeros(100), torch.zeros(100, dtype=torch.bfloat16)
    with _work() as live:
        a += b
        torch._foreach_mul_([a, a], 2.0)
        b.zero_()
    assert sum(kernel.moved * count for kernel, count in live.work().kernels.items()) == (400 + 200 + 400) + 1600 + 400
    assert [kernel.is_float32 for kernel in live.work().kernels] == [True, True, False]


def test_a_grouped_product_and_fused_attention_count_the_operations_of_their_products() -> None:
    x, w, ends = torch.zeros(8, 16), torch.zeros(2, 16, 32), torch.tensor([5, 8], dtype=torch.int32)
    q = torch.zeros(1, 2, 10, 16)
    with _work() as live:
        F.grouped_mm(x, w, offs=ends)
        F.scaled_dot_product_attention(q, q, q)
    assert [kernel.flops for kernel in live.work().kernels if kernel.flops] == [2 * 8 * 16 * 32, 4 * 2 * 10 * 10 * 16]


def test_a_whole_step_has_the_operations_that_torch_counts() -> None:
    arch = small()
    model = ClassWiseSam(arch).train()
    batch = torch.randn(2, 3, arch.inp_size, arch.inp_size), torch.ones(2, arch.inp_size, arch.inp_size).byte()
    args, settings = ModelArgs(), TrainingSettings()
    with FlopCounterMode(display=False) as counter:
        live = run_tracked_passes(model, [batch], args=args, settings=settings)
    flops = sum(kernel.flops * count for kernel, count in live.work().kernels.items() if kernel.flops)
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.05)  # torch leaves fused attention of CPUs out
    assert flops >= counter.get_total_flops()


@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_blocks_and_batches_that_are_left_out_count(accumulated: int) -> None:
    def work(layers: int, batches: int, order: list[int] | None) -> StepWork:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(layers)), nn.Linear(64, 9))
        with LiveStorages(model, list(model), order) as live:
            for _ in range(batches):
                model(torch.randn(32, 64)).logsumexp(dim=1).sum().backward()
        return live.work(accumulated)

    few, many = work(3, min(accumulated, 2), [0, 1, 1, 1, 1, 2, 3]), work(6, accumulated, None)
    assert Counter(few.kernels) == Counter(many.kernels)
