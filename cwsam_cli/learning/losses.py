"""What the model is told it got wrong.

# B batch, K classes, P pixels an image

A step's losses are those of one large batch, however many processes and accumulated batches
it is cut into: cross-entropy divides by the weight of all its labelled pixels, overlap
losses are means over all its labelled images. Each part of the batch therefore divides by
the `BatchTotals`, not by itself, and the parts' losses and gradients add up.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cwsam_cli.config.schema import Loss
from cwsam_cli.taxonomy import IGNORE

FOCUS = 2.0
"""Exponent of the focal loss (Lin et al. 2017)."""


class BatchTotals(NamedTuple):
    """What a step's losses are divided by."""

    weight: Tensor
    """Of all labelled pixels."""
    images: Tensor
    """How many have a labelled pixel."""
    sizes: Tensor
    """Images of each accumulated batch, labelled or not: (batches,)."""


def class_weights(pixels: Sequence[int]) -> list[float]:
    """`loss_weight: auto`: one over the square root of a class's share, mean 1 over the pixels.

    The square root lifts rare classes without letting a few hundred pixels rule. A class
    without a labelled pixel weighs 0.
    """
    counts = torch.tensor(pixels, dtype=torch.float64)
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).tolist()


def count_totals(targets: Iterable[Tensor], weights: Tensor | None = None) -> BatchTotals:
    """The whole that some batches of class indices (B, H, W) make up."""
    weight, images = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    sizes = []
    for target in targets:
        known = target != IGNORE
        counted = known if weights is None else weights.cpu()[target.long().masked_fill(~known, 0)] * known
        weight += counted.sum(dtype=torch.float64).cpu()
        images += known.flatten(1).any(dim=1).sum().cpu()
        sizes.append(len(target))
    return BatchTotals(weight, images, torch.tensor(sizes, dtype=torch.float64))


def loss_parts(
    logits: Tensor,
    target: Tensor,
    kind: Loss,
    weights: Tensor | None = None,
    *,
    smoothing: float = 0.0,
    totals: BatchTotals | None = None,
) -> dict[str, Tensor]:
    """A loss by its parts, which add up to it; 0 with gradient 0 where nothing is labelled.

    Args:
        logits: (B, K, H, W); B may be 0.
        target: class indices (B, H, W), any integer dtype; `IGNORE` counts for nothing.
        kind: as in `model.args.loss`: cross-entropy alone, or plus a soft overlap loss, or focal.
        weights: one a class (K,), for the cross-entropy.
        smoothing: share of each label that is spread over all classes.
        totals: of the step that this batch is a part of; None where it is all there is.
    """
    totals = totals or count_totals([target.cpu()], weights)
    target = target.long()
    known = target != IGNORE
    per_pixel = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)
    if weights is not None:  # torch's own weights would weigh a smoothed label's share of every class by that class
        per_pixel = per_pixel * weights[target.masked_fill(~known, 0)]
    if kind == "focal":
        right = logits.softmax(dim=1).gather(1, target.masked_fill(~known, 0)[:, None])[:, 0]
        per_pixel = per_pixel * (1 - right) ** FOCUS
    first, _, second = kind.partition("+")
    parts = {first: per_pixel.sum() / totals.weight.to(logits).clamp(min=1e-9)}
    if second:
        images = totals.images.to(logits).clamp(min=1)
        parts[second] = (
            _lovasz(logits, target, known) / images
            if second == "lovasz"
            else (_overlap_loss(logits, target, known, jaccard=second == "iou") / images)
        )
    return parts


def _overlap_loss(logits: Tensor, target: Tensor, known: Tensor, *, jaccard: bool) -> Tensor:
    """1 - soft Dice (or IoU), the mean over the classes that an image's labels hold; the sum over the images."""
    scores = (logits.softmax(dim=1) * known[:, None]).flatten(2)  # (B, K, P)
    truth = _truth(logits, target, known)
    common, sizes = (scores * truth).sum(dim=2), scores.sum(dim=2) + truth.sum(dim=2)
    overlap = common / (sizes - common).clamp(min=1e-9) if jaccard else 2 * common / sizes.clamp(min=1e-9)
    return _mean_over_present(1 - overlap, truth.sum(dim=2) > 0)


def _lovasz(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Lovász-softmax (Berman et al. 2018), the mean over the classes that an image holds; the sum over the images.

    The IoU that is lost if the worst n errors were mistakes is a function of n; its steps
    weigh the errors, sorted from the worst.
    """
    scores = logits.softmax(dim=1).flatten(2)  # (B, K, P)
    truth = _truth(logits, target, known)
    errors = (truth - scores).abs() * known.flatten(1)[:, None]
    errors, order = errors.sort(dim=2, descending=True)
    hits = truth.gather(2, order)
    size = truth.sum(dim=2, keepdim=True)
    counted = known.flatten(1)[:, None].expand_as(order).gather(2, order)
    union = size + ((1 - hits) * counted).cumsum(dim=2)
    lost = 1 - (size - hits.cumsum(dim=2)) / union.clamp(min=1e-9)
    steps = torch.cat([lost[..., :1], lost.diff(dim=2)], dim=2)
    return _mean_over_present((errors * steps).sum(dim=2), size[..., 0] > 0)


def _truth(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """1 where a pixel is labelled as a class, else 0, (B, K, P); torch's one-hot would be twice as large."""
    classes = torch.arange(logits.shape[1], device=target.device)[:, None, None]
    return ((target[:, None] == classes) & known[:, None]).flatten(2).to(logits.dtype)


def _mean_over_present(losses: Tensor, present: Tensor) -> Tensor:
    """Losses (B, K) over the classes present in each image, summed over the images."""
    shares = present.to(losses.dtype) / present.sum(dim=1, keepdim=True).clamp(min=1)
    return (losses * shares).sum()
