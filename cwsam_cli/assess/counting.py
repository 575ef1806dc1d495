"""Count a model's hits and misses on a dataset, by cell of ground and by tile, in one or several processes.

# B batch, S pixels per side of a sample, K classes
"""

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from cwsam_cli.assess.counts import Counts
from cwsam_cli.assess.trained import Trained
from cwsam_cli.distributed.world import World
from cwsam_cli.metrics.boundary import count_boundaries
from cwsam_cli.metrics.confusion import confusion_matrix
from cwsam_cli.metrics.reliability import count_bins
from cwsam_cli.taxonomy import IGNORE


def count_hits(
    trained: Trained, world: World, cells: NDArray[np.intp], *, cell_count: int, tolerance: int, batch_size: int
) -> Counts:
    """Count a model's hits and misses over all processes.

    Args:
        trained: the model and the dataset.
        world: the processes.
        cells: number of each tile's cell, (N,).
        cell_count: number of cells G.
        tolerance: largest distance in pixels at which boundaries match.
        batch_size: images per batch.
    """
    classes = len(trained.taxonomy)
    counts = Counts.empty(cell_count, len(cells), classes)
    for batch in trained.score(world, batch_size):
        logits = batch.logits.float() / trained.temperature
        best, index = logits.max(dim=1)
        confidence = (logits - best[:, None]).exp().sum(dim=1).reciprocal().cpu().numpy()
        predicted = index.to(torch.uint8).cpu().numpy()
        for number, label, guess, sure in zip(batch.samples, batch.labels.numpy(), predicted, confidence, strict=True):
            tile = trained.dataset.samples[number].tile
            cell, known = cells[tile], label != IGNORE
            is_right = guess[known] == label[known]
            counts.matrices[cell] += confusion_matrix(label, guess, classes)
            counts.boundaries[cell] += count_boundaries(label, guess, classes, tolerance)
            counts.bins[cell] += count_bins(sure[known], is_right)
            counts.tiles[tile] += (is_right.size, np.count_nonzero(is_right))
    device = torch.device("cpu")  # gloo serves it on every machine, and not every accelerator has float64
    return Counts(
        **{
            each.name: world.total(torch.from_numpy(getattr(counts, each.name)).to(device)).numpy()
            for each in fields(Counts)
        }
    )
