"""A run of training: what it is made of, how it begins or goes on, and what it leaves in its folder."""

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
from cwsam_cli.checkpoints.pretrained import log_report, open_pretrained
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
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.model.weights import PretrainedWeights
from cwsam_cli.train.clock import Clock
from cwsam_cli.train.history import HISTORY, read_history
from cwsam_cli.train.provenance import find_provenance
from cwsam_cli.train.start import build_learner, identity, refuse_mismatch, restore_learner, save_state
from cwsam_cli.train.state import StateRecord, StateWriter, find_state
from cwsam_cli.train.training_data import TrainingData, prepare_data

BEST, LAST = "model_epoch_best.pth", "model_epoch_last.pth"
_STATE = "last"
_CONFIG = "config.yaml"


@dataclass(slots=True)
class Progress:
    """What a run must save_state to go on."""

    epoch: int = 0
    """Epochs that are over."""
    samples: int = 0
    """Of the running epoch, had by all processes together."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the running epoch's steps: each figure's sum, and the numbers of `steps` and `skipped` ones."""
    best_epoch: int = 0
    mean_iou: float = -1.0
    accuracy: float = 0.0
    stale_validations: int = 0
    """In a row, without a better mIoU."""
    grown: bool = False
    """Group 0 of the experts came from a smaller model."""


@dataclass(slots=True)
class Run:
    """A run under way, in one of its processes."""

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
    """On the first process, which writes checkpoints."""
    has_state: bool
    """A state was written, by this run or the one that it goes on with."""

    @property
    def samples_per_step(self) -> int:
        """Images of a whole step, over all processes."""
        config = self.config
        return config.train_dataset.batch_size * self.world.size * config.training_settings.grad_accum_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch."""
        return math.ceil(len(self.data.training) / self.samples_per_step)

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change when the run goes on."""
        return identity(self.arch, self.data.manifest.taxonomy, self.data.manifest.bands)

    def get_status(self) -> RunStatus:
        """What this process asks all of them to do after the next step."""
        return RunStatus(
            is_interrupted=self.world.interruption.is_requested,
            is_out_of_time=self.is_time_up("step"),
            is_save_due=self.clock.is_save_due,
        )

    def is_time_up(self, part: str) -> bool:
        """Whether the time limit leaves no room for one more part and a save."""
        return self.clock.is_too_late_for(part, reserve_s=2 * self.writer.longest_s)

    def announce(self) -> None:
        """Say what is about to be trained, here and in the run's folder.

        Raises:
            MachineError: a machine does not see the folder that the first process writes to.
        """
        config, world, output = self.config, self.world, self.output
        log.info(
            "%s, %.1f M parameters, %d training tiles, %d steps an epoch, on %s",
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
        patience = time.monotonic() + 30  # a network's file system shows new files late
        while not (output / _CONFIG).exists():
            if time.monotonic() > patience:
                raise MachineError(
                    f"rank {world.rank} on {platform.node()} does not see `{output / _CONFIG}`",
                    hint="several machines need a folder that all of them share: -o /shared/…",
                )
            time.sleep(0.2)

    def write_checkpoint(self, path: Path, epoch: int, scores: Metrics | None) -> None:
        """Write a checkpoint for use."""
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
            provenance=self.provenance,
            metrics={} if scores is None else {"mean_iou": scores.mean_iou or 0.0, "accuracy": scores.accuracy or 0.0},
        )
        save_checkpoint(about, path, self.world)

    def remove_old_checkpoints(self, epoch: int) -> None:
        """Remove numbered checkpoints beyond those that are to be kept."""
        keep = self.config.training_settings.keep
        if self.world.is_main and keep:
            numbers = [path.stem.rpartition("_")[2] for path in self.output.glob("model_epoch_*.pth")]
            had = sorted(int(number) for number in numbers if number.isdecimal() and int(number) <= epoch)
            for old in had[:-keep]:
                (self.output / f"model_epoch_{old}.pth").unlink()

    def save_state(self) -> None:
        """Begin to write the whole state, to go on from it.

        Raises:
            MachineError: the state before could not be written whole.
        """
        save_state(
            self.writer,
            self.config,
            self.learner,
            self.world,
            here=self.identity,
            progress=dataclasses.asdict(self.progress),
        )
        self.clock.restart_interval()
        self.has_state = True


