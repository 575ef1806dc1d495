"""A dataset and a configuration → a run's folder with checkpoints, events and the configuration used."""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from cwsam_cli.assess.confusion import Scores, score
from cwsam_cli.config.schema import RunConfig, StageConfig
from cwsam_cli.console import log, track
from cwsam_cli.data.dataset import TileDataset, class_pixels, describe
from cwsam_cli.data.manifest import NAME, Manifest, read_manifest
from cwsam_cli.errors import CheckpointError, ConfigError, DataError, UsageError
from cwsam_cli.files import staged, write_text
from cwsam_cli.model.experts import expert_layers
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.model.weights import LoadReport, adopt, rgb_bands
from cwsam_cli.train.checkpoint import Checkpoint, save, save_checkpoint
from cwsam_cli.train.launch import choose_device
from cwsam_cli.train.loop import EpochResult, train_epoch, training_batches, validate
from cwsam_cli.train.losses import class_weights
from cwsam_cli.train.optim import build_optimizer, learning_rate
from cwsam_cli.train.source import open_source
from cwsam_cli.train.stages import choose_learning, freeze_bands, learning_names, stage_at

_STATE = "training_state.pth"


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
    step: int = 0
    best_epoch: int = 0
    mean_iou: float = -1.0
    accuracy: float = 0.0
    grown: bool = False
    """Group 0 of the experts came from a smaller model."""


