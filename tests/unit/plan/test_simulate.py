"""A step on ranks and a device that are only imagined, against the same step on real tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from cwsam_cli.config.load import load_config
from cwsam_cli.config.schema import EncoderMode, FsdpSettings, ModelArgs, ModelConfig, Precision, TrainingSettings
from cwsam_cli.dataset.loader import Batch
from cwsam_cli.distributed.parallelize import checkpoint_activations, shard
from cwsam_cli.model.experts import expert_layers
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.plan import simulate as room
from cwsam_cli.plan.simulate import SimulatedStep, run_tracked_passes, simulate_step


def _arch(**changes: Any) -> Architecture:
    args = ModelArgs(inp_size=128, encoder_mode=EncoderMode(**changes))
    return architecture(ModelConfig(name="sam_tiny", args=args), num_bands=3, num_classes=7)


TINY = _arch()
SMALL = _arch(depth=2, global_attn_indexes=[1], moe_start_layer_index=1)


def _imagined(
    arch: Architecture = SMALL,
    *,
    gpus: int = 1,
    batch: int = 2,
    precision: Precision = "fp32",
    checkpointed: bool = False,
    batches: int = 1,
    device: str = "cpu",
    fsdp: FsdpSettings | None = None,
    learning: frozenset[str] | None = None,
) -> SimulatedStep:
    with torch.device("meta"):
        names = frozenset(name for name, _ in ClassWiseSam(arch).named_parameters())
    return simulate_step(
        arch,
        names if learning is None else learning,
        gpus=gpus,
        batch=batch,
        loss="ce+dice",
        smoothing=0.0,
        settings=_settings(precision, checkpointed, batches),
        fsdp=fsdp or FsdpSettings(),
        device=device,
    )


def _settings(precision: Precision, checkpointed: bool, batches: int = 1) -> TrainingSettings:
    return TrainingSettings(precision=precision, activation_checkpointing=checkpointed, grad_accum_steps=batches)


def _batch(arch: Architecture, batch: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, arch.inp_size, arch.inp_size)
    image = torch.randn(batch, arch.num_bands, *shape[1:], generator=generator)
    return image, torch.randint(arch.num_classes, shape, generator=generator, dtype=torch.uint8)


def _real(arch: Architecture, batch: int, precision: Precision, checkpointed: bool) -> int:
    torch.manual_seed(0)
    model = ClassWiseSam(arch).train()
    for _, layer in expert_layers(model):  # the plan assumes that experts share the tokens evenly
        layer.run_groups = partial(room.run_evenly, layer)  # type: ignore[method-assign]
    if checkpointed:
        checkpoint_activations(model)
    args, settings = ModelArgs(loss="ce+dice"), _settings(precision, checkpointed)
    return run_tracked_passes(model, [_batch(arch, batch)], args=args, settings=settings).worst.total


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_imagined_step_of_sam_tiny_needs_what_a_real_one_needs(precision: Precision, checkpointed: bool) -> None:
    imagined = _imagined(TINY, precision=precision, checkpointed=checkpointed).worst.total
    assert imagined == pytest.approx(_real(TINY, 2, precision, checkpointed), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("precision", "size", "bound"), [("fp32", 512, 0.02), ("bf16", 208, 0.001)])
def test_an_imagined_step_of_sam_vit_b_needs_what_a_real_one_needs(
    precision: Precision, size: int, bound: float, checkpointed: bool
) -> None:
    """Without bf16 in hardware, one test of 256 pixels took 99 s of CPU time, so bf16 has 208 here.

    Weights are most of the memory of small images, so the bound is tighter there.
    """
    arch = architecture(ModelConfig(name="sam_vit_b", args=ModelArgs(inp_size=size)), num_bands=3, num_classes=33)
    imagined = _imagined(arch, batch=1, precision=precision, checkpointed=checkpointed).worst.total
    assert imagined == pytest.approx(_real(arch, 1, precision, checkpointed), rel=bound)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_sharded_step_needs_what_one_on_real_tensors_needs(checkpointed: bool) -> None:
    model = ClassWiseSam(SMALL).train()
    for _, layer in expert_layers(model):  # weights of ranks that do not exist are noise, and so are routes
        layer.run_groups = partial(room.run_evenly, layer)  # type: ignore[method-assign]
    if checkpointed:
        checkpoint_activations(model)
    settings = _settings("bf16", checkpointed, 2)
    with room._fake_ranks(4) as mesh:
        assert mesh is not None
        shard(model, mesh, precision="bf16", settings=FsdpSettings(), accumulates=True)
        real = run_tracked_passes(
            model, [_batch(SMALL, 2)] * 2, gpus=4, args=ModelArgs(loss="ce+dice"), settings=settings
        )
    imagined = _imagined(gpus=4, precision="bf16", checkpointed=checkpointed, batches=2)
    assert imagined.worst.total == pytest.approx(real.worst.total, rel=0.02)
    assert imagined.worst.reducing == pytest.approx(real.worst.reducing, rel=0.02)
    assert imagined.work.sent == real.work(2).sent


def test_shares_of_all_ranks_hold_the_model() -> None:
    total = sum(parameter.numel() for parameter in ClassWiseSam(SMALL).parameters())
    assert sum(_imagined(gpus=1).shards) == total
    for gpus in (2, 1024):
        held = _imagined(gpus=gpus)
        assert sum(held.shards) * gpus >= total
        assert held.unevenness == pytest.approx(sum(held.shards) * gpus / total)
    assert not dist.is_initialized()


def test_experts_cut_along_their_width_are_even_where_their_number_does_not_divide() -> None:
    even = _imagined(gpus=64, fsdp=FsdpSettings(shard_experts_evenly=True))
    uneven = _imagined(gpus=64, fsdp=FsdpSettings(shard_experts_evenly=False))
    assert even.unevenness < uneven.unevenness


def test_weights_that_stay_gathered_take_more() -> None:
    kept = _imagined(TINY, gpus=4, checkpointed=True, batch=1, fsdp=FsdpSettings(reshard_after_forward=False))
    freed = _imagined(TINY, gpus=4, checkpointed=True, batch=1)
    assert kept.worst.gathered > 0.9 * 4 * sum(_imagined(TINY).shards)
    assert freed.worst.total < 0.9 * kept.worst.total


def test_checkpointing_saves_activations_and_a_batch_costs_them() -> None:
    one, two, again = _imagined(batch=1), _imagined(batch=2), _imagined(batch=2, checkpointed=True)
    assert again.activations < 0.6 * two.activations
    assert 1.7 * one.activations < two.activations < 2.1 * one.activations


def test_weights_that_do_not_learn_need_no_activations() -> None:
    decoder = frozenset(name for name, _ in ClassWiseSam(SMALL).named_parameters() if name.startswith("mask_decoder"))
    assert _imagined(learning=decoder).activations < 0.5 * _imagined().activations
    assert len(_imagined(learning=decoder).learning) == len(decoder)


def test_gradients_of_dense_units_wait_whole_for_the_last_batch_of_a_step() -> None:
    once, twice = (_imagined(gpus=4, batch=1, checkpointed=True, batches=batches) for batches in (1, 2))
    assert twice.worst.total > once.worst.total


DENSE = _arch(depth=9, global_attn_indexes=[2, 5, 8], moe_num_expert_groups=0)
EXPERTS = _arch(depth=8, global_attn_indexes=[], moe_start_layer_index=4, moe_experts_per_group=2)


def _whole(monkeypatch: pytest.MonkeyPatch, arch: Architecture, **case: Any) -> SimulatedStep:
    """Of a step in which every block runs."""
    simulate_step.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(room, "_leave_out_repetitions", lambda model: None)
        whole = _imagined(arch, **case)
    simulate_step.cache_clear()
    return whole


def _same(part: SimulatedStep, whole: SimulatedStep) -> None:
    for name in ("activations", "gathered", "reducing"):
        assert getattr(part.worst, name) == pytest.approx(getattr(whole.worst, name), rel=1e-3), name
    assert part.activations == pytest.approx(whole.activations, rel=1e-3)
    assert (part.shards, part.learning) == (whole.shards, whole.learning)


@pytest.mark.parametrize(
    ("arch", "case"),
    [
        (DENSE, {"gpus": 4}),
        (EXPERTS, {"gpus": 1, "checkpointed": True, "device": "cuda"}),
        pytest.param(
            EXPERTS, {"gpus": 4, "learning": ("mask_decoder.", ".blocks.4.", ".blocks.7.")}, marks=pytest.mark.slow
        ),
        pytest.param(DENSE, {"gpus": 2, "learning": ("mask_decoder.",)}, marks=pytest.mark.slow),
        pytest.param(EXPERTS, {"gpus": 4, "batches": 2}, marks=pytest.mark.slow),
        pytest.param(
            EXPERTS,
            {"gpus": 4, "batches": 2, "checkpointed": True, "fsdp": FsdpSettings(reshard_after_forward=False)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_blocks_that_are_left_out_count_as_if_they_had_run(
    arch: Architecture, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "learning" in case:
        with torch.device("meta"):
            names = [name for name, _ in ClassWiseSam(arch).named_parameters()]
        case = case | {"learning": frozenset(name for name in names if any(part in name for part in case["learning"]))}
    _same(_imagined(arch, precision="bf16", **case), _whole(monkeypatch, arch, precision="bf16", **case))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_third_of_the_10b_models_blocks_stand_for_all(checkpointed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = architecture(load_config("XinTong/10b_fsdp").model, num_bands=3, num_classes=33)
    case = {"gpus": 8, "batch": 1, "precision": "bf16", "checkpointed": checkpointed, "batches": 2, "device": "cuda"}
    _same(_imagined(arch, **case), _whole(monkeypatch, arch, **case))
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    order = room._leave_out_repetitions(model)
    assert len(order) == 32 + 1
    assert len(model.image_encoder.blocks) == 11


# What the model computes under autocast; what only moves values keeps their format everywhere.
_COMPUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.Tensor.add": lambda x: x + x,
    "torch.Tensor.cos": lambda x: x.cos(),
    "torch.Tensor.div": lambda x: x / 2,
    "torch.Tensor.matmul": lambda x: x @ x,
    "torch.Tensor.mul": lambda x: 0.5 * x,
    "torch.Tensor.relu": lambda x: x.relu(),
    "torch.Tensor.sin": lambda x: x.sin(),
    "torch.Tensor.softmax": lambda x: x.softmax(dim=-1),
    "torch.Tensor.sub": lambda x: x - 1,
    "torch.cat": lambda x: torch.cat([x, x.float()]),
    "torch.functional.einsum": lambda x: torch.einsum("bcij,bcjk->bcik", x, x),
    "torch.nn.functional.conv2d": lambda x: F.conv2d(x, x),
    "torch.nn.functional.conv_transpose2d": lambda x: F.conv_transpose2d(x, x),
    "torch.nn.functional.gelu": F.gelu,
    "torch.nn.functional.interpolate": lambda x: F.interpolate(x.float(), size=(8, 8), mode="bilinear"),
    "torch.nn.functional.layer_norm": lambda x: F.layer_norm(x, (4,)),
    "torch.nn.functional.linear": lambda x: F.linear(x, x.select(0, 0).select(0, 0)),
    "torch.nn.functional.pad": lambda x: F.pad(x, (1, 1)),
    "torch.nn.functional.relu": F.relu,
    "torch.nn.functional.scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "torch.stack": lambda x: torch.stack([x, x]),
}
_MOVES = "__getitem__ expand flatten float movedim permute reshape to transpose unflatten view randn".split()


class _Names(TorchFunctionMode):
    """Which functions give numbers under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.is_autocast_enabled("cpu") and isinstance(out, Tensor) and out.is_floating_point():
            self.seen.add(str(resolve_name(func)))
        return out


