"""Two processes that share a model out learn what one process learns."""

from typing import Any

import pytest
import torch

from cwsam_cli.train.launch import Cluster, World, launch
from tests.distributed import workers

OFF: dict[str, Any] = {"balance_loss": 0.0, "router_z_loss": 0.0}  # means over each accumulated batch, not the step
CASES: dict[str, dict[str, Any]] = {
    "ce": {"args": {"loss": "ce"}, "weighted": True},
    "dice": {"args": {"loss": "ce+dice", "label_smoothing": 0.1}},
    "iou": {"args": {"loss": "ce+iou"}, "weighted": True},
    "lovasz": {"args": {"loss": "ce+lovasz"}},
    "focal": {"args": {"loss": "focal"}, "weighted": True},
    "accumulation": {"args": {"loss": "ce+dice", **OFF}, "weighted": True, "settings": {"grad_accum_steps": 2}},
    "offload": {"args": {"loss": "ce+iou"}, "fsdp": {"cpu_offload": True}},
    "checkpointing": {"args": {"loss": "ce+dice"}, "settings": {"activation_checkpointing": True}},
    "frozen": {"args": {"loss": "ce"}, "frozen": ".mlp.groups.0."},
    "adapters": {"args": {"loss": "ce"}, "shape": {"adaptor": "adaptor", "input_type": "fft"}, "frozen": ".attn."},
    "gathered": {"args": {"loss": "ce"}, "fsdp": {"reshard_after_forward": False, "shard_experts_evenly": False}},
    "clipped": {"args": {"loss": "ce"}, "settings": {"clip_grad_norm": 0.1}},
    "8-bit": {"args": {"loss": "ce"}, "optimizer": "adamw8bit", "shape": {"embed_dim": 64}, "steps": 5},
}


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    torch.set_num_threads(1)
    world = World(torch.device("cpu"))
    return {name: workers.learn(world, {name: case}, 1)[name] for name, case in CASES.items()}


@pytest.fixture(scope="module")
def two() -> dict[str, Any]:
    return launch(workers.learn, CASES, 2, cluster=Cluster(processes=2, device="cpu", timeout_s=60))


@pytest.mark.parametrize("case", CASES)
def test_losses_of_two_processes_are_those_of_one(one: dict[str, Any], two: dict[str, Any], case: str) -> None:
    expected, found = (torch.tensor(runs[case]["losses"])[:, 0] for runs in (one, two))
    assert expected.std() > 0.01  # it learns
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_processes_are_those_of_one(one: dict[str, Any], two: dict[str, Any], case: str) -> None:
    for expected, found in zip(one[case]["gradients"], two[case]["gradients"], strict=True):
        assert expected.keys() == found.keys()
        apart = sum(float((found[name] - value).square().sum()) for name, value in expected.items()) ** 0.5
        norm = sum(float(value.square().sum()) for value in expected.values()) ** 0.5
        assert apart <= 1e-4 * norm
