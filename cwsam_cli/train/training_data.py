"""Prepare the training and validation datasets of a run, with class weights and sampling probabilities."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cwsam_cli.config.schema import DatasetConfig, RunConfig
from cwsam_cli.console import log
from cwsam_cli.dataset.folds import split_by_fold
from cwsam_cli.dataset.manifest import NAME, Manifest, read_manifest
from cwsam_cli.dataset.pairs import find_pairs
from cwsam_cli.dataset.samples import (
    TileDataset,
    balanced_probabilities,
    count_class_pixels,
    describe,
    find_bad_tiles,
    has_labels,
    refuse_different,
)
from cwsam_cli.dataset.statistics import class_weights
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Datasets of a run."""

    manifest: Manifest
    training: TileDataset
    validation: TileDataset
    weights: torch.Tensor | None
    """Weight of each class in the loss, (K,) float32; None if all are equal."""
    probabilities: NDArray[np.float64] | None
    """Probability of drawing each training tile, (tiles,); None draws each once per epoch."""
    hidden_class: int | None
    """Index of the class that counts as unlabelled and is never predicted; None if there is none."""


def prepare_data(config: RunConfig, world: World) -> TrainingData:
    """Open the datasets of a run. If label counts are needed, the first process counts them once.

    Raises:
        ConfigError: the configuration and the class table disagree.
        DataError: a dataset is missing, damaged or without labels.
    """
    args = config.model.args
    manifest = describe(config.train_dataset.dataset.args)
    codes = manifest.taxonomy.codes
    if args.num_classes not in (None, len(codes)):
        raise ConfigError(
            f"`model.args.num_classes` is {args.num_classes}, but the class table of "
            f"`{_named(config.train_dataset)}` has {len(codes)} classes",
            hint="remove num_classes; the class table then decides",
        )
    _same_data(config, manifest)
    if config.train_dataset.fold is not None:
        config = replace(config, val_dataset=replace(config.val_dataset, dataset=config.train_dataset.dataset))
    training = _dataset(config, manifest, "train_dataset", world)
    validation = _dataset(config, manifest, "val_dataset", world)
    if not world.agree(has_labels(validation) if world.is_main else True):
        folders = ", ".join(str(labels) for _, labels in config.val_dataset.dataset.args.folders)
        raise DataError(
            f"the validation tiles in `{folders}` have no labelled pixels, so no best epoch can be chosen",
            hint="tile with other --split shares or another --seed, or point val_dataset at labelled tiles",
        )
    balanced = config.train_dataset.sampler == "balanced"
    counts = None
    if balanced or args.loss_weight == "auto":
        counts = world.agree(count_class_pixels(training, len(codes)) if world.is_main else None)
        if counts is None or not counts.any():
            raise DataError("the training tiles have no labelled pixels", hint="check the labels and the class table")
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
    """Stop if training and validation data have different classes or bands."""
    args = config.val_dataset.dataset.args
    if args.ignore_bg != config.train_dataset.dataset.args.ignore_bg:
        raise ConfigError(
            "`ignore_bg` differs between train_dataset and val_dataset", hint="set both to the same value"
        )
    for images, _ in args.folders:
        folder = images.parent.parent
        if (folder / NAME).is_file():
            refuse_different(folder, read_manifest(folder), manifest, "the training data")


def _named(section: DatasetConfig) -> str:
    return ", ".join(str(images) for images, _ in section.dataset.args.folders)


def _dataset(config: RunConfig, manifest: Manifest, which: str, world: World) -> TileDataset:
    section = getattr(config, which)
    args, bad = section.dataset.args, set[Path]()
    if config.training_settings.skip_bad_tiles:
        found = find_bad_tiles(args, manifest.taxonomy, manifest.bands) if world.is_main else set()
        bad |= world.agree(found)
        log.info("%s: %d tiles cannot be read and are skipped", which, len(bad))
    fold = config.train_dataset.fold
    if fold is not None:
        for folder in args.folders:
            chosen = split_by_fold(folder[0].parent.parent, fold)[which == "val_dataset"]
            bad |= {image for image, _ in find_pairs(*folder) if image.stem not in chosen}
    return TileDataset(
        args,
        manifest.taxonomy,
        manifest.bands,
        config.model.args.inp_size,
        train=which == "train_dataset",
        augmented=section.wrapper.args.augment,
        without=bad,
    )


def _weights(config: RunConfig, classes: int, counts: NDArray[np.int64] | None) -> torch.Tensor | None:
    """Return the weight of each class in the loss."""
    given = config.model.args.loss_weight
    if given is None:
        return None
    if given == "auto" and counts is not None:
        return torch.tensor(class_weights(counts.sum(axis=0).tolist()))
    if len(given) != classes:
        raise ConfigError(
            f"`model.args.loss_weight` has {len(given)} weights for {classes} classes",
            hint="give one weight per class, or auto",
        )
    return torch.tensor(given, dtype=torch.float32)
