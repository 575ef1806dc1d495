"""What `plan` foresees is what two processes send and hold in a real step."""

from typing import Any

import pytest
import torch

from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.plan.simulate import SimulatedStep, simulate_step
from tests.distributed import traffic, workers
from tests.distributed.test_sharding import on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EXCHANGED: dict[str, Any] = {"shape": {"moe_experts_per_group": 4}, "fsdp": {"expert_parallel": 2}}
CASES: dict[str, dict[str, Any]] = {
    "accumulation": {"settings": {"grad_accum_steps": 4}},
    "half precision": {"settings": {"precision": "bf16", "activation_checkpointing": True}},
    "frozen": {"frozen": ".mlp.groups.0.", "fsdp": {"reduce_dtype": "bf16"}},
    "kept": {"fsdp": {"reshard_after_forward": False}, "settings": {"grad_accum_steps": 4}},
    "expert parallel": EXCHANGED | {"settings": {"grad_accum_steps": 2}},
    "expert parallel, computed again": EXCHANGED | {"settings": {"activation_checkpointing": True}},
}


@pytest.fixture(scope="module")
def counted() -> tuple[dict[str, dict[str, float]], int]:
    """Bytes by kind that a process sends in a real step of each case, and live bytes of one case."""
    return on(2, traffic.count, CASES, EXCHANGED)


def _planned(case: dict[str, Any]) -> SimulatedStep:
    config = workers.configuration(case)
    arch = architecture(config.model, num_bands=workers.BANDS, num_classes=workers.CLASSES)
    with torch.device("meta"):
        names = [name for name, _ in ClassWiseSam(arch).named_parameters()]
    return simulate_step(
        arch,
        frozenset(name for name in names if case.get("frozen", "nothing") not in name),
        gpus=2,
        batch=2 // config.training_settings.grad_accum_steps or 1,
        loss=config.model.args.loss,
        smoothing=0.0,
        settings=config.training_settings,
        fsdp=config.fsdp_settings,
        device="cpu",
    )


@pytest.mark.parametrize("case", CASES)
def test_planned_bytes_are_those_of_a_real_step(counted: tuple[dict[str, dict[str, float]], int], case: str) -> None:
    planned, real = _planned(CASES[case]).work.sent, counted[0][case]
    assert real["all_gather"] > 0 and real["reduce_scatter"] > 0
    assert bool(real["all_to_all"]) == ("expert parallel" in case)
    for kind in ("all_gather", "reduce_scatter", "all_to_all"):
        assert getattr(planned, kind) == pytest.approx(real[kind], rel=0.01), kind


def test_planned_memory_of_exchanged_tokens_is_that_of_a_real_step(counted: tuple[Any, int]) -> None:
    assert _planned(EXCHANGED).worst.total == pytest.approx(counted[1], rel=0.05)
