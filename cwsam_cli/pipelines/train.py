"""A dataset and a configuration → a run's folder with checkpoints, events and the configuration used."""

import dataclasses
import math
import platform
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cwsam_cli.assess.confusion import Scores, score
from cwsam_cli.config.load import dump_config
from cwsam_cli.config.schema import Resume, RunConfig, StageConfig
from cwsam_cli.console import log, track
from cwsam_cli.data.manifest import Manifest
from cwsam_cli.errors import CheckpointError, MachineError, UsageError, is_out_of_memory
from cwsam_cli.files import write_text
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.model.weights import LoadReport, Source, rgb_bands
from cwsam_cli.pipelines.training_data import TrainingData, prepare_data
from cwsam_cli.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cwsam_cli.train.fit import after_overflow
from cwsam_cli.train.launch import Cluster, launch
from cwsam_cli.train.loop import Learner, take_step, training_steps, validate
from cwsam_cli.train.optim import learning_rate
from cwsam_cli.train.source import open_source
from cwsam_cli.train.stages import learning_names, stage_at
from cwsam_cli.train.start import go_on, identity, refuse_other, remember, start
from cwsam_cli.train.state import find_state
from cwsam_cli.train.watch import HISTORY, Watch, memory_figures, read_history, routing_figures, summary
from cwsam_cli.train.world import World

BEST = "model_epoch_best.pth"
_STATE = "last"
_CONFIG = "config.yaml"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where a run ended."""

    folder: Path
    best: Path
    best_epoch: int
    mean_iou: float
    """Of the best epoch, on the validation split."""
    accuracy: float
    epochs: int


@dataclass(slots=True)
class _Progress:
    """What a run must remember to go on."""

    epoch: int = 0
    """Epochs that are over."""
    samples: int = 0
    """Of the running epoch, had by all processes together."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the running epoch's steps."""
    best_epoch: int = 0
    mean_iou: float = -1.0
    accuracy: float = 0.0
    grown: bool = False
    """Group 0 of the experts came from a smaller model."""


@dataclass(slots=True)
class _Run:
    """A run under way, in one of its processes."""

    config: RunConfig
    output: Path
    world: World
    data: TrainingData
    arch: Architecture
    learner: Learner
    progress: _Progress

    @property
    def samples_a_step(self) -> int:
        """Images of a whole step, over all processes."""
        config = self.config
        return config.train_dataset.batch_size * self.world.size * config.training_settings.grad_accum_steps

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps of a whole epoch."""
        return math.ceil(len(self.data.training) / self.samples_a_step)

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change when the run goes on."""
        return identity(self.arch, self.data.manifest.taxonomy, self.data.manifest.bands)


def train(config: RunConfig, output: Path, *, cluster: Cluster | None = None) -> TrainResult | None:
    """Train a model.

    Args:
        config: the run.
        output: the run's folder.
        cluster: how many processes, and on what; one by default.

    Returns:
        Where the run ended; None where another process tells.

    Raises:
        ConfigError: configuration and class table disagree.
        DataError: a dataset is missing or damaged.
        UsageError: the folder holds a run already.
        CheckpointError: the run in the folder is another's, or damaged.
        KeyboardInterrupt: the run was interrupted; its state is saved.
    """
    cluster = dataclasses.replace(cluster or Cluster(), timeout_s=config.training_settings.timeout_s)
    return launch(_train, config, output, cluster=cluster)


