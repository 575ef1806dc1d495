"""What the tests' processes do: functions of a module, so that started processes find them."""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from cwsam_cli.checkpoints.pretrained import open_pretrained
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
from cwsam_cli.distributed.shards import assign_weights, gather_tensor, sharded_like
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import DataError
from cwsam_cli.learning.learner import Learner
from cwsam_cli.learning.loop import StepResult, take_step
from cwsam_cli.learning.stages import learning_names
from cwsam_cli.model.experts import HierarchicalExperts
from cwsam_cli.model.variants import architecture
from cwsam_cli.taxonomy import IGNORE
from cwsam_cli.train.start import build_learner, restore_learner, save_state
from cwsam_cli.train.state import StateWriter

T = TypeVar("T")


def add_ranks(world: World, start: int) -> tuple[int, int, float]:
    total = world.total(torch.tensor(float(world.rank + start)))
    return world.rank, world.size, total.item()


def read_environment(world: World, name: str) -> str | None:
    return os.environ.get(name)


def fail_on_one(world: World) -> None:
    if world.rank == 1:
        raise DataError("`tile.tif` is damaged", hint="tile again")
    world.total(torch.zeros(1))


def bug_on_one(world: World) -> None:
    if world.rank == 1:
        raise AssertionError("a slip")
    world.total(torch.zeros(1))


def complain_of_the_network(world: World) -> None:
    raise RuntimeError("NCCL error: Duplicate GPU detected")


def lose_contact(world: World) -> None:
    raise RuntimeError("Connection closed by peer [10.0.0.2]")


def die_on_one(world: World) -> None:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.total(torch.zeros(1))


def wait_for_nobody(world: World, folder: str, dying: int | None) -> None:
    """No process needs another, so that only a watchdog can tell it of another's end."""
    world.barrier()
    if world.rank == dying:
        os.kill(os.getpid(), signal.SIGKILL)
    open(os.path.join(folder, f"running{world.rank}"), "w").close()
    for _ in range(600):
        world.beat()
        time.sleep(1)


def sleep_on_one(world: World) -> None:
    world.beat()
    if world.rank == 1:
        time.sleep(600)
    world.beat()
    world.total(torch.zeros(1))


def stop_on_zero(world: World) -> None:
    world.beat()
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.total(torch.zeros(1))


def count_until_asked(world: World, folder: str) -> int:
    for count in range(6000):
        time.sleep(0.1)
        world.beat()
        if count == 5 and world.is_main:
            open(os.path.join(folder, "running"), "w").close()
        if world.total(torch.tensor(float(world.interruption.is_requested))):
            raise KeyboardInterrupt
    return count


SHAPE: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "global_attn_indexes": [1],
    "window_size": 3,
    "patch_size": 8,
    "prompt_embed_dim": 16,
    "decoder_mlp_dim": 32,
    "detail_stem": True,
    "moe_start_layer_index": 1,
    "moe_num_expert_groups": 3,
    "moe_experts_per_group": 3,
    "moe_k_groups": 1,
    "moe_k_experts": 2,
    "moe_decoder_experts": 2,
    "moe_decoder_k_experts": 1,
}
CLASSES, BANDS, SIZE = 4, 4, 32
_IDENTITY: dict[str, Any] = {"classes": list("abcd")}
STILL = 3  # steps at rate 0, so that their gradients are taken at equal weights
STEPS = STILL + 20


def configuration(case: dict[str, Any]) -> RunConfig:
    """A small mixture's run; `case` holds keys of the sections that it changes."""
    return RunConfig(
        model=ModelConfig(
            name="sam_tiny",
            args=ModelArgs(
                inp_size=SIZE, encoder_mode=EncoderMode(**SHAPE | case.get("shape", {})), **case.get("args", {})
            ),
        ),
        optimizer=OptimizerConfig(name=case.get("optimizer", "adamw"), args=OptimizerArgs(lr=1e-3)),
        training_settings=TrainingSettings(**{"clip_grad_norm": None} | case.get("settings", {})),
        fsdp_settings=FsdpSettings(**case.get("fsdp", {})),
        lr_min=0.0,
    )


