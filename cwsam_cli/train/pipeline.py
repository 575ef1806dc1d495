"""Train a model on a dataset and write the run's folder.

The folder holds checkpoints, TensorBoard events, `history.jsonl` and the configuration used.
"""

import dataclasses
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch

from cwsam_cli.config.schema import RunConfig, StageConfig
from cwsam_cli.console import log, track
from cwsam_cli.distributed.cluster import Cluster
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import OutOfMemory, is_out_of_memory
from cwsam_cli.files import reserved, sweep_inside
from cwsam_cli.learning.loop import StepResult, take_step, training_steps
from cwsam_cli.learning.optim import learning_rate
from cwsam_cli.learning.stages import learning_names, stage_at
from cwsam_cli.metrics.confusion import Metrics, compute_metrics
from cwsam_cli.metrics.history import HISTORY, read_history
from cwsam_cli.metrics.validation import validate
from cwsam_cli.model.weights import rgb_bands
from cwsam_cli.train.clock import Clock
from cwsam_cli.train.history import (
    HistoryWriter,
    format_history,
    read_memory,
    summarize_routing,
)
from cwsam_cli.train.run import BEST, LAST, Run, prepare_run, resolve_resume

EndReason = Literal["finished", "patience", "time_limit"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a run."""

    folder: Path
    best: Path | None
    """Checkpoint of the best epoch. None if the run ended before its first validation."""
    best_epoch: int
    mean_iou: float
    """mIoU of the best epoch on the validation split, 0 to 1."""
    accuracy: float
    """Accuracy of the best epoch on the validation split, 0 to 1."""
    epochs: int
    """Number of finished epochs."""
    end: EndReason
    """Why the run ended: all epochs done, no better mIoU (`patience`), or the time limit."""


class _OutOfTime(Exception):
    """The time limit is near and the state is saved."""


def train(config: RunConfig, output: Path, *, cluster: Cluster | None = None) -> TrainResult | None:
    """Train a model.

    Args:
        config: configuration of the run.
        output: folder of the run.
        cluster: number of processes and their devices; one process by default.

    Returns:
        The result, in the first process. None in all others.

    Raises:
        ConfigError: the configuration and the class table disagree.
        DataError: a dataset is missing or damaged.
        UsageError: the folder already holds a run.
        CheckpointError: the run in the folder has another model or data, or is damaged.
        KeyboardInterrupt: a signal interrupted the run. Its state is saved.
    """
    timeout_s = config.training_settings.timeout_s
    cluster = dataclasses.replace(cluster or Cluster(), timeout_s=timeout_s, saves_when_ended=True)
    return launch(_train, config, output, cluster=cluster)


def _train(world: World, config: RunConfig, output: Path) -> TrainResult:
    clock = Clock(config.training_settings)
    output = world.agree(output)  # the name may hold the time, which differs between processes
    with reserved(output) if world.is_main else nullcontext():
        if world.is_main:
            sweep_inside(output)
        return _train_in(output, world, config, clock)


def _train_in(output: Path, world: World, config: RunConfig, clock: Clock) -> TrainResult:
    resume = world.agree(resolve_resume(output, config.resume) if world.is_main else None)
    config = dataclasses.replace(config, resume=resume)
    run = prepare_run(config, output, world, clock)
    run.announce()
    if config.resume not in (None, "last"):  # otherwise a later --resume would continue the old state
        run.save_state()
    history = HistoryWriter(output, run.progress.epoch) if world.is_main else None
    try:
        end = _run_epochs(run, history)
    except _OutOfTime:
        end = "time_limit"
    except BaseException:
        run.writer.finish_alone()
        raise
    run.writer.wait()
    if history is not None:
        history.close()
        log.info("%s", format_history(read_history(output / HISTORY)))
    progress = run.progress
    best = output / BEST if progress.best_epoch else None
    return TrainResult(output, best, progress.best_epoch, progress.mean_iou, progress.accuracy, progress.epoch, end)


def _run_epochs(run: Run, history: HistoryWriter | None) -> EndReason:
    """Run the remaining epochs.

    Returns:
        Why they ended.

    Raises:
        KeyboardInterrupt: a signal interrupted the run. Its state is saved.
        _OutOfTime: the time limit is near. The state is saved.
    """
    config, progress, settings = run.config, run.progress, run.config.training_settings
    begun: list[StageConfig | None] = []
    metrics = None
    for epoch in track(range(progress.epoch + 1, config.epochs + 1), "training", unit="epoch"):
        if settings.patience is not None and progress.stale_validations >= settings.patience:
            log.info(
                "mIoU did not improve in %d validations, so the run ends before epoch %d", settings.patience, epoch
            )
            end: EndReason = "patience"
            break
        stage = stage_at(config.stages, epoch)
        if begun[-1:] != [stage]:
            begun.append(stage)
            _apply_stage(run, stage)
        try:
            figures = _run_epoch(run, epoch, stage)
            metrics, more = _validate_and_save(run, epoch, history)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                rank, device = run.world.rank, run.world.device
                raise OutOfMemory(f"rank {rank} ({device}) ran out of memory in epoch {epoch}") from None
            raise
        figures |= more
        if history is not None:
            history.write(epoch, figures)
        if metrics is not None:
            log.info(
                "epoch %d: loss %.3f, mIoU %.3f", epoch, figures.get("train/loss", math.nan), metrics.mean_iou or 0
            )
            if settings.save_every is None or not run.has_state:
                run.save_state()
    else:
        end = "finished"
    if settings.save_every is not None and begun:
        run.save_state()
        with run.learner.averaged():
            run.write_checkpoint(run.output / LAST, progress.epoch, metrics)
    return end


def _apply_stage(run: Run, stage: StageConfig | None) -> None:
    """Freeze the weights that do not learn in a stage, and log how many learn."""
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


def _run_epoch(run: Run, epoch: int, stage: StageConfig | None) -> dict[str, float]:
    """Train one epoch: every tile once.

    Returns:
        The figures of the epoch by name.

    Raises:
        KeyboardInterrupt: a signal interrupted the run. Its state is saved.
        _OutOfTime: the time limit is near. The state is saved.
    """
    config, world, progress, settings = run.config, run.world, run.progress, run.config.training_settings
    factor = stage.lr_factor if stage else 1.0
    steps = training_steps(
        run.data.training,
        config.train_dataset.batch_size,
        settings,
        epoch,
        world,
        samples_done=progress.samples,
        probabilities=run.data.probabilities,
    )
    began, seen, sums = time.monotonic(), 0, progress.sums
    for batches in steps:
        step = (epoch - 1) * run.steps_per_epoch + progress.samples // run.samples_per_step
        seed = np.random.SeedSequence((settings.seed, step, world.rank)).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed >> np.uint64(1)))  # seeds the routers' noise, so that a resumed run repeats it
        rate = factor * learning_rate(
            step,
            run.steps_per_epoch * config.epochs,
            lr=config.optimizer.args.lr,
            lr_min=config.lr_min,
            warmup=settings.warmup_steps,
        )
        with run.clock.timing("step"):
            result = take_step(
                run.learner,
                batches,
                world,
                args=config.model.args,
                settings=settings,
                weights=run.data.weights,
                rate=rate,
                get_status=run.get_status,
            )
        seen += result.images
        progress.samples += result.images
        _add_step(sums, result, rate)
        run.clock.count_step()
        if result.status.is_interrupted:
            log.info(
                "%s in epoch %d: saving the state; continue with --resume",
                world.interruption.signal or "interrupted",
                epoch,
            )
            run.save_state()
            run.writer.wait()
            raise KeyboardInterrupt
        if result.status.is_out_of_time:
            _stop_for_time_limit(run, epoch)
        if result.status.is_save_due:
            run.save_state()
    if _is_validation_due(run, epoch) and world.agree(run.is_time_up("validation")):
        _stop_for_time_limit(run, epoch)
    figures = _average(sums)
    if seen:  # 0 if the run was interrupted after the last step of the epoch
        figures["train/images_per_s"] = seen / (time.monotonic() - began)
    progress.epoch, progress.samples, progress.sums = epoch, 0, {}
    return figures | read_memory(world.device)


def _stop_for_time_limit(run: Run, epoch: int) -> NoReturn:
    """Save the state and stop.

    Raises:
        _OutOfTime: always.
    """
    log.info(
        "the time limit of %s is near in epoch %d: saving the state; continue with --resume",
        run.config.training_settings.time_limit,
        epoch,
    )
    run.save_state()
    run.writer.wait()
    raise _OutOfTime


def _add_step(sums: dict[str, float], result: StepResult, rate: float) -> None:
    """Add a step's figures to the sums of its epoch. A skipped step only counts as skipped."""
    figures = {"skipped": 1.0}
    if not result.is_skipped:
        losses = {f"train/{name}": value for name, value in {"loss": result.loss, **result.losses}.items()}
        figures = {"steps": 1.0, **losses, **summarize_routing(result.routing)}
        sums["train/gradient_norm"] = result.gradient_norm
    for name, value in figures.items():
        sums[name] = sums.get(name, 0.0) + value
    sums["train/lr"] = rate


def _average(sums: dict[str, float]) -> dict[str, float]:
    """Compute an epoch's figures from the sums over its steps."""
    steps, skipped = sums.get("steps", 0.0), sums.get("skipped", 0.0)
    latest = ("train/gradient_norm", "train/lr")
    figures = {
        name: value if name in latest else value / steps
        for name, value in sums.items()
        if name not in ("steps", "skipped")
    }
    return figures | ({"train/skipped_steps": skipped} if skipped else {})


def _is_validation_due(run: Run, epoch: int) -> bool:
    return epoch % run.config.epoch_val == 0 or epoch == run.config.epochs


def _validate_and_save(run: Run, epoch: int, history: HistoryWriter | None) -> tuple[Metrics | None, dict[str, float]]:
    """Validate and write checkpoints if they are due after this epoch. Uses the averaged weights."""
    config, metrics, figures = run.config, None, dict[str, float]()
    with run.learner.averaged():
        if _is_validation_due(run, epoch):
            with run.clock.timing("validation"):
                metrics = _validate(run, epoch, history)
            names = run.data.manifest.taxonomy.names
            figures = {"val/mIoU": metrics.mean_iou or 0.0, "val/accuracy": metrics.accuracy or 0.0}
            rows = zip(names, metrics.classes, strict=True)
            figures |= {f"val_iou/{name}": row.iou for name, row in rows if row.iou is not None}
        if config.epoch_save and epoch % config.epoch_save == 0:
            run.write_checkpoint(run.output / f"model_epoch_{epoch}.pth", epoch, metrics)
            run.remove_old_checkpoints(epoch)
    return metrics, figures


def _validate(run: Run, epoch: int, history: HistoryWriter | None) -> Metrics:
    """Validate, and write the model if it is the best so far."""
    config, progress = run.config, run.progress
    matrix = validate(
        run.learner.model,
        run.data.validation,
        run.world,
        batch_size=config.val_dataset.batch_size,
        classes=len(run.data.manifest.taxonomy),
        precision=config.training_settings.precision,
        workers=config.training_settings.workers,
        hidden_class=run.data.hidden_class,
        show=partial(history.write_images, epoch, taxonomy=run.data.manifest.taxonomy) if history is not None else None,
    )
    metrics = compute_metrics(matrix)
    progress.stale_validations += 1
    if (metrics.mean_iou or 0.0) > progress.mean_iou:
        progress.best_epoch, progress.mean_iou = epoch, metrics.mean_iou or 0.0
        progress.accuracy, progress.stale_validations = metrics.accuracy or 0.0, 0
        run.write_checkpoint(run.output / BEST, epoch, metrics)
    if config.training_settings.save_every is None:
        run.write_checkpoint(run.output / LAST, epoch, metrics)
    return metrics
