"""Two processes that share a model out learn what one process learns."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint, save_checkpoint
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.taxonomy import from_names
from tests.distributed import workers

pytestmark = pytest.mark.timeout(1200)

ALL_EXPERTS = {"moe_k_groups": 3, "moe_k_experts": 3}
"""Where at this seed rounding moves a token between two experts, from which losses then depart by 2e-4."""
OFF: dict[str, Any] = {"balance_loss": 0.0, "router_z_loss": 0.0}  # means over each accumulated batch, not the step
CASES: dict[str, dict[str, Any]] = {
    "ce": {"args": {"loss": "ce"}, "weighted": True},
    "dice": {"args": {"loss": "ce+dice", "label_smoothing": 0.1}},
    "iou": {"args": {"loss": "ce+iou"}, "weighted": True},
    "lovasz": {"args": {"loss": "ce+lovasz"}},
    "focal": {"args": {"loss": "focal"}, "weighted": True, "shape": ALL_EXPERTS},
    "accumulation": {"args": {"loss": "ce+dice", **OFF}, "weighted": True, "settings": {"grad_accum_steps": 2}},
    "offload": {"args": {"loss": "ce+iou"}, "fsdp": {"cpu_offload": True}},
    "checkpointing": {"args": {"loss": "ce+dice"}, "settings": {"activation_checkpointing": True}},
    "frozen": {"args": {"loss": "ce"}, "frozen": ".mlp.groups.0."},
    "adapters": {"args": {"loss": "ce"}, "shape": {"adaptor": "adaptor", "input_type": "fft"}, "frozen": ".attn."},
    "gathered": {"args": {"loss": "ce"}, "fsdp": {"reshard_after_forward": False, "shard_experts_evenly": False}},
    "clipped": {"args": {"loss": "ce"}, "settings": {"clip_grad_norm": 0.1}},
    "8-bit": {
        "args": {"loss": "ce"},
        "optimizer": "adamw8bit",
        "shape": {"embed_dim": 64} | ALL_EXPERTS,  # tensors large enough for 8 bits
        "steps": 5,
    },
}


def on(processes: int, worker: Any, *arguments: Any) -> Any:
    """What a worker returns on so many processes; the time limit only guards against hanging."""
    return launch(worker, *arguments, cluster=Cluster(processes=processes, device="cpu", timeout_s=300))


QUICK = ("iou", "accumulation", "frozen")


@pytest.fixture(scope="module")
def runs() -> Callable[[bool], tuple[dict[str, Any], dict[str, Any]]]:
    """The quick cases, or the others, in one process and in two."""

    @cache
    def learn(quick: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        cases = {name: case for name, case in CASES.items() if (name in QUICK) == quick}
        return (
            on(1, workers.learn, cases, 1),
            on(2, workers.learn, cases, 2),
        )

    return learn


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_two_processes_learn_what_one_does(runs: Any, case: str) -> None:
    one, two = (both[case] for both in runs(case in QUICK))
    expected, found = (torch.tensor([loss for loss, _ in run["losses"]]) for run in (one, two))
    if "steps" not in CASES[case]:
        assert expected[workers.STILL :].max() - expected[-1] > 1e-4  # it learns
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert len(one["gradients"]) == workers.STILL
    for mine, theirs in zip(one["gradients"], two["gradients"], strict=True):
        assert mine.keys() == theirs.keys()
        apart = sum(float((theirs[name] - value).square().sum()) for name, value in mine.items()) ** 0.5
        norm = sum(float(value.square().sum()) for value in mine.values()) ** 0.5
        assert 0 < apart <= 1e-4 * norm


def test_a_model_begins_alike_in_one_process_and_two(tmp_path: Path) -> None:
    dense = workers.configuration({"shape": {"moe_num_expert_groups": 0, "moe_decoder_experts": 0}})
    arch = architecture(dense.model, num_bands=workers.BANDS, num_classes=workers.CLASSES)
    taxonomy = from_names(list("abcd"))
    bands = tuple(Band(name=f"band_{i}", mean=0.0, std=1.0) for i in range(workers.BANDS))
    torch.manual_seed(3)
    known = {"dtype": "uint8", "gsd_m": None, "ignore_background": False, "epoch": 1, "metrics": {}}
    weights = ClassWiseSam(arch).state_dict()
    path = tmp_path / "dense.pth"
    save_checkpoint(Checkpoint(weights=weights, architecture=arch, taxonomy=taxonomy, bands=bands, **known), path)
    for source in (None, str(path)):
        one = workers.begun(World(torch.device("cpu")), source)
        two = on(2, workers.begun, source)
        assert one.keys() == two.keys()
        assert [name for name, value in one.items() if not torch.equal(value, two[name])] == []
    attention = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(one[attention], weights[attention])  # of the source
    experts = one["image_encoder.blocks.1.mlp.groups.0.lin1_weight"]
    assert all(torch.equal(expert, weights["image_encoder.blocks.1.mlp.lin1.weight"]) for expert in experts)


def test_experts_alone_are_gathered_in_bfloat16_and_activations_are_those_of_one_process() -> None:
    alone, _ = workers.dtypes(World(torch.device("cpu")))
    dtypes, weights = on(2, workers.dtypes)
    assert dtypes == alone
    assert dtypes["image_encoder.blocks.1"] == "torch.float32"  # what the skips carry
    assert any("router" in name for name in weights)
    for name, kind in weights.items():
        assert kind == ("torch.bfloat16" if ".groups." in name else "torch.float32"), name


@pytest.fixture(scope="module")
def halves() -> dict[int, dict[str, Any]]:
    """Losses in bf16 and fp16, by number of processes."""
    shape = {"moe_num_expert_groups": 0, "moe_decoder_experts": 0}
    cases = {
        precision: {"args": {"loss": "ce"}, "shape": shape, "settings": {"precision": precision}}
        for precision in ("bf16", "fp16")
    }
    return {processes: on(processes, workers.learn, cases, processes) for processes in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_alike_in_one_process_and_two(halves: dict[int, dict[str, Any]], precision: str) -> None:
    one, two = (torch.tensor(halves[processes][precision]["losses"])[:, 0] for processes in (1, 2))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-2)


def test_an_overflow_is_skipped_by_both_processes() -> None:
    unchanged, scale = on(2, workers.overflow)
    assert unchanged
    assert scale == 2.0**99  # halved


OPTIMIZERS = ("adamw", "adamw8bit")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, str], tuple[list[float], list[float]]]:
    """Losses after a state, uninterrupted and gone on with, by processes before and after and optimizer."""
    every = {"moe_k_groups": 3, "moe_k_experts": 3}  # else rounding moves a token between two experts
    cases = {
        optimizer: {"args": {"loss": "ce+dice"}, "optimizer": optimizer, "shape": {"embed_dim": 64} | shape}
        for optimizer, shape in (("adamw", {}), ("adamw8bit", every))
    }
    begun = [(before, optimizer) for before in (1, 2) for optimizer in OPTIMIZERS]
    folders = {key: str(tmp_path_factory.mktemp("half")) for key in begun}
    losses = {}
    for before in (1, 2):
        calls = [(cases[optimizer], before, folders[before, optimizer]) for optimizer in OPTIMIZERS]
        whole = on(before, workers.in_turn, workers.first_half, calls)
        losses |= {(before, optimizer): own for optimizer, own in zip(OPTIMIZERS, whole, strict=True)}
    pairs = {}
    for after in (1, 2):
        calls = [(cases[optimizer], after, folders[before, optimizer]) for before, optimizer in begun]
        resumed = on(after, workers.in_turn, workers.second_half, calls)
        pairs |= {
            (before, after, optimizer): (losses[before, optimizer], own)
            for (before, optimizer), own in zip(begun, resumed, strict=True)
        }
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2), (1, 1)])
def test_a_state_goes_on_with_another_number_of_processes(
    halfway: dict[tuple[int, int, str], tuple[list[float], list[float]]], optimizer: str, before: int, after: int
) -> None:
    expected, found = halfway[before, after, optimizer]
    if before == after:
        assert found == expected
    else:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def moves(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], tuple[float, float]]:
    """The largest move of a step, uninterrupted and as the first after a state, by processes before and after."""
    case = {"args": {"loss": "ce+dice"}, "optimizer": "adamw8bit", "shape": {"embed_dim": 64}}
    folders = {before: str(tmp_path_factory.mktemp("moves")) for before in (1, 2, 4)}
    uninterrupted = {before: on(before, workers.move_after_a_save, case, folders[before]) for before in folders}
    resumed = {(4, 1): on(1, workers.move_after_a_resume, case, folders[4])}
    calls = [(case, folders[before]) for before in (1, 2)]
    one, two = on(4, workers.in_turn, workers.move_after_a_resume, calls)
    resumed |= {(1, 4): one, (2, 4): two}
    return {(before, after): (uninterrupted[before], move) for (before, after), move in resumed.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (2, 4)])
def test_the_first_8_bit_step_on_another_number_of_processes_is_no_larger(
    moves: dict[tuple[int, int], tuple[float, float]], before: int, after: int
) -> None:
    """A second average that was rounded to 0 would make it many times larger, and the loss would not show it."""
    uninterrupted, resumed = moves[before, after]
    assert 0.5 < uninterrupted < 5
    assert resumed < 1.5 * uninterrupted


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_expert_groups_that_were_frozen_at_first_begin_to_learn(precision: str) -> None:
    moved = on(2, workers.thaw, precision)
    assert len(moved) == (3 + 2) * 4  # three groups in the encoder's block, one in each layer of the decoder
    assert all(moved.values()), moved
