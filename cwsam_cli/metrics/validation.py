"""Run a model over a dataset: score its samples, and count labelled and predicted classes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cwsam_cli.config.schema import Precision
from cwsam_cli.console import track
from cwsam_cli.dataset.loader import load_batches
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.distributed.shards import release_gathered
from cwsam_cli.distributed.world import DTYPES, World
from cwsam_cli.metrics.confusion import Matrix, confusion_matrix


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """A batch of samples and the model's scores."""

    samples: Sequence[int]
    """Numbers of the samples in the dataset; there may be none."""
    images: Tensor
    """Normalised images (B, C, S, S)."""
    labels: Tensor
    """Class indices (B, S, S) uint8, `IGNORE` where there is no label."""
    logits: Tensor
    """(B, K, S, S) on the model's device. A hidden class has minus infinity."""


def score_batches(
    model: nn.Module,
    dataset: TileDataset,
    world: World,
    *,
    batch_size: int,
    precision: Precision,
    workers: int = 0,
    hidden_class: int | None = None,
    samples: Sequence[int] | None = None,
) -> Iterator[ScoredBatch]:
    """Yield this process's share of a dataset with the model's scores.

    Args:
        model: model on the world's device.
        dataset: the whole dataset. Each process takes its share, in equally many batches.
        world: the processes of the run.
        batch_size: images per batch.
        precision: number format of the forward pass.
        workers: number of processes that read tiles.
        hidden_class: index of a class that is never predicted, or None.
        samples: numbers of the samples to score; None scores all.
    """
    model.eval()
    wanted = range(len(dataset)) if samples is None else samples
    own_samples = wanted[world.rank :: world.size]
    rounds = -(-len(wanted) // world.size)
    batches = [list(own_samples[start : start + batch_size]) for start in range(0, rounds, batch_size)]
    dtype = DTYPES[precision]
    loaded = load_batches(dataset, batches, workers=workers, pin_memory=world.device.type != "cpu")
    for numbers, (image, label) in zip(
        batches, track(loaded, "validating", total=len(batches), unit="batch"), strict=True
    ):
        world.beat()
        # Inference mode does not work with sharded weights. The generator yields outside of both contexts.
        with torch.no_grad(), torch.autocast(world.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(image.to(world.device))
        if hidden_class is not None:
            logits[:, hidden_class] = -math.inf
        yield ScoredBatch(numbers, image, label, logits)
    release_gathered(model)


def validate(
    model: nn.Module,
    dataset: TileDataset,
    world: World,
    *,
    batch_size: int,
    classes: int,
    precision: Precision,
    workers: int = 0,
    hidden_class: int | None = None,
    show: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Matrix:
    """Count the pixels of a dataset by labelled and predicted class, each pixel once.

    Args:
        model: model on the world's device.
        dataset: the whole dataset. Each process takes its share.
        world: the processes of the run.
        batch_size: images per batch.
        classes: number of classes K.
        precision: number format of the forward pass.
        workers: number of processes that read tiles.
        hidden_class: index of a class that is never predicted, or None.
        show: function that receives the images, labels and predicted indices of this process's first batch.

    Returns:
        Confusion matrix (K, K) over all processes.
    """
    matrix = np.zeros((classes, classes), np.int64)
    for batch in score_batches(
        model,
        dataset,
        world,
        batch_size=batch_size,
        precision=precision,
        workers=workers,
        hidden_class=hidden_class,
    ):
        predicted = batch.logits.argmax(dim=1).to(torch.uint8).cpu()
        matrix += confusion_matrix(batch.labels.numpy(), predicted.numpy(), classes)
        if show is not None:
            show(batch.images, batch.labels, predicted)
            show = None
    return world.total(torch.from_numpy(matrix).to(world.device)).cpu().numpy()
