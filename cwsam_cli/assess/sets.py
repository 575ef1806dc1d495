"""Fit sets of classes on validation ground, and measure on other ground how often they hold the true class.

A set holds the most likely class, and each class whose probability reaches the threshold of that class. The threshold
is the quantile of the probabilities that the model gives to the validation pixels of the class. So the coverage holds
for ground like the validation ground, and nothing promises it elsewhere.
Source: Sadinle et al. 2019, Least ambiguous set-valued classifiers with bounded error levels, JASA.

# n pixels, G cells of ground, K classes, N bins
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwsam_cli.assess.trained import Trained
from cwsam_cli.distributed.world import World
from cwsam_cli.metrics.reliability import BINS, count_bins
from cwsam_cli.taxonomy import IGNORE

_LEVELS = 10_000  # steps of probability at which thresholds lie
_NEVER = 2.0  # the threshold of a class that is in no set


def count_own_probabilities(trained: Trained, world: World, batch_size: int) -> NDArray[np.int64]:
    """Count labelled pixels by class and by the probability of that class, (K, levels + 1)."""
    classes = len(trained.taxonomy)
    counts = np.zeros(classes * (_LEVELS + 1), np.int64)
    for batch in trained.score(world, batch_size):
        own, labels = _own_probability(batch.logits, batch.labels, trained.temperature)
        level = (own.numpy() * _LEVELS).astype(np.int64)
        counts += np.bincount(labels.numpy().astype(np.int64) * (_LEVELS + 1) + level, minlength=counts.size)
    return world.total(torch.from_numpy(counts)).numpy().reshape(classes, -1)


def find_thresholds(counts: NDArray[np.int64], coverage: float, hidden_class: int | None = None) -> tuple[float, ...]:
    """Return by class the largest threshold that the wanted share of its pixels reaches.

    A class with too few pixels for that share has the threshold 0, so it is in every set.

    Args:
        counts: see `count_own_probabilities`.
        coverage: wanted share, 0 to 1.
        hidden_class: index of a class that is in no set, or None.
    """
    thresholds = []
    for index, row in enumerate(counts):
        pixels = int(row.sum())
        missed = pixels - math.ceil((pixels + 1) * coverage)  # pixels that may lie below the threshold
        level = int(np.searchsorted(np.cumsum(row), missed, side="right")) if missed >= 0 else 0
        thresholds.append(_NEVER if index == hidden_class else level / _LEVELS)
    return tuple(thresholds)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts on other ground than that of the fit."""

    bins_before: NDArray[np.float64]
    """Pixels by confidence as the model gives it, (N, 3); see `count_bins`."""
    bins_after: NDArray[np.float64]
    """The same with the temperature."""
    covered: NDArray[np.int64]
    """Labelled pixels, and those whose set holds their class, by cell and class (G, K, 2)."""
    sizes: NDArray[np.int64]
    """Pixels by number of classes in their set, (K + 1,)."""


def measure_coverage(
    trained: Trained,
    world: World,
    cells: NDArray[np.intp],
    *,
    cell_count: int,
    thresholds: tuple[float, ...],
    batch_size: int,
) -> Coverage:
    """Measure calibration and coverage over all processes.

    Args:
        trained: the model with its temperature, and the dataset.
        world: the processes.
        cells: number of each tile's cell.
        cell_count: number of cells G.
        thresholds: by class index; without any, no sets are counted.
        batch_size: images per batch.
    """
    classes = len(trained.taxonomy)
    counts = Coverage(
        np.zeros((BINS, 3)),
        np.zeros((BINS, 3)),
        np.zeros((cell_count, classes, 2), np.int64),
        np.zeros(classes + 1, np.int64),
    )
    for batch in trained.score(world, batch_size):
        for number, label, logits in zip(batch.samples, batch.labels, batch.logits.float(), strict=True):
            known = label != IGNORE
            labels, scores = label[known].long(), logits[:, known.to(logits.device)].cpu()
            best = scores.argmax(dim=0)
            is_right = (best == labels).numpy()
            for bins, temperature in ((counts.bins_before, 1.0), (counts.bins_after, trained.temperature)):
                probabilities = (scores / temperature).softmax(dim=0)
                bins += count_bins(probabilities.amax(dim=0).numpy(), is_right)
            if thresholds:
                # The last ones are those with the temperature.
                in_set = probabilities >= torch.tensor(thresholds)[:, None]
                in_set.scatter_(0, best[None], True)
                held = in_set.gather(0, labels[None])[0]
                cell = cells[trained.dataset.samples[number].tile]
                for column, own in enumerate((labels, labels[held])):
                    counts.covered[cell, :, column] += np.bincount(own.numpy(), minlength=classes)
                counts.sizes[:] += np.bincount(in_set.sum(dim=0).numpy(), minlength=classes + 1)
    return Coverage(
        **{each.name: world.total(torch.from_numpy(getattr(counts, each.name))).numpy() for each in fields(Coverage)}
    )


def _own_probability(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the probability of each labelled pixel's class, and the class, (n,) each, on the CPU."""
    known = labels != IGNORE
    index = labels.to(logits.device).long().clamp_max(logits.shape[1] - 1)
    scores = (logits.float() / temperature).log_softmax(dim=1)
    own = scores.gather(1, index[:, None])[:, 0].exp().cpu()
    return own[known], labels[known]
