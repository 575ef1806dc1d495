"""Where a run's weights come from: nowhere, somebody's checkpoint, or the run itself; for any number of processes."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import init_device_mesh
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from cwsam_cli.config.schema import RunConfig
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.distributed.parallelize import assign_weights, checkpoint_activations, shard, sharded_like
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError
from cwsam_cli.learning.learner import Learner
from cwsam_cli.learning.optim import build_optimizer, local_shards
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.model.weights import LoadReport, PretrainedWeights, make_weights, named_tensors, rgb_bands
from cwsam_cli.taxonomy import Taxonomy
from cwsam_cli.train.optimizer_state import optimizer_tensors, restore_optimizer
from cwsam_cli.train.state import StateRecord, StateWriter, model_tensors, read_index, read_record, read_tensors

_FILTERS = "image_encoder.patch_embed.proj.weight"


def build_learner(
    config: RunConfig,
    arch: Architecture,
    world: World,
    source: PretrainedWeights | None,
    *,
    band_names: Sequence[str],
    class_names: Sequence[str],
) -> tuple[Learner, LoadReport]:
    """A model with its optimizer, shared out where there are several processes.

    The model is built on the meta device; its tensors come one at a time, from the first
    process.

    Args:
        config: the run.
        arch: the model's shape.
        world: this process among all.
        source: weights to begin with, None for none; only the first process's counts.
        band_names: of the images.
        class_names: of the class table.

    Returns:
        The learner, and what became of the source's tensors (in the first process).
    """
    learner = _allocate_learner(config, arch, world, band_names)
    report = LoadReport()
    with torch.device("meta"):
        names: Iterator[tuple[str, Tensor]] = named_tensors(ClassWiseSam(arch))
    if world.is_main:
        names = make_weights(
            arch,
            source or PretrainedWeights({}),
            report,
            band_names=band_names,
            class_names=class_names,
            upcycle=config.model.args.upcycle,
            seed=config.training_settings.seed,
        )
    for _ in assign_weights(learner.model, names, world.device):
        world.beat()
    return learner, report


def _allocate_learner(config: RunConfig, arch: Architecture, world: World, band_names: Sequence[str]) -> Learner:
    """A learner whose weights are laid out, but not yet given."""
    settings = config.training_settings
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    if settings.activation_checkpointing:
        checkpoint_activations(model)
    offload = world.shares_model and config.fsdp_settings.cpu_offload
    if world.shares_model:
        mesh = init_device_mesh(world.device.type, (world.size,))
        shard(
            model,
            mesh,
            precision=settings.precision,
            settings=config.fsdp_settings,
            accumulates=settings.grad_accum_steps > 1,
        )
    model.to_empty(device="cpu" if offload else world.device)
    for buffer in model.buffers():  # are not offloaded
        buffer.data = buffer.data.to(world.device)
    for block in model.image_encoder.blocks:
        block.register_forward_pre_hook(lambda *_: world.beat())
    frozen = {}
    if config.sam_checkpoint is not None and arch.adaptor == "adaptor" and len(rgb_bands(band_names)) < arch.num_bands:
        frozen[_FILTERS] = list(rgb_bands(band_names))
    shards = local_shards(model)
    optimizer = build_optimizer(model, shards, config.optimizer, stay=list(frozen))
    scaler = None
    if settings.precision == "fp16":
        kind = ShardedGradScaler if world.shares_model else torch.amp.GradScaler
        scaler = kind(world.device.type)
    return Learner(model, shards, optimizer, scaler, frozen_bands=frozen)


def save_state(
    writer: StateWriter,
    config: RunConfig,
    learner: Learner,
    world: World,
    *,
    here: dict[str, Any],
    progress: Mapping[str, Any],
) -> None:
    """Begin to write a run's complete state.

    Args:
        writer: of the run's states.
        config: the run.
        learner: all that learns.
        world: all processes call this.
        here: the run's `identity`.
        progress: how far it is; JSON.

    Raises:
        MachineError: the state before could not be written whole.
    """
    parameters = dict(learner.model.named_parameters())
    averages = {f"average/{name}": sharded_like(parameters[name], value) for name, value in learner.average.items()}
    tensors, optimizer = optimizer_tensors(learner.model, learner.shards, learner.optimizer, world)
    record = StateRecord(
        processes=world.size,
        identity=here | {"optimizer": config.optimizer.name},
        progress=dict(progress),
        optimizer=optimizer,
        average=list(averages),
        averaged_steps=learner.averaged_steps,
        scaler=learner.scaler.state_dict() if learner.scaler else None,
    )
    writer.write(model_tensors(learner.model) | tensors | averages, record)


def restore_learner(
    folder: Path,
    config: RunConfig,
    arch: Architecture,
    world: World,
    *,
    band_names: Sequence[str],
    here: dict[str, Any],
) -> tuple[Learner, StateRecord]:
    """A learner from a run's complete state, and what else `save_state` kept.

    Args:
        folder: of the state.
        config: the run.
        arch: the model's shape.
        world: this process among all; their number may have changed.
        band_names: of the images.
        here: the run's `identity`.

    Raises:
        CheckpointError: the state is damaged, or of another run.
    """
    record = read_record(folder)
    refuse_mismatch(folder, record.identity, here | {"optimizer": config.optimizer.name})
    index = read_index(folder)
    learner = _allocate_learner(config, arch, world, band_names)
    names = [place.removeprefix("average/") for place in record.average]
    unknown = {*names, *record.optimizer.steps} - learner.shards.keys()
    if unknown:
        raise CheckpointError(
            f"`{folder}` is damaged: it speaks of `{min(unknown)}`, which the model does not have",
            hint="go on from a checkpoint: --set resume=best",
        )
    read_tensors(folder, model_tensors(learner.model), index)
    restore_optimizer(folder, index, record, learner.model, learner.shards, learner.optimizer, world)
    if config.training_settings.ema is not None:
        learner.average = {name: torch.zeros_like(learner.shards[name], requires_grad=False) for name in names}
        learner.averaged_steps = record.averaged_steps
    parameters = dict(learner.model.named_parameters())
    averages = {f"average/{name}": sharded_like(parameters[name], value) for name, value in learner.average.items()}
    read_tensors(folder, averages, index)
    if learner.scaler is not None and record.scaler:
        learner.scaler.load_state_dict(record.scaler)
    return learner, record


def refuse_mismatch(where: Path, kept: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Compare what a checkpoint was made for with what is asked for.

    Args:
        where: the checkpoint.
        kept: its architecture, classes, bands …, by name.
        here: the same of this run.

    Raises:
        CheckpointError: names the first differences.
    """
    apart = [(key, _first_difference(kept[key], here[key])) for key in here if key in kept and kept[key] != here[key]]
    if apart:
        told = [f"{key} {there} there, {asked} here" for key, (there, asked) in apart[:3]]
        raise CheckpointError(
            f"`{where}` is of another run: {'; '.join(told)}",
            hint="go on with the configuration and the dataset that it began with",
        )


def _first_difference(there: Any, here: Any) -> tuple[Any, Any]:
    """Two values that differ; of lists, the first two items that do."""
    if isinstance(there, list) and isinstance(here, list):
        return next(pair for pair in zip_longest(there, here, fillvalue="nothing") if pair[0] != pair[1])
    return there, here


def identity(arch: Architecture, taxonomy: Taxonomy, bands: Sequence[Band]) -> dict[str, Any]:
    """What must not change when a run goes on; plain values."""
    shape = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(arch).items()}
    classes = [f"{entry.code} {entry.name}" for entry in taxonomy.classes]
    return shape | {"classes": classes, "bands": [f"{band.name} ({band.mean:.9g} ± {band.std:.9g})" for band in bands]}
