"""A run begins with weights, goes on from its state, and refuses another's."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cwsam_cli.config.schema import (
    EncoderMode,
    FsdpSettings,
    ModelArgs,
    ModelConfig,
    OptimizerArgs,
    OptimizerConfig,
    RunConfig,
    TrainingSettings,
)
from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError
from cwsam_cli.learning.learner import Learner
from cwsam_cli.learning.loop import take_step
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.model.weights import PretrainedWeights
from cwsam_cli.taxonomy import Taxonomy, from_names
from cwsam_cli.train.start import build_learner, refuse_mismatch, restore_learner, run_identity, save_state
from cwsam_cli.train.state import StateRecord, StateWriter

WORLD = World(torch.device("cpu"))
BANDS = [Band(name=name, mean=0.0, std=1.0) for name in ("red", "green", "blue", "nir")]
NAMES = [band.name for band in BANDS]
CLASSES = from_names(["水体", "林地", "草地"])
FILTERS = "image_encoder.patch_embed.proj.weight"


def _config(**changes: Any) -> RunConfig:
    """A small run; keywords of `TrainingSettings`, and `optimizer`, `sam_checkpoint`, `adaptor`, `noisy`."""
    shape: dict[str, Any] = {
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "global_attn_indexes": [0],
        "patch_size": 8,
        "prompt_embed_dim": 16,
        "decoder_mlp_dim": 32,
        "moe_start_layer_index": 0,
        "moe_num_expert_groups": 2,
        "moe_experts_per_group": 2,
        "moe_k_groups": 1,
        "moe_k_experts": 1,
        "moe_noisy_gating": changes.pop("noisy", False),
        "adaptor": changes.pop("adaptor", "none"),
    }
    return RunConfig(
        model=ModelConfig(name="sam_tiny", args=ModelArgs(inp_size=32, encoder_mode=EncoderMode(**shape))),
        optimizer=OptimizerConfig(name=changes.pop("optimizer", "adamw"), args=OptimizerArgs(lr=1e-2)),
        sam_checkpoint=changes.pop("sam_checkpoint", None),
        training_settings=TrainingSettings(**{"workers": 0} | changes),
    )


def _arch(config: RunConfig) -> Architecture:
    return architecture(config.model, num_bands=4, num_classes=3)


def _begin(config: RunConfig, source: PretrainedWeights | None = None) -> Learner:
    learner, _ = build_learner(config, _arch(config), WORLD, source, band_names=NAMES, class_names=CLASSES.names)
    if config.training_settings.ema is not None:
        learner.begin_average()
    return learner


@pytest.mark.parametrize(("wanted", "chosen", "is_logged"), [(1, 1, False), ("auto", 1, False), ("auto", 2, True)])
def test_over_how_many_processes_experts_are_distributed_is_logged(
    wanted: Any, chosen: int, is_logged: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO, logger=log.name)
    monkeypatch.setattr("cwsam_cli.train.start.choose_expert_parallel", lambda *_, **__: chosen)
    _begin(dataclasses.replace(_config(), fsdp_settings=FsdpSettings(expert_parallel=wanted)))
    assert (f"expert_parallel is {chosen}" in caplog.text) == is_logged


def _learn(config: RunConfig, learner: Learner, steps: range) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        label = torch.randint(3, (2, 4, 4), generator=generator).to(torch.uint8)
        label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
        image = torch.randn(2, 4, 32, 32, generator=generator) + label[:, None]
        result = take_step(
            learner,
            [(image, label)],
            WORLD,
            args=config.model.args,
            settings=config.training_settings,
            weights=None,
            rate=1e-2,
        )
        losses.append(result.loss)
    return losses


def _tensors(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _identity(config: RunConfig) -> dict[str, Any]:
    return run_identity(_arch(config), CLASSES, BANDS)


def _remember(folder: Path, config: RunConfig, learner: Learner, **progress: Any) -> None:
    writer = StateWriter(folder, WORLD)
    save_state(writer, config, learner, WORLD, identity=_identity(config), progress=progress)
    writer.wait()


def _go_on(folder: Path, config: RunConfig) -> tuple[Learner, StateRecord]:
    return restore_learner(folder, config, _arch(config), WORLD, band_names=NAMES, identity=_identity(config))


# --- a new run ---


def test_all_tensors_have_values_and_those_of_the_seed() -> None:
    one, again, other = (_begin(_config(seed=seed)) for seed in (1, 1, 2))
    for tensor in one.model.state_dict().values():
        assert tensor.device.type == "cpu" and tensor.isfinite().all()
    assert _same(_tensors(one), _tensors(again))
    assert not _same(_tensors(one), _tensors(other))


def test_a_new_run_learns() -> None:
    config = _config()
    losses = _learn(config, _begin(config), range(20))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_weights_of_the_same_model_are_taken_as_they_are() -> None:
    config = _config()
    trained = _begin(config)
    _learn(config, trained, range(3))
    weights = _tensors(trained)
    source = PretrainedWeights(weights, NAMES, CLASSES.names, _arch(config))
    assert _same(_tensors(_begin(_config(seed=5), source)), weights)


@pytest.mark.parametrize("noisy", [False, True])
def test_checkpointing_activations_changes_no_step(noisy: bool) -> None:
    plain, thrifty = _config(noisy=noisy), _config(noisy=noisy, activation_checkpointing=True)
    one, other = _begin(plain), _begin(thrifty)
    losses = []
    for config, learner in ((plain, one), (thrifty, other)):
        torch.manual_seed(0)  # the routers' noise
        losses.append(_learn(config, learner, range(4)))
    assert losses[0] == losses[1]
    assert _same(_tensors(one), _tensors(other))


def test_checkpointing_computes_blocks_again() -> None:
    calls: list[int] = []
    for config in (_config(), _config(activation_checkpointing=True)):
        learner = _begin(config)
        layer = learner.model.get_submodule("image_encoder.blocks.0.norm1")
        seen: list[int] = []
        layer.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        _learn(config, learner, range(1))
        calls.append(len(seen))
    assert calls == [1, 2]


@pytest.mark.parametrize(
    ("adaptor", "checkpoint", "frozen"),
    [("adaptor", "sam.pth", True), ("none", "sam.pth", False), ("adaptor", None, False)],
)
def test_filters_of_known_bands_are_frozen_beside_adapters(adaptor: str, checkpoint: str | None, frozen: bool) -> None:
    learner = _begin(_config(adaptor=adaptor, sam_checkpoint=checkpoint))
    assert learner.frozen_bands == ({FILTERS: [0, 1, 2]} if frozen else {})
    decays = [
        group["weight_decay"]
        for group in learner.optimizer.param_groups
        if any(shard is learner.shards[FILTERS] for shard in group["params"])
    ]
    assert decays == [0.0 if frozen else 0.05]


# --- going on ---

KINDS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "8-bit": {"optimizer": "adamw8bit"},
    "averaged": {"ema": 0.9},
    "checkpointing": {"activation_checkpointing": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    config = _config(**KINDS[kind])
    learner = _begin(config)
    _learn(config, learner, range(4))
    _remember(tmp_path / "last", config, learner, epoch=3, sums={"loss": 0.1})
    other, kept = _go_on(tmp_path / "last", config)
    assert kept.progress == {"epoch": 3, "sums": {"loss": 0.1}}
    assert _same(_tensors(learner), _tensors(other))
    assert _same(learner.average, other.average)
    assert _learn(config, learner, range(4, 8)) == _learn(config, other, range(4, 8))
    assert _same(_tensors(learner), _tensors(other))
    assert _same(learner.average, other.average)


def test_eight_bits_are_at_stake() -> None:
    config = _config(optimizer="adamw8bit")
    learner = _begin(config)
    _learn(config, learner, range(1))
    kinds = {known["state1"].dtype for known in learner.optimizer.state.values()}
    assert kinds == {torch.uint8, torch.float32}


def test_the_scale_of_fp16_is_kept(tmp_path: Path) -> None:
    config = _config(precision="fp16")
    learner = _begin(config)
    assert learner.scaler is not None
    learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": 123.0, "_growth_tracker": 7})
    _remember(tmp_path / "last", config, learner)
    other, _ = _go_on(tmp_path / "last", config)
    assert other.scaler is not None
    assert other.scaler.state_dict() == learner.scaler.state_dict()
    assert other.scaler.get_scale() == 123.0


def test_precision_may_change_on_the_way(tmp_path: Path) -> None:
    config = _config()
    learner = _begin(config)
    _remember(tmp_path / "last", config, learner)
    half, _ = _go_on(tmp_path / "last", _config(precision="fp16"))
    assert half.scaler is not None and half.scaler.get_scale() > 1
    assert _same(_tensors(learner), _tensors(half))


def test_averages_are_given_up_with_the_setting(tmp_path: Path) -> None:
    """Kept on, they would stand still and be validated in the weights' place."""
    config = _config(ema=0.9)
    learner = _begin(config)
    _learn(config, learner, range(3))
    _remember(tmp_path / "last", config, learner)
    other, _ = _go_on(tmp_path / "last", _config())
    weights = _tensors(other)
    with other.averaged():
        assert _same(_tensors(other), weights)


