"""The two-process cases on two GPUs with NCCL. Where there are none, this says that they were not run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from tests.distributed import workers
from tests.distributed.test_sharding import CASES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
TWO = Cluster(processes=2, device="cuda", timeout_s=120)


@pytest.mark.parametrize("case", CASES)
def test_two_gpus_learn_what_one_does(case: str) -> None:
    one = workers.learn(World(torch.device("cuda", 0)), {case: CASES[case]}, 1)[case]
    two = launch(workers.learn, {case: CASES[case]}, 2, cluster=TWO)[case]
    losses = [torch.tensor(run["losses"])[:, 0] for run in (one, two)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_alike_on_one_gpu_and_two(precision: str) -> None:
    case = {"args": {"loss": "ce"}, "settings": {"precision": precision}}
    one = workers.learn(World(torch.device("cuda", 0)), {"half": case}, 1)["half"]["losses"]
    two = launch(workers.learn, {"half": case}, 2, cluster=TWO)["half"]["losses"]
    torch.testing.assert_close(torch.tensor(two)[:, 0], torch.tensor(one)[:, 0], rtol=0, atol=2e-2)


def test_routers_stay_in_float32_on_gpus() -> None:
    _, weights = launch(workers.dtypes, cluster=TWO)
    assert {kind for name, kind in weights.items() if "router" in name} == {"torch.float32"}


def test_an_overflow_is_skipped_by_both_gpus() -> None:
    assert launch(workers.overflow, cluster=TWO) == (True, 2.0**99)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_a_state_goes_on_with_another_number_of_gpus(tmp_path: Path, optimizer: str, before: int, after: int) -> None:
    case = {"args": {"loss": "ce+dice"}, "optimizer": optimizer, "shape": {"embed_dim": 64}}

    def on(processes: int, worker: Any) -> Any:
        cluster = Cluster(processes=processes, device="cuda", timeout_s=120)
        return launch(worker, case, processes, str(tmp_path), cluster=cluster)

    expected, found = on(before, workers.first_half), on(after, workers.second_half)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-3)