def _train(world: World, config: RunConfig, output: Path) -> TrainResult:
    output = world.agree(output)  # its name may hold the time
    resume = world.agree(_check_folder(output, config.resume) if world.is_main else None)
    config = dataclasses.replace(config, resume=resume)
    run = _begin(config, output, world)
    _introduce(run)
    if config.resume not in (None, "last"):  # else --resume would go on from what this run has turned away from
        _remember(run)
    watch = Watch(output, run.progress.epoch) if world.is_main else None
    begun: list[StageConfig | None] = []
    for epoch in track(range(run.progress.epoch + 1, config.epochs + 1), "epochs"):
        stage = stage_at(config.stages, epoch)
        if begun[-1:] != [stage]:
            begun.append(stage)
            _let_learn(run, stage)
        try:
            figures = _epoch(run, epoch, stage)
            figures |= _measure(run, epoch, watch)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise _too_large(run, epoch) from None
            raise
        if watch is not None:
            watch.add(epoch, figures)
        if "val/mIoU" in figures:
            log.info("epoch %d: loss %.3f, mIoU %.3f", epoch, figures["train/loss"], figures["val/mIoU"] or 0.0)
            _remember(run)  # often enough to lose little, seldom enough to be cheap
    if watch is not None:
        watch.close()
        log.info("%s", summary(read_history(output / HISTORY)))
    progress = run.progress
    return TrainResult(output, output / BEST, progress.best_epoch, progress.mean_iou, progress.accuracy, progress.epoch)


def _introduce(run: _Run) -> None:
    """Say what is about to be trained, here and in the run's folder.

    Raises:
        MachineError: a machine does not see the folder that the first process writes to.
    """
    config, world, output = run.config, run.world, run.output
    log.info(
        "%s, %.1f M parameters, %d training tiles, %d steps an epoch, on %s",
        config.model.name,
        sum(parameter.numel() for parameter in run.learner.model.parameters()) / 1e6,
        len(run.data.training),
        run.steps_an_epoch,
        f"{world.size} × {world.device.type}" if world.size > 1 else world.device,
    )
    if world.is_main:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / _CONFIG, dump_config(dataclasses.replace(config, resume=None)))
    world.barrier()
    patience = time.monotonic() + 30  # a network's file system shows new files late
    while not (output / _CONFIG).exists():
        if time.monotonic() > patience:
            raise MachineError(
                f"rank {world.rank} on {platform.node()} does not see `{output / _CONFIG}`",
                hint="several machines need a folder that all of them share: -o /shared/…",
            )
        time.sleep(0.2)


def _check_folder(output: Path, resume: Resume) -> Resume:
    """What to go on from; nothing where a run ended before it kept anything, and begins anew."""
    taken = [name for name in (_STATE, _CONFIG, BEST) if (output / name).exists()]
    if taken and resume is None:
        raise UsageError(
            f"`{output}` holds a run already ({taken[0]})", hint="go on with it: --resume; or choose another -o"
        )
    if resume == "last" and find_state(output / _STATE) is None:
        validated = sum("val/mIoU" in row for row in read_history(output / HISTORY))
        if _CONFIG in taken and validated <= 1:  # the first validation is followed by the first state
            log.info("`%s` ended before there was anything to go on from: it begins anew", output)
            return None
        raise CheckpointError(
            f"`{output}` holds no run to go on with",
            hint="without --resume it starts a new one; from its best weights: --set resume=best",
        )
    return resume


def _begin(config: RunConfig, output: Path, world: World) -> _Run:
    """All that a run needs: data, model, and how far it is."""
    data = prepare_data(config, world)
    manifest = data.manifest
    arch = architecture(config.model, num_bands=len(manifest.bands), num_classes=len(manifest.taxonomy))
    band_names = [band.name for band in manifest.bands]
    state = world.agree(find_state(output / _STATE) if config.resume == "last" and world.is_main else None)
    if state is not None:
        here = identity(arch, manifest.taxonomy, manifest.bands)
        learner, kept = go_on(state, config, arch, world, band_names=band_names, here=here)
        progress = _Progress(**kept["progress"])
    else:
        source, progress = None, _Progress()
        if world.is_main:  # which downloads it if need be, and gives the others their parts
            source, progress = _source(config, output, manifest, arch)
        progress = world.agree(progress)
        learner, report = start(config, arch, world, source, band_names=band_names, class_names=manifest.taxonomy.names)
        if source is not None and world.is_main:
            show_report(report)
        progress.grown = world.agree(progress.grown or report.grown)
    return _Run(config, output, world, data, arch, learner, progress)


