"""Settings of training in combination: every pair of values occurs, and each run learns what plain float32 learns."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from tests.distributed import workers

pytestmark = pytest.mark.timeout(1200)

FACTORS: dict[str, list[Any]] = {
    "precision": ["fp32", "bf16", "fp16"],
    "offload": [False, True],
    "checkpointing": [False, True],
    "accumulation": [1, 2],
    "optimizer": ["adamw", "adamw8bit"],
    "ema": [False, True],
    "stages": [False, True],
    "adapters": [False, True],
    "experts": [False, True],
    "resume": ["same", "other"],  # number of processes
    "processes": [1, 2],
}
CASES: list[tuple[Any, ...]] = [
    ("fp32", True, True, 1, "adamw", False, False, False, False, "same", 2),
    ("fp16", True, False, 2, "adamw", True, True, True, True, "other", 1),
    ("bf16", False, True, 2, "adamw8bit", False, True, False, True, "same", 2),
    ("bf16", False, False, 1, "adamw8bit", False, True, True, False, "other", 1),
    ("fp32", False, False, 1, "adamw8bit", True, False, False, True, "same", 1),
    ("fp16", False, True, 2, "adamw8bit", True, False, True, False, "same", 2),
    ("bf16", True, True, 2, "adamw", True, False, True, True, "other", 2),
    ("fp16", True, False, 1, "adamw8bit", False, False, False, False, "other", 2),
    ("fp32", False, True, 2, "adamw", False, True, True, True, "other", 1),
]
BOUNDS = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 1e-3}
"""Of a loss of about 2.1 that falls by 0.002 to 0.03, against one process in float32 with none of the rest."""
EIGHT_BIT = 1e-3
"""More, with 8-bit AdamW."""
NAMES = [f"{number}" for number in range(len(CASES))]


def _chosen(number: int) -> dict[str, Any]:
    return dict(zip(FACTORS, CASES[number], strict=True))


def _case(chosen: dict[str, Any]) -> dict[str, Any]:
    """What the workers are given."""
    shape = {"embed_dim": 64, "moe_k_groups": 3, "moe_k_experts": 3}  # all experts: no rounding moves a token
    if not chosen["experts"]:
        shape |= {"moe_num_expert_groups": 0, "moe_decoder_experts": 0}
    if chosen["adapters"]:
        shape |= {"adaptor": "adaptor", "input_type": "fft"}
    stages = ["integrate", "adapt", "finetune"] if chosen["experts"] else ["adapt", "adapt", "finetune"]
    return {
        "shape": shape,
        "args": {"loss": "ce+dice", "balance_loss": 0.0, "router_z_loss": 0.0},  # means over each accumulated batch
        "optimizer": chosen["optimizer"],
        "stages": stages if chosen["stages"] else [],
        "fsdp": {"cpu_offload": chosen["offload"]},
        "settings": {
            "precision": chosen["precision"],
            "activation_checkpointing": chosen["checkpointing"],
            "grad_accum_steps": chosen["accumulation"],
            "ema": 0.9 if chosen["ema"] else None,
        },
    }


PLAIN = {
    "precision": "fp32",
    "offload": False,
    "checkpointing": False,
    "accumulation": 1,
    "optimizer": "adamw",
    "ema": False,
}


def test_every_pair_of_values_occurs() -> None:
    wanted = {(a, x, b, y) for a, b in itertools.combinations(FACTORS, 2) for x in FACTORS[a] for y in FACTORS[b]}
    found = {
        (a, chosen[a], b, chosen[b])
        for chosen in map(_chosen, range(len(CASES)))
        for a, b in itertools.combinations(FACTORS, 2)
    }
    assert wanted - found == set()


def _bound(chosen: dict[str, Any]) -> float:
    return BOUNDS[chosen["precision"]] + (EIGHT_BIT if chosen["optimizer"] == "adamw8bit" else 0)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By case: the reference's losses, the run's, and the resumed run's; the latter two with hashes of their ends."""
    folder, plain_folder = (str(tmp_path_factory.mktemp(name)) for name in ("runs", "plain"))
    chosen = {name: _chosen(int(name)) for name in NAMES}
    cases = {name: _case(own) for name, own in chosen.items()}
    plain = {name: _case(own | PLAIN) for name, own in chosen.items()}

    def of(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return {name: cases[name] for name in NAMES if wanted(chosen[name])}

    alone = World(torch.device("cpu"))
    before = workers.run_through(alone, of(lambda own: own["processes"] == 1), folder)
    begun, after = launch(
        workers.run_through_and_resume,
        of(lambda own: own["processes"] == 2),
        of(lambda own: (own["processes"] == 2) == (own["resume"] == "same")),
        folder,
        cluster=Cluster(processes=2, device="cpu", timeout_s=300),
    )
    before |= begun
    after |= workers.resume(alone, of(lambda own: (own["processes"] == 1) == (own["resume"] == "same")), folder)
    expected = workers.run_through(alone, plain, plain_folder)
    return {
        name: {"chosen": chosen[name], "plain": expected[name], "run": before[name], "resumed": after[name]}
        for name in NAMES
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_learns_what_plain_float32_learns(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    own = outcomes[name]
    expected, found = torch.tensor(own["plain"][0]), torch.tensor(own["run"][0])
    bound = _bound(own["chosen"])
    assert expected[6] < expected[0] - 1e-3  # it learns: both steps have the same tiles
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    own = outcomes[name]
    (losses, end), (again, end_again) = own["run"], own["resumed"]
    losses = losses[workers.SAVED_AFTER :]
    if own["chosen"]["resume"] == "same":
        assert (again, end_again) == (losses, end)
        return
    bound = _bound(own["chosen"])
    torch.testing.assert_close(torch.tensor(again), torch.tensor(losses), rtol=0, atol=bound)