def test_a_finished_stage_leaves_what_it_froze_without_averages(tmp_path: Path) -> None:
    config = _config(ema=0.9)
    learner, _ = build_learner(config, _arch(config), WORLD, None, band_names=NAMES, class_names=CLASSES.names)
    learner.learn({name for name in learner.shards if name.startswith("mask_decoder.")})
    learner.begin_average()
    _learn(config, learner, range(2))
    _remember(tmp_path / "last", config, learner)
    other, _ = _go_on(tmp_path / "last", config)
    assert other.average.keys() == learner.average.keys()
    assert {name for name in other.average if not name.startswith("mask_decoder.")} == set()


# --- another's ---


def _kept(tmp_path: Path, config: RunConfig) -> Path:
    _remember(tmp_path / "last", config, _begin(config))
    return tmp_path / "last"


def test_another_architecture_is_refused_by_its_differences(tmp_path: Path) -> None:
    config = _config()
    folder = _kept(tmp_path, config)
    mode = dataclasses.replace(config.model.args.encoder_mode, depth=2, prompt_embed_dim=32)
    args = dataclasses.replace(config.model.args, encoder_mode=mode)
    other = dataclasses.replace(config, model=ModelConfig(name="sam_tiny", args=args))
    with pytest.raises(CheckpointError, match=r"last` belongs to another run") as caught:
        _go_on(folder, other)
    assert caught.value.exit_code == 5 and caught.value.hint
    assert "depth was 1, is now 2" in str(caught.value)
    assert "prompt_embed_dim was 16, is now 32" in str(caught.value)


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    folder = _kept(tmp_path, _config())
    with pytest.raises(CheckpointError, match="optimizer was adamw, is now adamw8bit"):
        _go_on(folder, _config(optimizer="adamw8bit"))


