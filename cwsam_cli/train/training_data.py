"""What a run learns from and is measured on: datasets that speak of one class table, and the classes' weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cwsam_cli.config.schema import RunConfig
from cwsam_cli.console import log
from cwsam_cli.dataset.manifest import NAME, Manifest, read_manifest
from cwsam_cli.dataset.samples import TileDataset, bad_tiles, balanced_probabilities, class_pixels, describe, has_labels
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import ConfigError, DataError
from cwsam_cli.learning.losses import class_weights


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A run's data."""

    manifest: Manifest
    training: TileDataset
    validation: TileDataset
    weights: torch.Tensor | None
    """Of the classes, in the loss."""
    probabilities: NDArray[np.float64] | None
    """Of the training tiles to be drawn."""
    hidden_class: int | None
    """Index of the class that counts as unlabelled."""


def prepare_data(config: RunConfig, world: World) -> TrainingData:
    """Open a run's datasets; labels are counted once, by the first process, where that is needed.

    Raises:
        ConfigError: configuration and class table disagree.
        DataError: a dataset is missing, damaged or without labels.
    """
    args = config.model.args
    manifest = describe(config.train_dataset.dataset.args)
    codes = manifest.taxonomy.codes
    if args.num_classes not in (None, len(codes)):
        raise ConfigError(
            f"`model.args.num_classes` is {args.num_classes}, but the class table of "
            f"`{config.train_dataset.dataset.args.root_path_1}` has {len(codes)} classes",
            hint="leave num_classes out to take the table's",
        )
    _same_data(config, manifest)
    training = _dataset(config, manifest, "train_dataset", world)
    validation = _dataset(config, manifest, "val_dataset", world)
    if not world.agree(has_labels(validation) if world.is_main else True):
        raise DataError(
            f"the validation tiles in `{config.val_dataset.dataset.args.root_path_2}` hold no labelled pixel, "
            "so no epoch would be the best",
            hint="tile with other --split shares or another --seed, or point val_dataset at labelled tiles",
        )
    balanced = config.train_dataset.sampler == "balanced"
    counts = None
    if balanced or args.loss_weight == "auto":
        counts = world.agree(class_pixels(training, len(codes)) if world.is_main else None)
        if counts is None or not counts.any():
            raise DataError(
                "the training tiles hold no labelled pixel", hint="are labels and class table the right ones?"
            )
    weights = _weights(config, len(codes), counts)
    return TrainingData(
        manifest,
        training,
        validation,
        None if weights is None else weights.to(world.device),
        balanced_probabilities(counts) if balanced and counts is not None else None,
        codes.index(0) if config.train_dataset.dataset.args.ignore_bg and 0 in codes else None,
    )


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


def _dataset(config: RunConfig, manifest: Manifest, which: str, world: World) -> TileDataset:
    section = getattr(config, which)
    bad: list[str] = []
    if config.training_settings.skip_bad_tiles:
        found = bad_tiles(section.dataset.args, manifest.taxonomy, manifest.bands) if world.is_main else []
        bad = world.agree(found)
        log.info("%s: %d tiles cannot be read and are left out", which, len(bad))
    return TileDataset(
        section.dataset.args,
        manifest.taxonomy,
        manifest.bands,
        config.model.args.inp_size,
        train=which == "train_dataset",
        augmented=section.wrapper.args.augment,
        without=bad,
    )


def _weights(config: RunConfig, classes: int, counts: NDArray[np.int64] | None) -> torch.Tensor | None:
    """The classes' weights in the loss."""
    given = config.model.args.loss_weight
    if given is None:
        return None
    if given == "auto" and counts is not None:
        return torch.tensor(class_weights(counts.sum(axis=0).tolist()))
    if len(given) != classes:
        raise ConfigError(
            f"`model.args.loss_weight` has {len(given)} weights for {classes} classes", hint="give one a class, or auto"
        )
    return torch.tensor(given, dtype=torch.float32)