def tiles() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve tiles whose labels know all, some, or nothing of the ground."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(CLASSES, (12, SIZE // 8, SIZE // 8), generator=generator).to(torch.uint8)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = torch.randn(12, BANDS, SIZE, SIZE, generator=generator) + labels[:, None]
    for number, label in enumerate(labels):
        label[: (number % 4) * 7] = IGNORE
    labels[5] = IGNORE
    return images, labels


def samples_of(step: int) -> list[int]:
    """Four tiles a step, but three in the second and one, which leaves a process without any, in the third."""
    return [(4 * step + 5 * k) % 12 for k in range({1: 3, 2: 1}.get(step, 4))]


def learn(world: World, cases: dict[str, dict[str, Any]], processes: int) -> dict[str, Any]:
    """Each case's losses step by step, and the gradients of the steps before anything changes."""
    return {name: _learn(world, case, processes) for name, case in cases.items()}


def begin(world: World, case: dict[str, Any]) -> tuple[RunConfig, Learner]:
    config = configuration(case)
    arch = architecture(config.model, num_bands=BANDS, num_classes=CLASSES)
    names = [f"band_{i}" for i in range(BANDS)]
    learner, _ = build_learner(config, arch, world, None, band_names=names, class_names=list("abcd"))
    for _ in assign_weights(learner.model, case.get("weights", {}).items(), world.device):
        pass
    if learner.scaler is not None and "scale" in case:
        learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": case["scale"]})
    frozen = case.get("frozen", "nothing")
    learner.learn({name for name in learner.shards if frozen not in name})
    if config.training_settings.ema is not None:
        learner.begin_average()
    return config, learner


