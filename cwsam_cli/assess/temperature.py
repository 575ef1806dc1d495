"""Fit the temperature that makes a model as sure as it is right.

It minimises the mean negative log-likelihood of the labels.
Source: Guo et al. 2017, On calibration of modern neural networks, ICML.

# n pixels, K classes
"""

import math

import numpy as np
import torch
from torch import Tensor

from cwsam_cli.assess.trained import Trained
from cwsam_cli.distributed.world import World
from cwsam_cli.taxonomy import IGNORE

_SAMPLE = 200_000  # pixels from which the temperature is fitted
_HOTTEST = 20.0  # the temperature is between 1/20 and 20
_LEAST = -1e4  # stands for minus infinity, which cannot be multiplied by a probability of 0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that makes the labels most likely.

    The mean negative log-likelihood is convex in 1 / temperature, so Newton's method inside a shrinking bracket
    finds its minimum.

    Args:
        logits: scores (n, K); a hidden class has minus infinity.
        labels: class indices (n,).
    """
    scores = logits.double().clamp_min(_LEAST)
    own = scores.gather(1, labels.long()[:, None])[:, 0]
    low, high, inverse = 1 / _HOTTEST, _HOTTEST, 1.0
    for _ in range(60):
        probabilities = (scores * inverse).softmax(dim=1)
        mean = (probabilities * scores).sum(dim=1)
        slope = float((mean - own).mean())
        curvature = float(((probabilities * scores**2).sum(dim=1) - mean**2).mean())
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = slope / curvature if curvature > 0 else math.inf
        target = inverse - step
        following = target if low < target < high else math.sqrt(low * high)
        if abs(following - inverse) < 1e-6 * inverse:
            break
        inverse = following
    return 1 / inverse


def sample_scores(trained: Trained, world: World, batch_size: int) -> tuple[Tensor, Tensor]:
    """Draw labelled pixels evenly from all samples; return their scores (n, K) and labels (n,) from all processes."""
    share = max(1, _SAMPLE // max(1, len(trained.dataset)))
    scores, labels = [torch.empty(0, len(trained.taxonomy))], [torch.empty(0, dtype=torch.uint8)]
    for batch in trained.score(world, batch_size):
        for number, label, logits in zip(batch.samples, batch.labels, batch.logits.float().cpu(), strict=True):
            known = np.flatnonzero(label.numpy() != IGNORE)
            if known.size > share:
                known = np.random.default_rng(number).choice(known, share, replace=False)
            scores.append(logits.flatten(1)[:, known].T)
            labels.append(label.flatten()[known])
    parts = world.gather((torch.cat(scores), torch.cat(labels)))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
