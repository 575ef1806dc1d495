"""A training run: its parts, how it starts or resumes, and the files in its folder."""

import dataclasses
import math
import os
import platform
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cwsam_cli.checkpoints.checkpoint import Checkpoint, Provenance, load_checkpoint, save_checkpoint
from cwsam_cli.checkpoints.pretrained import describe_source, log_report, open_pretrained
from cwsam_cli.config.load import dump_config, validate
from cwsam_cli.config.schema import Resume, RunConfig
from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError, ConfigError, MachineError, UsageError
from cwsam_cli.files import staged, write_text
from cwsam_cli.learning.learner import Learner
from cwsam_cli.learning.loop import RunStatus
from cwsam_cli.metrics.confusion import Metrics
from cwsam_cli.metrics.history import HISTORY, read_history
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.model.weights import PretrainedWeights
from cwsam_cli.train.clock import Clock
from cwsam_cli.train.provenance import find_provenance
from cwsam_cli.train.start import build_learner, refuse_mismatch, restore_learner, run_identity, save_state
from cwsam_cli.train.state import StateRecord, StateWriter, find_state
from cwsam_cli.train.training_data import TrainingData, prepare_data

BEST, LAST = "model_epoch_best.pth", "model_epoch_last.pth"
_STATE = "last"
_CONFIG = "config.yaml"


@dataclass(slots=True)
class Progress:
    """How far a run is; saved in `state.json`."""

    epoch: int = 0
    """Number of finished epochs."""
    samples: int = 0
    """Samples of the current epoch that all processes together have learned from."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sum of each figure over the steps of the current epoch, and the counts `steps` and `skipped`."""
    best_epoch: int = 0
    mean_iou: float = -1.0
    accuracy: float = 0.0
    stale_validations: int = 0
    """Latest validations in a row without a better mIoU."""
    grown: bool = False
    """Group 0 of the experts comes from a smaller model."""

    def __post_init__(self) -> None:
        for name in ("epoch", "samples", "best_epoch", "stale_validations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}")
        for name, least in (("mean_iou", -1), ("accuracy", 0)):
            if not least <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}")