def micro_batches(
    world: World, config: RunConfig, step: int, processes: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """This process's part of a step of four tiles, cut as an epoch's batches are."""
    images, labels = tiles()
    samples = samples_of(step)
    accumulated = config.training_settings.grad_accum_steps
    whole = 4 // accumulated
    batches = []
    for start_ in range(0, 4, whole):
        batch = samples[start_ : start_ + whole]
        own = batch[len(batch) * world.rank // processes : len(batch) * (world.rank + 1) // processes]
        batches.append((images[own], labels[own]))
    return batches


def step(
    world: World,
    config: RunConfig,
    learner: Learner,
    number: int,
    processes: int,
    *,
    rate: float = 1e-4,
    weights: torch.Tensor | None = None,
) -> StepResult:
    return take_step(
        learner,
        micro_batches(world, config, number, processes),
        world,
        args=config.model.args,
        settings=config.training_settings,
        weights=weights,
        rate=rate,
    )


def _learn(world: World, case: dict[str, Any], processes: int) -> dict[str, Any]:
    config, learner = begin(world, case)
    parameters = dict(learner.model.named_parameters())
    weights = torch.tensor([0.5, 2.0, 1.0, 1.0]) if case.get("weighted") else None
    gradients: list[dict[str, torch.Tensor]] = []
    losses = []

    def keep(*_: Any) -> None:
        if len(losses) < case.get("still", STILL):
            gradients.append(
                {
                    name: gather_tensor(sharded_like(parameters[name], shard.grad), world.device).clone()
                    for name, shard in learner.shards.items()
                    if shard.grad is not None
                }
            )

    learner.optimizer.register_step_pre_hook(keep)
    for number in range(case.get("steps", STEPS)):
        rate = (
            0.0 if number < case.get("still", STILL) else 1e-4
        )  # at larger ones Adam makes 1e-3 of a rounding within 20 steps
        result = step(world, config, learner, number, processes, rate=rate, weights=weights)
        losses.append((result.loss, result.gradient_norm))
    return {"losses": losses, "gradients": gradients if world.is_main else None}


def dtypes(world: World) -> tuple[dict[str, str], dict[str, str]]:
    """In which format each layer's input and each layer's weights are when it is called."""
    config, learner = begin(world, {"settings": {"precision": "bf16"}})
    inputs: dict[str, str] = {}
    weights: dict[str, str] = {}

    def look(module: torch.nn.Module, given: Any, name: str) -> None:
        with_routers = isinstance(module, HierarchicalExperts)  # the layer itself multiplies by its routers
        parameters = module.named_parameters(recurse=with_routers)
        weights.update({f"{name}.{key}": str(weight.dtype) for key, weight in parameters})
        inputs[name] = str(given[0].dtype) if isinstance(given[0], torch.Tensor) else ""

    for name, module in learner.model.named_modules():
        module.register_forward_pre_hook(partial(look, name=name))
    step(world, config, learner, 0, world.size)
    return inputs, weights


def thaw(world: World, precision: str) -> dict[str, bool]:
    """Whether each weight of the encoder's experts moves in a step that follows one in which they were frozen."""
    config, learner = begin(world, {"settings": {"precision": precision}, "frozen": ".mlp.groups."})
    if learner.scaler is not None:
        learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": 2.0**10})
    step(world, config, learner, 0, world.size)
    learner.learn(set(learner.shards))
    before = {name: shard.detach().clone() for name, shard in learner.shards.items() if ".mlp.groups." in name}
    step(world, config, learner, 3, world.size, rate=1e-2)
    moved = {name: float((learner.shards[name].detach() - old).abs().sum()) for name, old in before.items()}
    sums = world.total(torch.tensor([*moved.values()]))
    return dict(zip(moved, (sums > 0).tolist(), strict=True))


DENSE: dict[str, Any] = {"shape": {"moe_num_expert_groups": 0, "moe_decoder_experts": 0}}


def overflow(world: World, case: dict[str, Any] = DENSE) -> tuple[bool, float]:
    """Whether a step whose gradient overflows leaves the weights alone, and the scale of the loss afterwards."""
    config, learner = begin(world, case | {"settings": {"precision": "fp16"}, "scale": 2.0**100})
    assert learner.scaler is not None
    before = {name: shard.detach().clone() for name, shard in learner.shards.items()}
    step(world, config, learner, 0, world.size)
    unchanged = all(torch.equal(before[name], shard) for name, shard in learner.shards.items())
    return unchanged, learner.scaler.get_scale()


def in_turn(world: World, worker: Callable[..., T], calls: list[tuple[Any, ...]]) -> list[T]:
    """What a worker returns for each of several lists of arguments: processes take long to start."""
    return [worker(world, *arguments) for arguments in calls]


def first_half(world: World, case: dict[str, Any], processes: int, folder: str) -> list[float]:
    """Six steps, a state, and the losses of six more."""
    config, learner = begin(world, case)
    for number in range(6):
        step(world, config, learner, number, processes, rate=1e-3)
    writer = StateWriter(Path(folder) / "last", world)
    save_state(writer, config, learner, world, identity=_IDENTITY, progress={})
    writer.wait()
    return [step(world, config, learner, number, processes, rate=1e-4).loss for number in range(6, 12)]


def second_half(world: World, case: dict[str, Any], processes: int, folder: str) -> list[float]:
    """The losses of the six steps after that state."""
    config = configuration(case)
    arch = architecture(config.model, num_bands=BANDS, num_classes=CLASSES)
    names = [f"band_{i}" for i in range(BANDS)]
    learner, _ = restore_learner(Path(folder) / "last", config, arch, world, band_names=names, identity=_IDENTITY)
    return [step(world, config, learner, number, processes, rate=1e-4).loss for number in range(6, 12)]


def _largest_move(world: World, config: RunConfig, learner: Learner, number: int) -> float:
    """How far a step at rate 1e-3 moves the weight that it moves farthest, in units of that rate, on any process."""
    before = [shard.detach().clone() for shard in learner.shards.values()]
    step(world, config, learner, number, world.size, rate=1e-3)
    moves = [(shard.detach() - old).abs() for shard, old in zip(learner.shards.values(), before, strict=True)]
    own = torch.zeros(world.size)
    own[world.rank] = max(float(move.max()) for move in moves if move.numel()) / 1e-3
    return float(world.total(own).max())


def move_after_a_save(world: World, case: dict[str, Any], folder: str) -> float:
    """Twelve steps, a state, and the largest move of the next step."""
    config, learner = begin(world, case)
    for number in range(12):
        step(world, config, learner, number, world.size, rate=1e-3)
    writer = StateWriter(Path(folder) / "last", world)
    save_state(writer, config, learner, world, identity=_IDENTITY, progress={})
    writer.wait()
    return _largest_move(world, config, learner, 12)


def move_after_a_resume(world: World, case: dict[str, Any], folder: str) -> float:
    """The largest move of the first step after that state."""
    config = configuration(case)
    arch = architecture(config.model, num_bands=BANDS, num_classes=CLASSES)
    names = [f"band_{i}" for i in range(BANDS)]
    learner, _ = restore_learner(Path(folder) / "last", config, arch, world, band_names=names, identity=_IDENTITY)
    return _largest_move(world, config, learner, 12)


STAGED_STEPS, SAVED_AFTER = 9, 4  # three steps a stage; the state is saved within the second


def _take_steps(world: World, case: dict[str, Any], learner: Learner, numbers: range) -> list[float]:
    """The losses of some steps, in each of which what its stage names learns."""
    config, losses = configuration(case), []
    arch = architecture(config.model, num_bands=BANDS, num_classes=CLASSES)
    for number in numbers:
        stage = case["stages"][number * len(case["stages"]) // STAGED_STEPS] if case["stages"] else None
        if number == numbers[0] or number % 3 == 0:
            grown = bool(arch.moe_num_expert_groups)
            learner.learn(learning_names(learner.shards, arch, from_checkpoint=True, frozen_base=grown, stage=stage))
            if config.training_settings.ema is not None:
                learner.begin_average()
        # at larger rates Adam makes 1e-2 of a rounding within nine steps
        losses.append(step(world, config, learner, number, world.size, rate=3e-4).loss)
    return losses


def _digest(world: World, learner: Learner) -> str:
    """A hash of all weights and averages."""
    parameters = dict(learner.model.named_parameters())
    held = [sharded_like(parameters[name], value) for name, value in learner.average.items()]
    sha = hashlib.sha256()
    for tensor in [*parameters.values(), *held]:
        sha.update(gather_tensor(tensor.detach(), world.device).contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()


def run_through(world: World, cases: dict[str, dict[str, Any]], folder: str) -> dict[str, tuple[list[float], str]]:
    """Each case's losses and a hash of how it ends; its state within the second stage goes into `folder`."""
    results = {}
    for name, case in cases.items():
        config, learner = begin(world, case)
        learner.average.clear()
        if learner.scaler is not None:
            # at torch's own first scale a step would be skipped
            learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": 2.0**12})
        losses = _take_steps(world, case, learner, range(SAVED_AFTER))
        writer = StateWriter(Path(folder) / name / "last", world)
        save_state(writer, config, learner, world, identity=_IDENTITY, progress={})
        writer.wait()
        losses += _take_steps(world, case, learner, range(SAVED_AFTER, STAGED_STEPS))
        results[name] = losses, _digest(world, learner)
    return results


def resume(world: World, cases: dict[str, dict[str, Any]], folder: str) -> dict[str, tuple[list[float], str]]:
    """The same of the steps after that state."""
    results = {}
    for name, case in cases.items():
        config = configuration(case)
        arch = architecture(config.model, num_bands=BANDS, num_classes=CLASSES)
        names = [f"band_{i}" for i in range(BANDS)]
        state = Path(folder) / name / "last"
        learner, _ = restore_learner(state, config, arch, world, band_names=names, identity=_IDENTITY)
        losses = _take_steps(world, case, learner, range(SAVED_AFTER, STAGED_STEPS))
        results[name] = losses, _digest(world, learner)
    return results


def run_through_and_resume(
    world: World, cases: dict[str, dict[str, Any]], resumed: dict[str, dict[str, Any]], folder: str
) -> tuple[dict[str, tuple[list[float], str]], dict[str, tuple[list[float], str]]]:
    """Both, since processes take long to start."""
    return run_through(world, cases, folder), resume(world, resumed, folder)


def begun(world: World, path: str | None) -> dict[str, torch.Tensor]:
    """All tensors of a model that begins with nothing, or grows from a dense checkpoint's weights."""
    config = configuration({})
    arch = architecture(config.model, num_bands=BANDS, num_classes=CLASSES)
    names, source = [f"band_{i}" for i in range(BANDS)], open_pretrained(path) if path and world.is_main else None
    learner, _ = build_learner(config, arch, world, source, band_names=names, class_names=list("abcd"))
    tensors = dict(learner.model.named_parameters()) | dict(learner.model.named_buffers())
    return {name: gather_tensor(tensor.detach(), world.device).clone() for name, tensor in tensors.items()}
