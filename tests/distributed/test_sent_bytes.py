"""The bytes that `plan` foresees are those that two processes send in a real step."""

from typing import Any

import pytest
import torch

from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.plan.simulate import simulate_step
from cwsam_cli.plan.work import SentBytes
from tests.distributed import traffic, workers
from tests.distributed.test_sharding import on

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(600)]

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"settings": {"grad_accum_steps": 4}},
    "half precision": {"settings": {"precision": "bf16", "activation_checkpointing": True}},
    "frozen": {"frozen": ".mlp.groups.0.", "fsdp": {"reduce_dtype": "bf16"}},
    "kept": {"fsdp": {"reshard_after_forward": False}, "settings": {"grad_accum_steps": 2}},
}


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, float]]:
    """Bytes by kind that process 0 sends in a real step of each case."""
    return on(2, traffic.count_sent, CASES)


def _planned(case: dict[str, Any]) -> SentBytes:
    config = workers.configuration(case)
    arch = architecture(config.model, num_bands=workers.BANDS, num_classes=workers.CLASSES)
    with torch.device("meta"):
        names = [name for name, _ in ClassWiseSam(arch).named_parameters()]
    return simulate_step(
        arch,
        frozenset(name for name in names if case.get("frozen", "nothing") not in name),
        gpus=2,
        batch=2,
        loss=config.model.args.loss,
        smoothing=0.0,
        settings=config.training_settings,
        fsdp=config.fsdp_settings,
        device="cpu",
    ).work.sent


@pytest.mark.parametrize("case", CASES)
def test_planned_bytes_are_those_of_a_real_step(counted: dict[str, dict[str, float]], case: str) -> None:
    planned, real = _planned(CASES[case]), counted[case]
    assert real["all_gather"] > 0 and real["reduce_scatter"] > 0
    for kind in ("all_gather", "reduce_scatter", "all_to_all"):
        assert getattr(planned, kind) == pytest.approx(real[kind], rel=0.01), kind