@dataclass(slots=True)
class Run:
    """A running training run, as one of its processes sees it."""

    config: RunConfig
    output: Path
    world: World
    data: TrainingData
    arch: Architecture
    learner: Learner
    progress: Progress
    writer: StateWriter
    clock: Clock
    provenance: Provenance | None
    """Origin of the model; None except in the first process, which writes checkpoints."""
    has_state: bool
    """The folder holds a saved state."""
    started_from: str = ""
    """See `Checkpoint.started_from`."""

    @property
    def samples_per_step(self) -> int:
        """Images per full step, over all processes."""
        config = self.config
        return config.train_dataset.batch_size * self.world.size * config.training_settings.grad_accum_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per full epoch."""
        return math.ceil(len(self.data.training) / self.samples_per_step)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that must not change when the run resumes."""
        return run_identity(self.arch, self.data.manifest.taxonomy, self.data.manifest.bands)

    def get_status(self) -> RunStatus:
        """Return whether this process must stop or save after the current step."""
        return RunStatus(
            is_interrupted=self.world.interruption.is_requested,
            is_out_of_time=self.is_time_up("step"),
            is_save_due=self.clock.is_save_due,
        )

    def is_time_up(self, part: str) -> bool:
        """Check whether the time limit leaves too little time for one more part and a save."""
        return self.clock.is_too_late_for(part, reserve_s=2 * self.writer.longest_s)

    def announce(self) -> None:
        """Log the model and data of the run, and write its configuration into the folder.

        Raises:
            MachineError: another machine cannot see the folder that the first process writes to.
        """
        config, world, output = self.config, self.world, self.output
        log.info(
            "%s, %.1f M parameters, %d training tiles, %d steps per epoch, on %s",
            config.model.name,
            sum(parameter.numel() for parameter in self.learner.model.parameters()) / 1e6,
            len(self.data.training),
            self.steps_per_epoch,
            f"{world.size} × {world.device.type}" if world.size > 1 else world.device,
        )
        if world.is_main:
            output.mkdir(parents=True, exist_ok=True)
            write_text(output / _CONFIG, dump_config(dataclasses.replace(config, resume=None)))
        world.barrier()
        patience = time.monotonic() + 30  # network file systems show new files late
        while not (output / _CONFIG).exists():
            if time.monotonic() > patience:
                raise MachineError(
                    f"rank {world.rank} on {platform.node()} cannot see `{output / _CONFIG}`",
                    hint="use a folder that all machines share: -o /shared/…",
                )
            time.sleep(0.2)

    def write_checkpoint(self, path: Path, epoch: int, metrics: Metrics | None) -> None:
        """Write a checkpoint that `predict` and `eval` can read; all processes call this."""
        tensors = dict(self.learner.model.named_parameters()) | dict(self.learner.model.named_buffers())
        about = Checkpoint(
            weights=tensors,
            architecture=self.arch,
            taxonomy=self.data.manifest.taxonomy,
            bands=self.data.manifest.bands,
            dtype=self.data.manifest.dtype,
            gsd_m=self.data.manifest.gsd_m,
            ignore_background=self.config.train_dataset.dataset.args.ignore_bg,
            grown=self.progress.grown,
            epoch=epoch,
            started_from=self.started_from,
            provenance=self.provenance,
            metrics={}
            if metrics is None
            else {"mean_iou": metrics.mean_iou or 0.0, "accuracy": metrics.accuracy or 0.0},
        )
        save_checkpoint(about, path, self.world)

    def remove_old_checkpoints(self, epoch: int) -> None:
        """Remove the oldest numbered checkpoints if there are more than `keep`."""
        keep = self.config.training_settings.keep
        if self.world.is_main and keep:
            numbers = [path.stem.rpartition("_")[2] for path in self.output.glob("model_epoch_*.pth")]
            epochs = sorted(int(number) for number in numbers if number.isdecimal() and int(number) <= epoch)
            for old in epochs[:-keep]:
                (self.output / f"model_epoch_{old}.pth").unlink()

    def save_state(self) -> None:
        """Start to write the complete state, from which `--resume` continues.

        Raises:
            MachineError: the previous state could not be written completely.
        """
        save_state(
            self.writer,
            self.config,
            self.learner,
            self.world,
            identity=self.identity,
            progress=dataclasses.asdict(self.progress),
        )
        self.clock.restart_interval()
        self.has_state = True


def resolve_resume(output: Path, resume: Resume) -> Resume:
    """Decide what a run resumes from.

    Returns:
        `resume`, or None for a new start because an earlier run ended before it saved a state.

    Raises:
        UsageError: the folder already holds a run, and `resume` is None.
        CheckpointError: the folder holds no state to resume from.
    """
    existing = [name for name in (_STATE, _CONFIG, BEST) if (output / name).exists()]
    if existing and resume is None:
        raise UsageError(
            f"`{output}` already holds a run ({existing[0]})", hint="continue it with --resume, or choose another -o"
        )
    if resume == "last" and find_state(output / _STATE) is None:
        validated = sum("val/mIoU" in row for row in read_history(output / HISTORY))
        if _CONFIG in existing and validated <= 1:  # the first state is saved after the first validation
            log.info("the run in `%s` ended before its first saved state; starting again from the beginning", output)
            return None
        raise CheckpointError(
            f"`{output}` holds no run to resume",
            hint="start a new run without --resume, or start from its best weights: --set resume=best",
        )
    return resume