def _source(config: RunConfig, output: Path, manifest: Manifest, arch: Architecture) -> tuple[Source | None, _Progress]:
    """The weights that a run begins with, if any, and how far along they are."""
    if config.resume is None:
        source = open_source(config.sam_checkpoint) if config.sam_checkpoint is not None else None
        return source, _Progress(grown=source is not None and source.grown)
    path = output / f"model_epoch_{config.resume}.pth"
    kept = load_checkpoint(path)
    there = identity(kept.architecture, kept.taxonomy, kept.bands)
    refuse_other(path, there, identity(arch, manifest.taxonomy, manifest.bands))
    log.info("going on from `%s`, epoch %d, with a new optimizer", path, kept.epoch)
    progress = _Progress(epoch=kept.epoch, grown=kept.grown)
    if (output / BEST).exists():  # a numbered one may be older than the first validation
        best = load_checkpoint(output / BEST)
        progress.best_epoch, progress.mean_iou = best.epoch, best.metrics.get("mean_iou", -1.0)
        progress.accuracy = best.metrics.get("accuracy", 0.0)
    return open_source(str(path)), progress


def _let_learn(run: _Run, stage: StageConfig | None) -> None:
    """Freeze what does not learn in a stage, and say so."""
    config, arch, learner = run.config, run.arch, run.learner
    sizes = {name: parameter.numel() for name, parameter in learner.model.named_parameters()}
    bands = rgb_bands([band.name for band in run.data.manifest.bands])
    learning = learning_names(
        sizes,
        arch,
        extra_bands=len(bands) < arch.num_bands,
        from_checkpoint=config.sam_checkpoint is not None,
        frozen_base=run.progress.grown and arch.moe_num_expert_groups > 1 and config.model.args.freeze_base_group,
        stage=stage.name if stage else None,
    )
    learner.learn(learning)
    if config.training_settings.ema is not None:
        learner.begin_average()
    if stage is not None and stage.name == "finetune":
        learner.frozen_bands = {}
    count = sum(sizes[name] for name in learning)
    log.info(
        "%s: %s of %s parameters learn", stage.name if stage else "all stages", f"{count:,}", f"{sum(sizes.values()):,}"
    )


def _epoch(run: _Run, epoch: int, stage: StageConfig | None) -> dict[str, float | None]:
    """Learn from every tile once; the epoch's figures.

    Raises:
        KeyboardInterrupt: somebody asked; the state is saved.
    """
    config, world, progress, settings = run.config, run.world, run.progress, run.config.training_settings
    factor = stage.lr_factor if stage else 1.0
    steps = training_steps(
        run.data.training,
        config.train_dataset.batch_size,
        settings,
        epoch,
        world,
        had=progress.samples,
        chances=run.data.chances,
    )
    begun, seen, sums = time.monotonic(), 0, progress.sums
    for batches in steps:
        step = (epoch - 1) * run.steps_an_epoch + progress.samples // run.samples_a_step
        seed = np.random.SeedSequence((settings.seed, step, world.rank)).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed >> np.uint64(1)))  # the routers' noise, also after a resume
        rate = factor * learning_rate(
            step,
            run.steps_an_epoch * config.epochs,
            lr=config.optimizer.args.lr,
            lr_min=config.lr_min,
            warmup=settings.warmup_steps,
        )
        result = take_step(
            run.learner, batches, world, args=config.model.args, settings=settings, weights=run.data.weights, rate=rate
        )
        seen += result.images
        progress.samples += result.images
        for name, value in {"steps": 1, "loss": result.loss, **result.losses}.items():
            sums[name] = sums.get(name, 0.0) + value
        sums |= {"gradient_norm": result.gradient_norm, "lr": rate}
        if result.interrupted:
            log.info("interrupted in epoch %d: saving, then --resume goes on from here", epoch)
            _remember(run)
            raise KeyboardInterrupt
    count, norm, rate = (sums.pop(name) for name in ("steps", "gradient_norm", "lr"))
    figures: dict[str, float | None] = {f"train/{name}": value / count for name, value in sums.items()}
    figures |= {"train/gradient_norm": norm, "train/lr": rate}
    figures["train/images_per_s"] = seen / (time.monotonic() - begun)
    progress.epoch, progress.samples, progress.sums = epoch, 0, {}
    return figures | memory_figures(world.device) | routing_figures(run.learner.model)


