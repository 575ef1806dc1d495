"""Experts that stay on their processes, with tokens that travel, learn what one process learns."""

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

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(1200)]

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
    "gathered": {"args": {"loss": "ce"}, "fsdp": {"reshard_after_forward": False}},
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
LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
"""Numbers of processes and `expert_parallel`."""
OPTIMIZERS = ("adamw", "adamw8bit")
HALF = ("bf16", "fp16")


def _case(case: dict[str, Any], expert_parallel: int | str) -> dict[str, Any]:
    steps = 2 if case.get("settings", {}).get("precision") in HALF else 5
    shape, fsdp = SHAPE | case.get("shape", {}), case.get("fsdp", {}) | {"expert_parallel": expert_parallel}
    return case | {"shape": shape, "fsdp": fsdp, "steps": steps}


def _on(processes: int, calls: dict[str, tuple[str, tuple[Any, ...]]]) -> dict[str, Any]:
    if processes == 1:
        return experts.all_at_once(ALONE, calls)
    cluster = Cluster(processes=processes, device="cpu", timeout_s=300)
    results = launch(experts.all_at_once, calls, cluster=cluster)
    assert results is not None
    return results


def _compare(one: dict[str, Any], many: dict[str, Any], precision: str) -> None:
    expected, found = (torch.tensor(run["losses"]) for run in (one, many))
    bound = 1e-2 if precision in HALF else 1e-4
    torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=bound)
    torch.testing.assert_close(found[:, 1], expected[:, 1], rtol=bound, atol=0)  # the gradient's norm
    assert len(one["gradients"]) == min(workers.STILL, len(expected))
    for mine, theirs in zip(one["gradients"], many["gradients"], strict=True):
        assert mine.keys() == theirs.keys()
        apart = sum(float((theirs[name] - value).square().sum()) for name, value in mine.items()) ** 0.5
        norm = sum(float(value.square().sum()) for value in mine.values()) ** 0.5
        assert 0 < apart <= (3e-2 if precision in HALF else 1e-4) * norm


def test_two_processes_with_their_own_experts_learn_what_one_does() -> None:
    """With accumulation, with a process that receives no token or all, and with a process without an image."""
    calls = {name: ("learn", ({name: _case(CASES[name], 2)}, 2)) for name in QUICK}
    two = _on(2, calls | {"auto": ("learn", ({"plain": _case(CASES["plain"], "auto")}, 2))})
    for name in QUICK:
        one = workers.learn(ALONE, {name: _case(CASES[name], 1)}, 1)[name]
        _compare(one, two[name][name], "fp32")
        if "weights" in CASES[name]:
            for gradients in one["gradients"]:
                by_expert = gradients["image_encoder.blocks.1.mlp.groups.0.lin1_weight"].flatten(1).abs().amax(dim=1)
                assert (by_expert > 0).tolist() == ([True] * 2 + [False] * 2)[:: 1 if name == "first" else -1]
    assert two["auto"]["plain"]["losses"] == two["plain"]["plain"]["losses"]  # auto chooses 2


