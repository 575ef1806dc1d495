"""Training on one CUDA device: it learns what the CPU learns, and offloaded weights stay on the host.

Sharding needs no second device: a process group of one rank takes the same way through torch's code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cwsam_cli.distributed.shards import sharded_like
from cwsam_cli.distributed.world import World
from tests.distributed import workers

pytestmark = [
    pytest.mark.gpu1,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CASES: dict[str, dict[str, Any]] = {
    "fp32": {"args": {"loss": "ce+dice"}},
    "checkpointing": {"args": {"loss": "ce"}, "settings": {"activation_checkpointing": True}},
    "frozen": {"args": {"loss": "ce+iou"}, "frozen": ".mlp.groups.0."},
}
RESUMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "offload": {"fsdp": {"cpu_offload": True}},
    "8-bit": {"optimizer": "adamw8bit", "shape": {"embed_dim": 64}},
    "8-bit offload": {"optimizer": "adamw8bit", "shape": {"embed_dim": 64}, "fsdp": {"cpu_offload": True}},
    "bf16": {"settings": {"precision": "bf16"}},
    "fp16": {"settings": {"precision": "fp16"}},
}


@dataclass(frozen=True, slots=True)
class OneRank(World):
    """The only process of a group that shares a model out."""

    @property
    def shares_model(self) -> bool:
        """As if there were others."""
        return True


@pytest.fixture(scope="module")
def rank() -> Iterator[OneRank]:
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1, store=dist.HashStore())
    torch.cuda.set_device(0)
    yield OneRank(torch.device("cuda", 0))
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Float32 products without TF32, so that a CPU's are the same."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("case", CASES)
def test_a_gpu_learns_what_a_cpu_learns(case: str) -> None:
    cpu, gpu = (workers.learn(World(torch.device(name)), {case: CASES[case]}, 1)[case] for name in ("cpu", "cuda"))
    losses = [torch.tensor([loss for loss, _ in run["losses"]]) for run in (cpu, gpu)]
    assert losses[0][workers.STILL :].max() - losses[0][-1] > 1e-4  # it learns
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_a_sharded_model_learns_what_a_whole_one_learns(rank: OneRank, case: str) -> None:
    whole, sharded = (workers.learn(world, {case: CASES[case]}, 1)[case] for world in (World(rank.device), rank))
    losses = [torch.tensor([loss for loss, _ in run["losses"]]) for run in (whole, sharded)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-4)


def test_offloaded_shards_and_what_is_known_of_them_stay_on_the_host(rank: OneRank) -> None:
    _, learner = workers.begin(rank, {"fsdp": {"cpu_offload": True}})
    for name, parameter in learner.model.named_parameters():
        shard = learner.shards[name]
        assert shard.device.type == "cpu"
        local: Any = sharded_like(parameter, shard.detach())
        assert local.to_local().data_ptr() == shard.data_ptr(), name


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("case", RESUMED)
def test_a_sharded_run_goes_on_as_if_it_had_not_stopped(
    rank: OneRank, tmp_path: Path, case: str, ema: float | None
) -> None:
    pytest.importorskip("pydantic")  # checks the state's file
    chosen = RESUMED[case]
    if chosen.get("optimizer") == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    chosen = chosen | {"args": {"loss": "ce+dice"}, "settings": chosen.get("settings", {}) | {"ema": ema}}
    expected = workers.first_half(rank, chosen, 1, str(tmp_path))
    found = workers.second_half(rank, chosen, 1, str(tmp_path))
    torch.testing.assert_close(
        torch.tensor(found), torch.tensor(expected), rtol=0, atol=2e-4
    )  # atomics add in any order


def test_a_stage_that_begins_to_learn_frozen_groups_does_not_crash(rank: OneRank) -> None:
    config, learner = workers.begin(rank, {"settings": {"precision": "bf16"}, "frozen": ".mlp.groups."})
    workers.step(rank, config, learner, 0, 1)
    learner.learn(set(learner.shards))
    before = {name: shard.detach().clone() for name, shard in learner.shards.items() if ".mlp.groups." in name}
    workers.step(rank, config, learner, 1, 1, rate=1e-2)
    assert before and all(not torch.equal(before[name], learner.shards[name]) for name in before)