@pytest.mark.parametrize(
    ("classes", "bands", "key"),
    [
        (["水体", "林地", "灌木"], NAMES, "灌木"),
        (["水体", "林地"], NAMES, "classes"),
        (CLASSES.names, [*NAMES[:3], "swir"], "swir"),
    ],
)
def test_other_classes_or_bands_are_refused_and_named(
    tmp_path: Path, classes: list[str], bands: list[str], key: str
) -> None:
    config = _config()
    folder = _kept(tmp_path, config)
    table: Taxonomy = from_names(classes)
    here = run_identity(_arch(config), table, [Band(name=name, mean=0.0, std=1.0) for name in bands])
    with pytest.raises(CheckpointError, match=key):
        restore_learner(folder, config, _arch(config), WORLD, band_names=bands, identity=here)


def test_codes_count_as_much_as_names() -> None:
    arch = _arch(_config())
    one, other = run_identity(arch, CLASSES, BANDS), run_identity(arch, from_names(CLASSES.names, first=5), BANDS)
    with pytest.raises(CheckpointError, match=r"classes .*0 水体.*, is now .*5 水体"):
        refuse_mismatch(Path("last"), one, other)


@pytest.mark.parametrize(
    ("kept", "here", "told"),
    [
        ([*"abcdefghij"], [*"abcXefghij"], "classes was d, is now X"),
        ([*"abc"], [*"ab"], "classes was c, is now nothing"),
        ([*"ab"], [*"abc"], "classes was nothing, is now c"),
    ],
)
def test_of_a_long_table_the_first_difference_is_named(kept: list[str], here: list[str], told: str) -> None:
    with pytest.raises(CheckpointError, match=f"run: {told}$"):
        refuse_mismatch(Path("last"), {"classes": kept}, {"classes": here})


def test_what_agrees_is_not_refused_also_after_json() -> None:
    here = _identity(_config())
    refuse_mismatch(Path("last"), here, here)
    refuse_mismatch(Path("last"), json.loads(json.dumps(here)), here)


@pytest.mark.parametrize("changes", [{"mean": 5.0}, {"std": 2.0}])
def test_bands_that_were_measured_anew_are_another_run(changes: dict[str, float]) -> None:
    """The same pixel would be another number to the model."""
    arch = _arch(_config())
    measured = [BANDS[0], dataclasses.replace(BANDS[1], **changes), *BANDS[2:]]
    with pytest.raises(CheckpointError, match=r"bands was green \(0 ± 1\), is now green \("):
        refuse_mismatch(Path("last"), run_identity(arch, CLASSES, BANDS), run_identity(arch, CLASSES, measured))


def test_only_the_first_differences_are_named() -> None:
    here = {f"key{i}": i for i in range(9)}
    with pytest.raises(CheckpointError) as caught:
        refuse_mismatch(Path("last"), {name: -value - 1 for name, value in here.items()}, here)
    assert str(caught.value).count(", is now ") == 3
    assert "key0 was -1, is now 0" in str(caught.value)