def _too_large(run: _Run, epoch: int) -> MachineError:
    """What to say when the memory ran out."""
    world = run.world
    learning = frozenset(name for name, shard in run.learner.shards.items() if shard.requires_grad)
    with world.unwatched():
        hint = after_overflow(run.config, run.arch, learning, gpus=world.size, device=world.device.type)
    return MachineError(f"the memory of rank {world.rank} ({world.device}) ran out in epoch {epoch}", hint=hint)


def _measure(run: _Run, epoch: int, watch: Watch | None) -> dict[str, float | None]:
    """Validate and write checkpoints where an epoch asks for that, with the averaged weights; the figures."""
    config, scores, figures = run.config, None, dict[str, float | None]()
    with run.learner.averaged():
        if epoch % config.epoch_val == 0 or epoch == config.epochs:
            scores = _validate(run, epoch, watch)
            names = run.data.manifest.taxonomy.names
            figures = {"val/mIoU": scores.mean_iou or 0.0, "val/accuracy": scores.accuracy}
            figures |= {f"val_iou/{name}": row.iou for name, row in zip(names, scores.classes, strict=True)}
        if config.epoch_save and epoch % config.epoch_save == 0:
            _write(run, run.output / f"model_epoch_{epoch}.pth", epoch, scores)
            _forget(run, epoch)
    return figures


def _validate(run: _Run, epoch: int, watch: Watch | None) -> Scores:
    """Measure, and keep the model if it is the best so far."""
    config, progress = run.config, run.progress
    matrix = validate(
        run.learner.model,
        run.data.validation,
        run.world,
        batch_size=config.val_dataset.batch_size,
        classes=len(run.data.manifest.taxonomy),
        precision=config.training_settings.precision,
        workers=config.training_settings.workers,
        hidden=run.data.hidden,
        show=partial(watch.show, epoch, taxonomy=run.data.manifest.taxonomy) if watch is not None else None,
    )
    scores = score(matrix)
    if (scores.mean_iou or 0.0) > progress.mean_iou:
        progress.best_epoch, progress.mean_iou = epoch, scores.mean_iou or 0.0
        progress.accuracy = scores.accuracy or 0.0
        _write(run, run.output / BEST, epoch, scores)
    _write(run, run.output / "model_epoch_last.pth", epoch, scores)
    return scores


def _write(run: _Run, path: Path, epoch: int, scores: Scores | None) -> None:
    """Write a checkpoint for use."""
    tensors = dict(run.learner.model.named_parameters()) | dict(run.learner.model.named_buffers())
    about = Checkpoint(
        weights=tensors,
        architecture=run.arch,
        taxonomy=run.data.manifest.taxonomy,
        bands=run.data.manifest.bands,
        dtype=run.data.manifest.dtype,
        gsd_m=run.data.manifest.gsd_m,
        ignore_background=run.config.train_dataset.dataset.args.ignore_bg,
        grown=run.progress.grown,
        epoch=epoch,
        metrics={} if scores is None else {"mean_iou": scores.mean_iou or 0.0, "accuracy": scores.accuracy or 0.0},
    )
    save_checkpoint(about, path, run.world)


def _forget(run: _Run, epoch: int) -> None:
    """Remove numbered checkpoints beyond those that are to be kept."""
    every, keep = run.config.epoch_save, run.config.training_settings.keep
    if run.world.is_main and every and keep:
        for old in range(epoch - keep * every, 0, -every):
            (run.output / f"model_epoch_{old}.pth").unlink(missing_ok=True)


def _remember(run: _Run) -> None:
    remember(
        run.output / _STATE,
        run.config,
        run.learner,
        run.world,
        here=run.identity,
        progress=dataclasses.asdict(run.progress),
    )


def show_report(report: LoadReport) -> None:
    """Log what became of a checkpoint's tensors; each of them with --verbose."""
    log.info("%s", report.summary())
    for remark in report.remarks:
        log.warning("%s", remark)
    for row in report.rows:
        log.debug("%-11s %s  %s", row.how, row.name, row.note)