def prepare_run(config: RunConfig, output: Path, world: World, clock: Clock) -> Run:
    """Prepare the data, the model and the progress of a run.

    Raises:
        DataError: a dataset is missing or damaged.
        CheckpointError: the initial weights or the saved state are damaged, or belong to another model.
    """
    data = prepare_data(config, world)
    manifest = data.manifest
    arch = architecture(config.model, num_bands=len(manifest.bands), num_classes=len(manifest.taxonomy))
    band_names = [band.name for band in manifest.bands]
    state = world.agree(find_state(output / _STATE) if config.resume == "last" and world.is_main else None)
    if state is not None:
        identity = run_identity(arch, manifest.taxonomy, manifest.bands)
        learner, record = restore_learner(state, config, arch, world, band_names=band_names, identity=identity)
        progress = _progress(record, state)
    else:
        source, progress = None, Progress()
        if world.is_main:  # downloads the weights if needed; the other processes receive theirs from it
            source, progress = _initial_weights(config, output, manifest, arch)
        progress = world.agree(progress)
        learner, report = build_learner(
            config, arch, world, source, band_names=band_names, class_names=manifest.taxonomy.names
        )
        if source is not None and world.is_main:
            log_report(report)
        progress.grown = world.agree(progress.grown or report.grown)
    writer = StateWriter(output / _STATE, world)
    origin = find_provenance(config, data) if world.is_main else None
    has_state = state is not None
    started_from = _started_from(config, output) if world.is_main else ""
    return Run(config, output, world, data, arch, learner, progress, writer, clock, origin, has_state, started_from)


def _started_from(config: RunConfig, output: Path) -> str:
    """Name the weights that a run started from. A resumed run reads it from its own checkpoint."""
    if config.resume is None:
        return "" if config.sam_checkpoint is None else describe_source(config.sam_checkpoint)
    for path in (output / BEST, output / LAST):
        if path.exists():
            return load_checkpoint(path).started_from
    return ""


def _progress(record: StateRecord, state: Path) -> Progress:
    try:
        progress = validate(Progress, record.progress, str(state))
    except ConfigError as error:
        raise CheckpointError(str(error), hint="continue from the best checkpoint: --set resume=best") from None
    where = f"epoch {progress.epoch + 1}, after {progress.samples} of its tiles" if progress.samples else ""
    log.info("resuming from `%s`: %s", state, where or f"{progress.epoch} epochs are done")
    return progress


def _initial_weights(
    config: RunConfig, output: Path, manifest: Manifest, arch: Architecture
) -> tuple[PretrainedWeights | None, Progress]:
    """Open the weights that a run starts from, if any, and return how far they are trained."""
    if config.resume is None:
        source = open_pretrained(config.sam_checkpoint) if config.sam_checkpoint is not None else None
        if source is not None and not source.class_names and config.stages and config.stages[0].name == "integrate":
            log.warning(
                "`%s` has no trained classes and the stage `integrate` does not train the decoder, so the stage will "
                "learn little. Start with the stage `adapt` instead.",
                config.sam_checkpoint,
            )
        return source, Progress(grown=source is not None and source.grown)
    path = output / f"model_epoch_{config.resume}.pth"
    checkpoint = load_checkpoint(path)
    saved = run_identity(checkpoint.architecture, checkpoint.taxonomy, checkpoint.bands)
    refuse_mismatch(path, saved, run_identity(arch, manifest.taxonomy, manifest.bands))
    log.info("continuing from `%s`, epoch %d, with a new optimizer", path, checkpoint.epoch)
    progress = Progress(epoch=checkpoint.epoch, grown=checkpoint.grown)
    best = load_checkpoint(output / BEST) if (output / BEST).exists() else None
    if best is not None and best.epoch > checkpoint.epoch:  # from an epoch that this run discards
        numbered = output / f"model_epoch_{best.epoch}.pth"
        if not numbered.exists():
            os.replace(output / BEST, numbered)
            log.warning("the best model so far is from epoch %d; it is now `%s`", best.epoch, numbered)
        if checkpoint.metrics:
            with staged(output / BEST, overwrite=True) as copy:
                shutil.copyfile(path, copy)
        else:
            (output / BEST).unlink(missing_ok=True)
        best = checkpoint
    if best is not None and best.metrics:
        progress.best_epoch, progress.mean_iou = best.epoch, best.metrics["mean_iou"]
        progress.accuracy = best.metrics["accuracy"]
    return open_pretrained(str(path)), progress
