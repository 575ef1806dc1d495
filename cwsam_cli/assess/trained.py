"""Open a model and the split of a dataset on which it is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint
from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.dataset.manifest import read_manifest
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError, DataError
from cwsam_cli.metrics.validation import ScoredBatch, score_batches
from cwsam_cli.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Trained:
    """A model on its device, and the dataset on which it is measured."""

    model: nn.Module
    dataset: TileDataset
    taxonomy: Taxonomy
    hidden_class: int | None
    """Index of a class that is never predicted, or None."""
    temperature: float = 1.0
    """The model's scores are divided by it before they become probabilities."""
    expert_groups: int = 0
    """Number of groups of experts; 0 if there are fewer than two."""

    @classmethod
    def open(cls, checkpoint: Path, data: Sequence[Path], split: str, device: torch.device) -> "Trained":
        """Load the weights onto a device.

        Raises:
            CheckpointError: the weights do not fit the architecture, or are not finite.
        """
        about = load_checkpoint(checkpoint)
        dataset = open_split(about, data, split)
        temperature = about.calibration.temperature if about.calibration else 1.0
        groups = about.architecture.moe_num_expert_groups
        return cls(
            about.model().to(device),
            dataset,
            about.taxonomy,
            about.hidden_class,
            temperature,
            groups if groups > 1 else 0,
        )

    def score(self, world: World, batch_size: int, samples: Sequence[int] | None = None) -> Iterator[ScoredBatch]:
        """Yield this process's share of the dataset with the model's scores; see `score_batches`."""
        return score_batches(
            self.model,
            self.dataset,
            world,
            batch_size=batch_size,
            precision="fp32",
            hidden_class=self.hidden_class,
            samples=samples,
        )


def open_split(about: Checkpoint, data: Sequence[Path], split: str) -> TileDataset:
    """Open one split of one or more datasets as the model sees it."""
    args = FolderArgs(
        root_path_1=[str(folder / "images" / split) for folder in data],
        root_path_2=[str(folder / "labels" / split) for folder in data],
        ignore_bg=about.ignore_background,
    )
    return TileDataset(args, about.taxonomy, about.bands, about.architecture.inp_size)


def check_fit(checkpoint: Path, about: Checkpoint, data: Sequence[Path], split: str) -> None:
    """Raise an error if a model cannot be measured on a split of one or more datasets.

    Raises:
        CheckpointError: the model's classes or bands differ from a dataset's.
        DataError: a dataset or its split is missing.
    """
    for folder in data:
        _check_fit(checkpoint, about, folder, split)


def _check_fit(checkpoint: Path, about: Checkpoint, data: Path, split: str) -> None:
    manifest = read_manifest(data)
    if manifest.tiles and not manifest.tiles.get(split):
        others = [f"--split {name}" for name, count in manifest.tiles.items() if count]
        raise DataError(f"`{data / 'images' / split}` holds no tiles", hint=f"use {' or '.join(others)}")
    if not about.taxonomy.same_classes(manifest.taxonomy):
        raise CheckpointError(
            f"`{checkpoint}` has the classes {', '.join(about.taxonomy.names)}, "
            f"but `{data}` is labelled with {', '.join(manifest.taxonomy.names)}",
            hint="tile the scenes with the class table that the model was trained with",
        )
    if [band.name for band in about.bands] != [band.name for band in manifest.bands]:
        raise CheckpointError(
            f"`{checkpoint}` was trained on the bands {', '.join(band.name for band in about.bands)}, "
            f"but `{data}` has {', '.join(band.name for band in manifest.bands)}",
            hint="tile scenes with the same bands",
        )