def resolve_resume(output: Path, resume: Resume) -> Resume:
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


def prepare_run(config: RunConfig, output: Path, world: World, clock: Clock) -> Run:
    """Prepare all that a run needs: data, model, and how far it is.

    Raises:
        DataError: a dataset is missing or damaged.
        CheckpointError: the weights or the state to begin with are damaged, or another model's.
    """
    data = prepare_data(config, world)
    manifest = data.manifest
    arch = architecture(config.model, num_bands=len(manifest.bands), num_classes=len(manifest.taxonomy))
    band_names = [band.name for band in manifest.bands]
    state = world.agree(find_state(output / _STATE) if config.resume == "last" and world.is_main else None)
    if state is not None:
        here = identity(arch, manifest.taxonomy, manifest.bands)
        learner, kept = restore_learner(state, config, arch, world, band_names=band_names, here=here)
        progress = _progress(kept, state)
    else:
        source, progress = None, Progress()
        if world.is_main:  # which downloads it if need be, and gives the others their parts
            source, progress = _source(config, output, manifest, arch)
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
    return Run(config, output, world, data, arch, learner, progress, writer, clock, origin, has_state)


def _progress(kept: StateRecord, state: Path) -> Progress:
    try:
        progress = validate(Progress, kept.progress, str(state))
    except ConfigError as error:
        raise CheckpointError(str(error), hint="go on from a checkpoint: --set resume=best") from None
    where = f"epoch {progress.epoch + 1}, after {progress.samples} of its tiles" if progress.samples else ""
    log.info("resuming from `%s`: %s", state, where or f"{progress.epoch} epochs are done")
    return progress


def _source(
    config: RunConfig, output: Path, manifest: Manifest, arch: Architecture
) -> tuple[PretrainedWeights | None, Progress]:
    """The weights that a run begins with, if any, and how far along they are."""
    if config.resume is None:
        source = open_pretrained(config.sam_checkpoint) if config.sam_checkpoint is not None else None
        if source is not None and not source.class_names and config.stages and config.stages[0].name == "integrate":
            log.warning(
                "`%s` knows no classes and the stage `integrate` leaves the decoder as it is, so it will learn little; "
                "begin with the stage `adapt`",
                config.sam_checkpoint,
            )
        return source, Progress(grown=source is not None and source.grown)
    path = output / f"model_epoch_{config.resume}.pth"
    kept = load_checkpoint(path)
    there = identity(kept.architecture, kept.taxonomy, kept.bands)
    refuse_mismatch(path, there, identity(arch, manifest.taxonomy, manifest.bands))
    log.info("going on from `%s`, epoch %d, with a new optimizer", path, kept.epoch)
    progress = Progress(epoch=kept.epoch, grown=kept.grown)
    best = load_checkpoint(output / BEST) if (output / BEST).exists() else None
    if best is not None and best.epoch > kept.epoch:  # of the epochs that this run turns away from
        aside = output / f"model_epoch_{best.epoch}.pth"
        if not aside.exists():
            os.replace(output / BEST, aside)
            log.warning("the best model so far is of epoch %d, and is `%s` from now on", best.epoch, aside)
        if kept.metrics:
            with staged(output / BEST, overwrite=True) as copy:
                shutil.copyfile(path, copy)
        else:
            (output / BEST).unlink(missing_ok=True)
        best = kept
    if best is not None and best.metrics:
        progress.best_epoch, progress.mean_iou = best.epoch, best.metrics["mean_iou"]
        progress.accuracy = best.metrics["accuracy"]
    return open_pretrained(str(path)), progress
