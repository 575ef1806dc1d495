"""Build the model and optimizer of a run: new, from a checkpoint, or from the run's own saved state.

Works for any number of processes.
"""

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
from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.distributed.parallelize import checkpoint_activations, choose_expert_parallel, shard
from cwsam_cli.distributed.shards import assign_weights, sharded_like
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError, ConfigError
from cwsam_cli.learning.learner import Learner
from cwsam_cli.learning.optim import build_optimizer, local_shards
from cwsam_cli.model.compiled import compile_blocks, pack_experts
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
    """Build a model and its optimizer, sharded if there are several processes.

    The model is built on the meta device. The first process makes the tensors one at a time and
    sends the other processes theirs.

    Args:
        config: configuration of the run.
        arch: architecture of the model.
        world: the processes of the run.
        source: pretrained weights, or None to start from random weights. Only the first process uses it.
        band_names: bands of the images.
        class_names: classes of the class table.

    Returns:
        The learner, and a report of every tensor (filled in the first process only).
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
    """Build a learner whose weights are allocated but undefined."""
    settings = config.training_settings
    with torch.device("meta"):
        model = ClassWiseSam(arch)
    compiles_experts = settings.compile and not settings.activation_checkpointing
    if settings.compile:
        if world.shares_model:
            raise ConfigError(
                f"`training_settings.compile` is true, but {world.size} processes share the model",
                hint="--set training_settings.compile=false, or train with one process",
            )
        compile_blocks(model, world.device, experts=compiles_experts)
    if settings.activation_checkpointing:
        checkpoint_activations(model)
    wanted = config.fsdp_settings.expert_parallel
    expert_parallel = choose_expert_parallel(wanted, model, processes=world.size, per_machine=world.count_per_machine())
    if world.is_main and (expert_parallel > 1 or (wanted == "auto" and world.shares_model)):
        log.info(
            "expert_parallel is %d: the experts of each group are distributed over this many processes", expert_parallel
        )
    offload = world.shares_model and config.fsdp_settings.cpu_offload
    if world.shares_model:
        mesh = init_device_mesh(world.device.type, (world.size,))
        shard(
            model,
            mesh,
            precision=settings.precision,
            settings=config.fsdp_settings,
            accumulates=settings.grad_accum_steps > 1,
            expert_parallel=expert_parallel,
        )
    model.to_empty(device="cpu" if offload else world.device)
    if compiles_experts:
        pack_experts(model)
    for buffer in model.buffers():  # FSDP does not offload buffers
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
    identity: dict[str, Any],
    progress: Mapping[str, Any],
) -> None:
    """Start to write the complete state of a run. All processes call this.

    Args:
        writer: writes the states of the run.
        config: configuration of the run.
        learner: model, optimizer and averages.
        world: the processes of the run.
        identity: `run_identity` of the run.
        progress: progress of the run, as JSON values.

    Raises:
        MachineError: the previous state could not be written completely.
    """
    parameters = dict(learner.model.named_parameters())
    averages = {f"average/{name}": sharded_like(parameters[name], value) for name, value in learner.average.items()}
    tensors, optimizer = optimizer_tensors(learner.model, learner.shards, learner.optimizer, world)
    record = StateRecord(
        processes=world.size,
        identity=identity | {"optimizer": config.optimizer.name},
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
    identity: dict[str, Any],
) -> tuple[Learner, StateRecord]:
    """Restore a learner from the complete state of a run.

    Args:
        folder: folder of the state.
        config: configuration of the run.
        arch: architecture of the model.
        world: the processes of the run. Their number may differ from when the state was saved.
        band_names: bands of the images.
        identity: `run_identity` of the run.

    Returns:
        The learner, and the content of `state.json`.

    Raises:
        CheckpointError: the state is damaged, or belongs to another run.
    """
    record = read_record(folder)
    refuse_mismatch(folder, record.identity, identity | {"optimizer": config.optimizer.name})
    index = read_index(folder)
    learner = _allocate_learner(config, arch, world, band_names)
    names = [place.removeprefix("average/") for place in record.average]
    unknown = {*names, *record.optimizer.steps} - learner.shards.keys()
    if unknown:
        raise CheckpointError(
            f"`{folder}` is damaged: it names the weight `{min(unknown)}`, which the model does not have",
            hint="continue from the best checkpoint: --set resume=best",
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


def refuse_mismatch(path: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Stop if a checkpoint was made for another architecture, class table or bands than this run.

    Args:
        path: path of the checkpoint.
        saved: `run_identity` of the checkpoint.
        current: `run_identity` of this run.

    Raises:
        CheckpointError: they differ. The message names the first three differences.
    """
    different = [
        (key, _first_difference(saved[key], current[key]))
        for key in current
        if key in saved and saved[key] != current[key]
    ]
    if different:
        differences = [f"{key} was {str(before)[:80]}, is now {str(now)[:80]}" for key, (before, now) in different[:3]]
        raise CheckpointError(
            f"`{path}` belongs to another run: {'; '.join(differences)}",
            hint="resume with the configuration and the dataset that the run started with",
        )


def _first_difference(saved: Any, current: Any) -> tuple[Any, Any]:
    """Return the two values, or for lists the first two items that differ."""
    if isinstance(saved, list) and isinstance(current, list):
        return next(pair for pair in zip_longest(saved, current, fillvalue="nothing") if pair[0] != pair[1])
    return saved, current


def run_identity(arch: Architecture, taxonomy: Taxonomy, bands: Sequence[Band]) -> dict[str, Any]:
    """List the settings that must not change when a run resumes, as JSON values."""
    shape = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(arch).items()}
    classes = [f"{entry.code} {entry.name}" for entry in taxonomy.classes]
    return shape | {"classes": classes, "bands": [f"{band.name} ({band.mean:.9g} ± {band.std:.9g})" for band in bands]}