def train(config: RunConfig, output: Path, *, device: str = "auto") -> TrainResult:
    """Train a model.

    Args:
        config: the run.
        output: the run's folder.
        device: `cpu`, `cuda`, or `auto` for what is there.

    Raises:
        ConfigError: configuration and class table disagree.
        DataError: a dataset is missing or damaged.
        UsageError: the folder holds a run already.
    """
    resume = config.resume == "last"
    taken = [name for name in (_STATE, "config.yaml", "model_epoch_best.pth") if (output / name).exists()]
    if taken and not resume:
        raise UsageError(
            f"`{output}` holds a run already ({taken[0]})", hint="go on with it: --resume; or choose another -o"
        )
    if resume and not (output / _STATE).exists():
        raise CheckpointError(f"`{output}` holds no run to go on with", hint="without --resume it starts a new one")
    where = choose_device(device)
    args, settings = config.model.args, config.training_settings
    manifest = describe(config.train_dataset.dataset.args)
    classes = len(manifest.taxonomy)
    if args.num_classes not in (None, classes):
        raise ConfigError(
            f"`model.args.num_classes` is {args.num_classes}, but the class table of "
            f"`{config.train_dataset.dataset.args.root_path_1}` has {classes} classes",
            hint="leave num_classes out to take the table's",
        )
    _same_data(config, manifest)
    training = _dataset(config, manifest, "train_dataset")
    validation = _dataset(config, manifest, "val_dataset")
    weights = _weights(config, manifest, training)

    arch = architecture(config.model, num_bands=len(manifest.bands), num_classes=classes)
    progress = _Progress()
    if resume or config.sam_checkpoint is None:
        torch.manual_seed(settings.seed)
        model = ClassWiseSam(arch)
    else:
        model, progress.grown = _warm_start(config, config.sam_checkpoint, arch, manifest)
    band_names = [band.name for band in manifest.bands]
    frozen_bands = list(rgb_bands(band_names))
    if config.sam_checkpoint is not None and arch.adaptor == "adaptor" and len(frozen_bands) < arch.num_bands:
        freeze_bands(model.image_encoder.patch_embed.proj.weight, frozen_bands)
    model.to(where)
    optimizer = build_optimizer(model, config.optimizer)
    if resume:
        progress = _restore(output / _STATE, model, optimizer, manifest)
    per_epoch = math.ceil(len(training) / config.train_dataset.batch_size / settings.grad_accum_steps)
    log.info(
        "%s, %.1f M parameters, %d training tiles, %d steps an epoch, on %s",
        config.model.name,
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        len(training),
        per_epoch,
        where,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_text(
        output / "config.yaml",
        yaml.safe_dump(_plain(dataclasses.replace(config, resume=None)), allow_unicode=True, sort_keys=False),
    )

    ignored = config.train_dataset.dataset.args.ignore_bg
    hidden = manifest.taxonomy.codes.index(0) if ignored and 0 in manifest.taxonomy.codes else None

    def rate(step: int, factor: float) -> float:
        return factor * learning_rate(
            step,
            per_epoch * config.epochs,
            lr=config.optimizer.args.lr,
            lr_min=config.lr_min,
            warmup=settings.warmup_steps,
        )

    def checkpoint(epoch: int, scores: Scores | None) -> Checkpoint:
        metrics = {} if scores is None else {"mean_iou": scores.mean_iou or 0.0, "accuracy": scores.accuracy or 0.0}
        return Checkpoint(
            weights={name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
            architecture=arch,
            taxonomy=manifest.taxonomy,
            bands=manifest.bands,
            dtype=manifest.dtype,
            gsd_m=manifest.gsd_m,
            ignore_background=ignored,
            grown=progress.grown,
            epoch=epoch,
            metrics=metrics,
        )

    begun: list[StageConfig | None] = []
    with SummaryWriter(str(output), purge_step=progress.epoch + 1 if progress.epoch else None) as events:
        for epoch in track(range(progress.epoch + 1, config.epochs + 1), "epochs"):
            stage = stage_at(config.stages, epoch)
            if begun[-1:] != [stage]:
                begun.append(stage)
                _let_learn(model, config, arch, stage, grown=progress.grown, band_names=band_names)
                if stage is not None and stage.name == "finetune":
                    frozen_bands.clear()
            torch.manual_seed(settings.seed * 1_000_003 + epoch)  # the routers' noise, also after a resume
            result = train_epoch(
                model,
                training_batches(training, config.train_dataset.batch_size, settings, epoch),
                optimizer,
                partial(rate, factor=stage.lr_factor if stage else 1.0),
                first_step=progress.step,
                args=args,
                settings=settings,
                weights=weights if weights is None else weights.to(where),
                device=where,
            )
            progress.epoch, progress.step = epoch, progress.step + result.steps
            scores = None
            if epoch % config.epoch_val == 0 or epoch == config.epochs:
                matrix = validate(
                    model,
                    validation,
                    batch_size=config.val_dataset.batch_size,
                    classes=classes,
                    device=where,
                    precision=settings.precision,
                    hidden=hidden,
                )
                scores = score(matrix)
                if (scores.mean_iou or 0.0) > progress.mean_iou:
                    progress.best_epoch, progress.mean_iou = epoch, scores.mean_iou or 0.0
                    progress.accuracy = scores.accuracy or 0.0
                    save_checkpoint(checkpoint(epoch, scores), output / "model_epoch_best.pth")
                log.info(
                    "epoch %d: loss %.3f, mIoU %.3f, accuracy %.3f",
                    epoch,
                    result.loss,
                    scores.mean_iou or 0.0,
                    scores.accuracy or 0.0,
                )
            _report(events, epoch, result, scores, optimizer.param_groups[0]["lr"], manifest, model)
            if config.epoch_save and epoch % config.epoch_save == 0:
                save_checkpoint(checkpoint(epoch, scores), output / f"model_epoch_{epoch}.pth")
            if scores is not None:  # a state every validation: often enough to lose little, seldom enough to be cheap
                save_checkpoint(checkpoint(epoch, scores), output / "model_epoch_last.pth")
                _remember(output / _STATE, model, optimizer, progress, manifest)
    return TrainResult(
        folder=output,
        best=output / "model_epoch_best.pth",
        best_epoch=progress.best_epoch,
        mean_iou=progress.mean_iou,
        accuracy=progress.accuracy,
        epochs=progress.epoch,
    )


def _warm_start(config: RunConfig, source: str, arch: Architecture, manifest: Manifest) -> tuple[ClassWiseSam, bool]:
    """A model that begins with a checkpoint's weights, and whether its group 0 came from a smaller model."""
    opened = open_source(source)
    model, report = adopt(
        arch,
        opened,
        band_names=[band.name for band in manifest.bands],
        class_names=manifest.taxonomy.names,
        upcycle=config.model.args.upcycle,
        seed=config.training_settings.seed,
    )
    show_report(report)
    return model, report.grown or opened.grown


def show_report(report: LoadReport) -> None:
    """Log what became of a checkpoint's tensors; each of them with --verbose."""
    log.info("%s", report.summary())
    for remark in report.remarks:
        log.warning("%s", remark)
    for row in report.rows:
        log.debug("%-11s %s  %s", row.how, row.name, row.note)


def _let_learn(
    model: ClassWiseSam,
    config: RunConfig,
    arch: Architecture,
    stage: StageConfig | None,
    *,
    grown: bool,
    band_names: list[str],
) -> None:
    """Freeze what does not learn in a stage, and say so."""
    learning = learning_names(
        [name for name, _ in model.named_parameters()],
        arch,
        extra_bands=len(rgb_bands(band_names)) < arch.num_bands,
        from_checkpoint=config.sam_checkpoint is not None,
        frozen_base=grown and arch.moe_num_expert_groups > 1 and config.model.args.freeze_base_group,
        stage=stage.name if stage else None,
    )
    count = choose_learning(model, learning)
    total = sum(parameter.numel() for parameter in model.parameters())
    log.info("%s: %s of %s parameters learn", stage.name if stage else "all stages", f"{count:,}", f"{total:,}")


def _same_data(config: RunConfig, manifest: Manifest) -> None:
    """Training and validation must speak of the same classes and bands."""
    args = config.val_dataset.dataset.args
    if args.ignore_bg != config.train_dataset.dataset.args.ignore_bg:
        raise ConfigError("`ignore_bg` differs between train_dataset and val_dataset", hint="give both the same")
    folder = Path(args.root_path_1).parent.parent
    if not (folder / NAME).is_file():
        return
    other = read_manifest(folder)
    if not other.taxonomy.same_classes(manifest.taxonomy):
        raise ConfigError(f"`{folder}` has other classes than the training data", hint="tile both with one class table")
    if [band.name for band in other.bands] != [band.name for band in manifest.bands]:
        raise ConfigError(f"`{folder}` has other bands than the training data", hint="tile scenes of the same bands")


def _dataset(config: RunConfig, manifest: Manifest, which: str) -> TileDataset:
    section = getattr(config, which)
    return TileDataset(
        section.dataset.args,
        manifest.taxonomy,
        manifest.bands,
        config.model.args.inp_size,
        train=which == "train_dataset",
        augmented=section.wrapper.args.augment,
    )


def _weights(config: RunConfig, manifest: Manifest, training: TileDataset) -> torch.Tensor | None:
    given, classes = config.model.args.loss_weight, len(manifest.taxonomy)
    if given is None:
        return None
    if given == "auto":
        pixels = class_pixels(training, classes)
        if not any(pixels):
            raise DataError(
                "the training tiles hold no labelled pixel", hint="are labels and class table the right ones?"
            )
        return torch.tensor(class_weights(pixels))
    if len(given) != classes:
        raise ConfigError(
            f"`model.args.loss_weight` has {len(given)} weights for {classes} classes", hint="give one a class, or auto"
        )
    return torch.tensor(given, dtype=torch.float32)


def _report(
    events: SummaryWriter,
    epoch: int,
    result: EpochResult,
    scores: Scores | None,
    rate: float,
    manifest: Manifest,
    model: ClassWiseSam,
) -> None:
    values: dict[str, float | None] = {
        "train/loss": result.loss,
        "train/gradient_norm": result.gradient_norm,
        "train/lr": rate,
    }
    if scores is not None:
        values |= {"val/mIoU": scores.mean_iou, "val/accuracy": scores.accuracy}
        values |= {
            f"val_iou/{name}": row.iou for name, row in zip(manifest.taxonomy.names, scores.classes, strict=True)
        }
    for name, layer in expert_layers(model):
        if layer.routing is None:
            continue
        values[f"routing_entropy/{name}"] = float(layer.routing.entropy)
        for group, load in enumerate(layer.routing.expert_load.tolist()):
            values[f"load/{name}/group_{group}"] = float(layer.routing.group_load[group])
            values |= {f"load/{name}/group_{group}/expert_{expert}": share for expert, share in enumerate(load)}
    for name, value in values.items():
        if value is not None:
            events.add_scalar(name, value, epoch)


def _remember(
    path: Path, model: ClassWiseSam, optimizer: torch.optim.Optimizer, progress: _Progress, manifest: Manifest
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": dataclasses.asdict(progress),
        "data": _data_of(manifest),
    }
    with staged(path, overwrite=True) as target:
        save(state, target)


def _restore(path: Path, model: ClassWiseSam, optimizer: torch.optim.Optimizer, manifest: Manifest) -> _Progress:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["data"] != _data_of(manifest):
            raise ValueError("the dataset has other classes or bands")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return _Progress(**state["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the run in `{path.parent}` cannot go on: {str(error).splitlines()[0]}",
            hint="go on with the configuration and the dataset that it began with",
        ) from None


def _data_of(manifest: Manifest) -> dict[str, list[str]]:
    return {
        "classes": [f"{entry.code} {entry.name}" for entry in manifest.taxonomy.classes],
        "bands": [band.name for band in manifest.bands],
    }


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as YAML's mappings and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
