"""Run a model over a dataset and count labelled and predicted classes."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from cwsam_cli.config.schema import Precision
from cwsam_cli.console import track
from cwsam_cli.dataset.loader import load_batches
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.distributed.parallelize import DTYPES, release_gathered
from cwsam_cli.distributed.world import World
from cwsam_cli.metrics.confusion import Matrix, confusion_matrix


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
    model.eval()
    matrix = np.zeros((classes, classes), np.int64)
    own_samples = range(world.rank, len(dataset), world.size)
    rounds = -(-len(dataset) // world.size)
    batches = [list(own_samples[start : start + batch_size]) for start in range(0, rounds, batch_size)]
    dtype = DTYPES[precision]
    with torch.no_grad():  # inference mode does not work with sharded weights
        loaded = load_batches(dataset, batches, workers=workers, pin_memory=world.device.type != "cpu")
        for image, label in track(loaded, "validating", total=len(batches), unit="batch"):
            world.beat()
            with torch.autocast(world.device.type, dtype, enabled=dtype != torch.float32):
                logits = model(image.to(world.device))
            if hidden_class is not None:
                logits[:, hidden_class] = -math.inf
            predicted = logits.argmax(dim=1).to(torch.uint8).cpu()
            matrix += confusion_matrix(label.numpy(), predicted.numpy(), classes)
            if show is not None:
                show(image, label, predicted)
                show = None
    release_gathered(model)
    return world.total(torch.from_numpy(matrix).to(world.device)).cpu().numpy()
