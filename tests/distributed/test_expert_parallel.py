"""Experts that stay on their processes, with tokens that travel, learn what one process learns."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from cwsam_cli.checkpoints.checkpoint import save_checkpoint
from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import ConfigError
from cwsam_cli.model.network import ClassWiseSam
from tests.distributed import experts, workers

pytestmark = pytest.mark.timeout(1200)

ALONE = World(torch.device("cpu"))
SHAPE: dict[str, Any] = {
    "moe_experts_per_group": 4,
    "moe_k_groups": 2,
    "moe_decoder_experts": 4,
    "moe_decoder_k_experts": 2,
    "detail_stem": False,  # rounding moves its gradient by 2e-4, with and without expert parallelism
}
EVERY = {"moe_k_groups": 3, "moe_k_experts": 4, "moe_decoder_k_experts": 4}  # no rounding moves a token
OFF: dict[str, Any] = {"balance_loss": 0.0, "router_z_loss": 0.0}  # means over each accumulated batch, not the step


def _steered(chosen: list[int]) -> dict[str, torch.Tensor]:
    """Weights with which all tokens of the encoder's experts go to some experts of their group."""
    block, width = "image_encoder.blocks.1", workers.SHAPE["embed_dim"]
    scale, shift, router = torch.ones(width), torch.zeros(width), torch.zeros(SHAPE["moe_experts_per_group"], width)
    scale[0], shift[0] = 0.0, 5.0
    router[:, 1:] = 0.02 * torch.randn(router[:, 1:].shape, generator=torch.Generator().manual_seed(0))
    router[chosen, 0] = 10.0
    weights = {f"{block}.norm2.weight": scale, f"{block}.norm2.bias": shift}
    return weights | {f"{block}.mlp.routers.{group}.weight": router for group in range(3)}


CASES: dict[str, dict[str, Any]] = {
    "plain": {"args": {"loss": "ce+dice"}},
    "accumulation": {"args": {"loss": "ce+iou", **OFF}, "settings": {"grad_accum_steps": 2}},
    "first": {"args": {"loss": "ce"}, "weights": _steered([0, 1])},  # with two processes, the second gets no token
    "last": {"args": {"loss": "ce"}, "weights": _steered([2, 3])},
    "checkpointing": {"args": {"loss": "ce+dice"}, "settings": {"activation_checkpointing": True}},
    "frozen": {"args": {"loss": "ce"}, "frozen": ".mlp.groups.0."},
    "offload": {"args": {"loss": "ce+iou"}, "fsdp": {"cpu_offload": True}},
    "kept": {
        "args": {"loss": "ce", **OFF},
        "fsdp": {"reshard_after_forward": False},
        "settings": {"grad_accum_steps": 2},
    },
    "clipped": {"args": {"loss": "ce"}, "settings": {"clip_grad_norm": 0.1}},
    "together": {
        "args": {"loss": "ce+dice", **OFF},
        "frozen": ".mlp.groups.0.",
        "fsdp": {"cpu_offload": True},
        "settings": {"grad_accum_steps": 2, "activation_checkpointing": True, "clip_grad_norm": 0.1},
    },
    "8-bit": {"args": {"loss": "ce"}, "optimizer": "adamw8bit", "shape": {"embed_dim": 64} | EVERY},
    "bf16": {"args": {"loss": "ce"}, "settings": {"precision": "bf16"}, "shape": EVERY},
    "fp16": {"args": {"loss": "ce"}, "settings": {"precision": "fp16"}, "shape": EVERY, "scale": 2.0**12},
}
QUICK = ("plain", "accumulation", "first", "last")
AMONG_FOUR: dict[int, tuple[str, ...]] = {1: (), 2: ("together", "kept", "8-bit"), 4: ("plain",)}
"""Cases that four processes learn, by `expert_parallel`."""
HALF = ("bf16", "fp16")
LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
"""Numbers of processes and `expert_parallel`."""
PARALLEL = [layout for layout in LAYOUTS if layout[1] > 1]
GOES_ON = {"adamw": LAYOUTS, "adamw8bit": [(1, 1), (2, 2), (4, 2)]}
"""Layouts that go on with a state of any layout, by optimizer."""
RUN: dict[str, Any] = {"shape": {"embed_dim": 64} | EVERY, "settings": {"ema": 0.9}, "args": {"loss": "ce+dice"}}


def _case(case: dict[str, Any], expert_parallel: int | str) -> dict[str, Any]:
    steps = 2 if case.get("settings", {}).get("precision") in HALF else 4
    shape, fsdp = SHAPE | case.get("shape", {}), case.get("fsdp", {}) | {"expert_parallel": expert_parallel}
    return {"steps": steps, "still": 1} | case | {"shape": shape, "fsdp": fsdp}