def test_experts_of_other_processes_are_refused_in_a_single_process() -> None:
    with pytest.raises(ConfigError, match="is 2, which does not divide the number of processes"):
        workers.begin(ALONE, _case({}, 2))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int] | tuple[int, int, int, int], Any]:
    """Results of all calls by number of processes and `expert_parallel`; of resumed runs by both before and after."""
    folder = str(tmp_path_factory.mktemp("states"))
    dense = {"shape": {"moe_num_expert_groups": 0, "moe_decoder_experts": 0, "detail_stem": False}}
    torch.manual_seed(3)
    source = tmp_path_factory.mktemp("source") / "dense.pth"
    save_checkpoint(experts.describe(experts.arch_of(dense), ClassWiseSam(experts.arch_of(dense)).state_dict()), source)

    def name_of(layout: tuple[int, int], optimizer: str) -> str:
        return f"{layout[0]}-{layout[1]}-{optimizer}"

    def learned(layout: tuple[int, int]) -> dict[str, Any]:
        processes, expert_parallel = layout
        settings = {"shape": {"embed_dim": 64} | EVERY, "settings": {"ema": 0.9}, "args": {"loss": "ce+dice"}}
        states = {
            name_of(layout, optimizer): _case(settings | {"optimizer": optimizer}, expert_parallel)
            for optimizer in OPTIMIZERS
        }
        cases = {name: _case(case, expert_parallel) for name, case in CASES.items()}
        calls: dict[str, tuple[str, tuple[Any, ...]]] = {
            "save": ("save", (states, folder)),
            "written": ("written", ({"": _case({}, expert_parallel)}, folder)),
            "grown": ("grown", (_case({}, expert_parallel), str(source))),
        }
        if processes == 1 or expert_parallel > 1:
            calls["learn"] = ("learn", (cases, processes))
        if expert_parallel > 1:
            calls["overflow"] = ("overflow", (_case({}, expert_parallel),))
        return {f"{layout} {key}": call for key, call in calls.items()}

    def resumed(layout: tuple[int, int], earlier: list[tuple[int, int]]) -> dict[str, Any]:
        settings = {"shape": {"embed_dim": 64} | EVERY, "settings": {"ema": 0.9}, "args": {"loss": "ce+dice"}}
        cases = {
            f"{name_of(before, optimizer)} as {layout}": _case(settings | {"optimizer": optimizer}, layout[1])
            for before in earlier
            for optimizer in OPTIMIZERS
        }
        return {f"{layout} resume {len(earlier)}": ("resume", (cases, folder))}

    ones, twos, fours = ([layout for layout in LAYOUTS if layout[0] == processes] for processes in (1, 2, 4))
    results: dict[str, Any] = {}
    for processes, layouts, earlier in ((1, ones, ones), (2, twos, ones + twos), (4, fours, LAYOUTS)):
        calls: dict[str, Any] = {}
        for layout in layouts:
            calls |= learned(layout)
        for layout in layouts:
            calls |= resumed(layout, earlier)
        results |= _on(processes, calls)
    for layouts, earlier in ((ones, twos + fours), (twos, fours)):
        calls = {}
        for layout in layouts:
            calls |= resumed(layout, earlier)
        results |= _on(layouts[0][0], calls)
    return results


PARALLEL = [layout for layout in LAYOUTS if layout[1] > 1]


@pytest.mark.slow
@pytest.mark.parametrize("layout", PARALLEL)
@pytest.mark.parametrize("case", CASES)
def test_processes_with_their_own_experts_learn_what_one_does(
    outcomes: dict[str, Any], case: str, layout: tuple[int, int]
) -> None:
    one, many = (outcomes[f"{own} learn"][case] for own in ((1, 1), layout))
    _compare(one, many, CASES[case].get("settings", {}).get("precision", "fp32"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", PARALLEL)
def test_an_overflow_is_skipped_by_all_processes(outcomes: dict[str, Any], layout: tuple[int, int]) -> None:
    assert outcomes[f"{layout} overflow"] == (True, 2.0**99)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout[0] > 1])
def test_a_checkpoint_and_a_grown_model_have_the_same_bytes(outcomes: dict[str, Any], layout: tuple[int, int]) -> None:
    assert outcomes[f"{layout} written"] == outcomes["(2, 1) written"]
    sha, share = outcomes[f"{layout} grown"]
    assert sha == outcomes["(1, 1) grown"][0]
    assert share < 1.1 / layout[0]  # the processes hold about the same number of values


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("after", LAYOUTS)
@pytest.mark.parametrize("before", LAYOUTS)
def test_a_state_goes_on_with_other_processes_and_other_expert_parallelism(
    outcomes: dict[str, Any], before: tuple[int, int], after: tuple[int, int], optimizer: str
) -> None:
    name = f"{before[0]}-{before[1]}-{optimizer}"
    found = next(
        result[f"{name} as {after}"]
        for key, result in outcomes.items()
        if " resume " in key and f"{name} as {after}" in result
    )
    expected = outcomes[f"{before} save"][name]
    assert found[0] == expected[0]  # weights, averages and AdamW's own averages, bit for bit
    if before == after:
        assert found == expected
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(expected[1]), rtol=0, atol=1e-3)
