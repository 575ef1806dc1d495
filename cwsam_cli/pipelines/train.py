"""A dataset and a configuration → a run's folder with checkpoints, events and the configuration used."""

import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cwsam_cli.assess.confusion import Scores, score
from cwsam_cli.config.schema import RunConfig, StageConfig
from cwsam_cli.console import log, track
from cwsam_cli.errors import MachineError, is_out_of_memory
from cwsam_cli.model.weights import rgb_bands
from cwsam_cli.pipelines.run import BEST, Run, begin, check_folder
from cwsam_cli.train.cluster import Cluster
from cwsam_cli.train.fit import after_overflow
from cwsam_cli.train.launch import launch
from cwsam_cli.train.loop import take_step, training_steps, validate
from cwsam_cli.train.optim import learning_rate
from cwsam_cli.train.stages import learning_names, stage_at
from cwsam_cli.train.watch import HISTORY, Watch, memory_figures, read_history, routing_figures, summary
from cwsam_cli.train.world import World


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
    resume = world.agree(check_folder(output, config.resume) if world.is_main else None)
    config = dataclasses.replace(config, resume=resume)
    run = begin(config, output, world)
    run.introduce()
    if config.resume not in (None, "last"):  # else --resume would go on from what this run has turned away from
        run.remember()
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
            run.remember()  # often enough to lose little, seldom enough to be cheap
    if watch is not None:
        watch.close()
        log.info("%s", summary(read_history(output / HISTORY)))
    progress = run.progress
    return TrainResult(output, output / BEST, progress.best_epoch, progress.mean_iou, progress.accuracy, progress.epoch)


def _let_learn(run: Run, stage: StageConfig | None) -> None:
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


def _epoch(run: Run, epoch: int, stage: StageConfig | None) -> dict[str, float | None]:
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
            run.remember()
            raise KeyboardInterrupt
    count, norm, rate = (sums.pop(name) for name in ("steps", "gradient_norm", "lr"))
    figures: dict[str, float | None] = {f"train/{name}": value / count for name, value in sums.items()}
    figures |= {"train/gradient_norm": norm, "train/lr": rate}
    figures["train/images_per_s"] = seen / (time.monotonic() - begun) if seen else None  # all before an interruption
    progress.epoch, progress.samples, progress.sums = epoch, 0, {}
    return figures | memory_figures(world.device) | routing_figures(run.learner.model)


def _too_large(run: Run, epoch: int) -> MachineError:
    """What to say when the memory ran out."""
    world = run.world
    learning = frozenset(name for name, shard in run.learner.shards.items() if shard.requires_grad)
    with world.unwatched():
        hint = after_overflow(run.config, run.arch, learning, gpus=world.size, device=world.device.type)
    return MachineError(f"the memory of rank {world.rank} ({world.device}) ran out in epoch {epoch}", hint=hint)


def _measure(run: Run, epoch: int, watch: Watch | None) -> dict[str, float | None]:
    """Validate and write checkpoints where an epoch asks for that, with the averaged weights; the figures."""
    config, scores, figures = run.config, None, dict[str, float | None]()
    with run.learner.averaged():
        if epoch % config.epoch_val == 0 or epoch == config.epochs:
            scores = _validate(run, epoch, watch)
            names = run.data.manifest.taxonomy.names
            figures = {"val/mIoU": scores.mean_iou or 0.0, "val/accuracy": scores.accuracy}
            figures |= {f"val_iou/{name}": row.iou for name, row in zip(names, scores.classes, strict=True)}
        if config.epoch_save and epoch % config.epoch_save == 0:
            run.write(run.output / f"model_epoch_{epoch}.pth", epoch, scores)
            run.forget(epoch)
    return figures


def _validate(run: Run, epoch: int, watch: Watch | None) -> Scores:
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
        run.write(run.output / BEST, epoch, scores)
    run.write(run.output / "model_epoch_last.pth", epoch, scores)
    return scores