def _on(processes: int, calls: experts.Calls) -> dict[str, Any]:
    if processes == 1:
        return experts.call_all(ALONE, calls)
    cluster = Cluster(processes=processes, device="cpu", timeout_s=300)
    results = launch(experts.call_all, calls, cluster=cluster)
    assert results is not None
    return results


def _compare(one: dict[str, Any], many: dict[str, Any], precision: str) -> None:
    expected, found = (torch.tensor(run["losses"]) for run in (one, many))
    bound = 1e-2 if precision in HALF else 1e-4
    torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=bound)
    torch.testing.assert_close(found[:, 1], expected[:, 1], rtol=bound, atol=0)  # the gradient's norm
    assert one["gradients"]
    for mine, theirs in zip(one["gradients"], many["gradients"], strict=True):
        assert mine.keys() == theirs.keys()
        apart = sum(float((theirs[name] - value).square().sum()) for name, value in mine.items()) ** 0.5
        norm = sum(float(value.square().sum()) for value in mine.values()) ** 0.5
        assert 0 < apart <= (3e-2 if precision in HALF else 1e-4) * norm


def test_two_processes_with_their_own_experts_learn_what_one_does() -> None:
    """With accumulation, with a process that receives no token or all, and with a process without an image."""
    still = {"still": 3, "steps": 4}
    calls: experts.Calls = {"learn": (workers.learn, ({name: _case(CASES[name] | still, 2) for name in QUICK}, 2))}
    calls["auto"] = (workers.learn, ({"": _case(CASES["plain"] | {"steps": 1}, "auto")}, 2))
    calls |= {name: (experts.count_collectives, (_case(CASES[name], 2),)) for name in ("accumulation", "kept")}
    two = _on(2, calls)
    alone = workers.learn(ALONE, {name: _case(CASES[name] | still, 1) for name in QUICK}, 1)
    for name, one in alone.items():
        _compare(one, two["learn"][name], "fp32")
        if "weights" in CASES[name]:
            for gradients in one["gradients"]:
                by_expert = gradients["image_encoder.blocks.1.mlp.groups.0.lin1_weight"].flatten(1).abs().amax(dim=1)
                assert (by_expert > 0).tolist() == ([True] * 2 + [False] * 2)[:: 1 if name == "first" else -1]
    assert two["auto"][""]["losses"] == two["learn"]["plain"]["losses"][:1]  # auto chooses 2
    units = 3 + 2 + 2  # of routers, blocks and the decoder's layers; no experts are gathered
    exchanges = 2 * 3 * (1 + 2 + 2)  # per batch and layer: counts, rows there and back, and their gradients
    counts = {"reduce": units + 1, "exchange": exchanges}  # gradients are summed in the last of two batches
    assert two["accumulation"] == {"gather": 2 * 2 * units + 1} | counts  # and for the rest of the model once
    assert two["kept"] == {"gather": units + 1} | counts


def test_experts_of_other_processes_are_refused_in_a_single_process() -> None:
    with pytest.raises(ConfigError, match="is 2, which does not divide the number of processes"):
        workers.begin(ALONE, _case({}, 2))


def _learned(layout: tuple[int, int]) -> Iterable[str]:
    return CASES if layout[0] < 4 else AMONG_FOUR[layout[1]]


def _named(layout: tuple[int, int], optimizer: str) -> str:
    return f"{layout[0]}-{layout[1]}-{optimizer}"


def _calls(layout: tuple[int, int], folder: str, source: str) -> experts.Calls:
    """Calls that begin runs, by layout and name."""
    processes, expert_parallel = layout
    runs = {_named(layout, name): _case(RUN | {"optimizer": name}, expert_parallel) for name in GOES_ON}
    cases = {name: _case(CASES[name], expert_parallel) for name in _learned(layout)}
    plain = _case({}, expert_parallel)
    calls: experts.Calls = {"save": (experts.save, (runs, folder))}
    if layout == (2, 1) or layout in PARALLEL:
        calls["written"] = (experts.write, (plain, folder))
    if layout == (1, 1) or layout in PARALLEL:
        calls["learn"] = (workers.learn, (cases, processes))
        calls["grown"] = (experts.grow, (plain, source))
    if layout == (4, 2):
        calls["kept"] = (experts.count_collectives, (_case(CASES["kept"], expert_parallel),))
    if layout == (2, 2):
        calls["overflow"] = (workers.overflow, (plain,))
    return {f"{layout} {name}": call for name, call in calls.items()}