def test_every_function_of_the_model_under_autocast_is_among_those_compared_with_cuda() -> None:
    mode = EncoderMode(
        embed_dim=64,
        depth=2,
        num_heads=2,
        global_attn_indexes=[1],
        moe_start_layer_index=1,
        detail_stem=True,
        prompt_embed_dim=32,
    )
    args = ModelArgs(inp_size=64, encoder_mode=mode)
    model = ClassWiseSam(architecture(ModelConfig(name="sam_moe_1dot5b", args=args), num_bands=3, num_classes=3))
    with _Names() as names, torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(1, 3, 64, 64))
    assert {name for name in names.seen if name.rpartition(".")[2] not in _MOVES} == _COMPUTES.keys()


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", _COMPUTES)
def test_imagined_autocast_gives_the_number_format_that_cudas_gives(name: str, given: torch.dtype) -> None:
    formats = {}
    for device in ("cuda", "cpu"):  # torch's rules for CUDA work on fake tensors also where there is no GPU
        with FakeTensorMode():
            x = torch.empty(4, 4, 4, 4, dtype=given, device=device)
            torch.set_autocast_dtype(device, torch.bfloat16)
            torch.set_autocast_enabled(device, True)  # `torch.autocast` refuses without a GPU
            try:
                formats[device] = (
                    _COMPUTES[name](x) if device == "cuda" else room._with_cuda_autocast(_COMPUTES[name], x)
                ).dtype
            finally:
                torch.set_autocast_enabled(device, False)
    assert formats["cpu"] == formats["cuda"]
