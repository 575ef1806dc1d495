"""Count a model's hits and misses on a dataset, by cell of ground and by tile, in one or several processes.

# B batch, S pixels per side of a sample, K classes
"""

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwsam_cli.assess.counts import Counts
from cwsam_cli.assess.trained import Trained
from cwsam_cli.distributed.world import World
from cwsam_cli.metrics.boundary import count_boundaries
from cwsam_cli.metrics.confusion import confusion_matrix
from cwsam_cli.metrics.reliability import count_bins
from cwsam_cli.model.served import groups_by_pixel, watch_groups
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
    classes, groups = len(trained.taxonomy), trained.expert_groups
    counts = Counts.empty(cell_count, len(cells), classes, groups)
    with watch_groups(trained.model, groups) as served:
        for batch in trained.score(world, batch_size):
            logits = batch.logits.float() / trained.temperature
            best, index = logits.max(dim=1)
            confidence = (logits - best[:, None]).exp().sum(dim=1).reciprocal().cpu().numpy()
            predicted, labels = index.to(torch.uint8).cpu().numpy(), batch.labels.numpy()
            preferred = _preferred(served, logits) if groups else None
            served.clear()
            for place, number in enumerate(batch.samples):
                label, guess, sure = labels[place], predicted[place], confidence[place]
                tile = trained.dataset.samples[number].tile
                cell, known = cells[tile], label != IGNORE
                is_right = guess[known] == label[known]
                counts.matrices[cell] += confusion_matrix(label, guess, classes)
                counts.boundaries[cell] += count_boundaries(label, guess, classes, tolerance)
                counts.bins[cell] += count_bins(sure[known], is_right)
                counts.tiles[tile] += (is_right.size, np.count_nonzero(is_right))
                if preferred is not None:
                    own = preferred[place][known]
                    for column, chosen in enumerate((own, own[is_right])):
                        counts.groups[cell, :, column] += np.bincount(chosen, minlength=groups)
    device = torch.device("cpu")  # gloo serves it on every machine, and not every accelerator has float64
    return Counts(
        **{
            each.name: world.total(torch.from_numpy(getattr(counts, each.name)).to(device)).numpy()
            for each in fields(Counts)
        }
    )


def _preferred(served: list[Tensor], logits: Tensor) -> NDArray[np.int64]:
    """Return the group with the largest weight at each pixel, (B, S, S)."""
    height, width = logits.shape[-2:]
    found: NDArray[np.int64] = groups_by_pixel(served, (height, width)).argmax(dim=1).cpu().numpy()
    return found