def _resumes(after: tuple[int, int], saved: list[tuple[int, int]], folder: str) -> experts.Calls:
    """A call for each saved run, by the run's name and the layout after it."""
    return {
        f"{_named(before, name)} as {after}": (
            experts.resume,
            (_case(RUN | {"optimizer": name}, after[1]), folder, _named(before, name)),
        )
        for before in saved
        for name, layouts in GOES_ON.items()
        if after in layouts
    }


@pytest.mark.slow
def test_experts_of_six_processes_are_divided_unevenly(tmp_path: Path) -> None:
    """Three processes share the two experts of every group, whose widths three does not divide."""
    case = CASES["plain"] | {"steps": 2}
    six = _on(
        6,
        {
            "learn": (workers.learn, ({"": _case(case, 2)}, 6)),
            "save": (experts.save, ({"six": _case(case, 2)}, str(tmp_path))),
        },
    )
    _compare(workers.learn(ALONE, {"": _case(case, 1)}, 1)[""], six["learn"][""], "fp32")
    found, losses = experts.resume(ALONE, _case(case, 1), str(tmp_path), "six")
    assert found == six["save"]["six"][0]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(six["save"]["six"][1]), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of all calls. Processes take long to start, so they run as many calls as possible."""
    folder = str(tmp_path_factory.mktemp("states"))
    arch = experts.arch_of({"shape": {"moe_num_expert_groups": 0, "moe_decoder_experts": 0, "detail_stem": False}})
    torch.manual_seed(3)
    source = tmp_path_factory.mktemp("source") / "dense.pth"
    save_checkpoint(experts.describe(arch, ClassWiseSam(arch).state_dict()), source)
    results: dict[str, Any] = {}
    by_processes = {count: [layout for layout in LAYOUTS if layout[0] == count] for count in (1, 2, 4)}
    for count, layouts in by_processes.items():
        calls: experts.Calls = {}
        for layout in layouts:
            calls |= _calls(layout, folder, str(source))
        for layout in layouts:
            calls |= _resumes(layout, [before for before in LAYOUTS if before[0] <= count], folder)
        results |= _on(count, calls)
    for count in (1, 2):
        calls = {}
        for layout in by_processes[count]:
            calls |= _resumes(layout, [before for before in LAYOUTS if before[0] > count], folder)
        results |= _on(count, calls)
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "case"),
    [(layout, case) for layout in PARALLEL for case in _learned(layout)],
)
def test_processes_with_their_own_experts_learn_what_one_does(
    outcomes: dict[str, Any], layout: tuple[int, int], case: str
) -> None:
    one, many = (outcomes[f"{own} learn"][case] for own in ((1, 1), layout))
    _compare(one, many, CASES[case].get("settings", {}).get("precision", "fp32"))


@pytest.mark.slow
def test_kept_experts_are_gathered_and_summed_once_per_step(outcomes: dict[str, Any]) -> None:
    units = 3 + 2 + 3 + 2 + 2 + 1  # groups in encoder and decoder, routers, blocks, layers of the decoder, the rest
    counts = outcomes["(4, 2) kept"]
    assert (counts["gather"], counts["reduce"]) == (units, units)


@pytest.mark.slow
def test_an_overflow_is_skipped_by_both_processes(outcomes: dict[str, Any]) -> None:
    assert outcomes["(2, 2) overflow"] == (True, 2.0**99)


@pytest.mark.slow
@pytest.mark.parametrize("layout", PARALLEL)
def test_a_checkpoint_has_the_same_bytes(outcomes: dict[str, Any], layout: tuple[int, int]) -> None:
    assert outcomes[f"{layout} written"] == outcomes["(2, 1) written"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", PARALLEL)
def test_a_model_grows_into_the_processes_that_share_it(outcomes: dict[str, Any], layout: tuple[int, int]) -> None:
    found, share = outcomes[f"{layout} grown"]
    assert found == outcomes["(1, 1) grown"][0]
    assert share < 1.1 / layout[0]  # no process holds many more values than another


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "after"), [(optimizer, layout) for optimizer, layouts in GOES_ON.items() for layout in layouts]
)
@pytest.mark.parametrize("before", LAYOUTS)
def test_a_state_goes_on_with_other_processes_and_other_expert_parallelism(
    outcomes: dict[str, Any], before: tuple[int, int], optimizer: str, after: tuple[int, int]
) -> None:
    expected = outcomes[f"{before} save"][_named(before, optimizer)]
    found = outcomes[f"{_named(before, optimizer)} as {after}"]
    assert found[0] == expected[0]  # weights, averages and AdamW's own averages, bit for bit
    if before == after:
        assert found == expected
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(expected[1]), rtol=0, atol=1e-3)
