"""Compute the training losses.

# B batch, K classes, P pixels per image

The loss of a step is the loss of one large batch, no matter how many processes and accumulated
batches divide it. Cross-entropy divides by the weight of all labelled pixels of the large
batch; overlap losses are means over all its labelled images. Each part of the batch therefore
divides by the `BatchTotals` of the step, so the losses and gradients of the parts add up.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cwsam_cli.config.schema import Loss
from cwsam_cli.taxonomy import IGNORE

FOCUS = 2.0
"""Exponent of the focal loss. Source: Lin et al., Focal Loss, 2017."""


class BatchTotals(NamedTuple):
    """Totals over all batches of a step, by which its losses are divided."""

    weight: Tensor
    """Sum of the class weights of all labelled pixels."""
    images: Tensor
    """Number of images with at least one labelled pixel."""
    sizes: Tensor
    """Images per accumulated batch, labelled or not: (batches,)."""


def count_totals(targets: Iterable[Tensor], weights: Tensor | None = None) -> BatchTotals:
    """Count the totals of batches of class indices (B, H, W)."""
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
    """Compute the parts of a loss. The loss is their sum.

    Args:
        logits: (B, K, H, W); B may be 0.
        target: class indices (B, H, W) of any integer dtype; pixels of `IGNORE` are left out.
        kind: loss as in `model.args.loss`.
        weights: weight of each class (K,), for the cross-entropy.
        smoothing: share of each label that is spread over all classes, 0 to 1.
        totals: totals of the step that this batch belongs to; None if the batch is the whole step.

    Returns:
        Parts by name. Without labelled pixels they are 0 with gradient 0.
    """
    totals = totals or count_totals([target.cpu()], weights)
    target = target.long()
    known = target != IGNORE
    per_pixel = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)
    if weights is not None:  # torch's own `weight` would weight each class's share of a smoothed label separately
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
    """Sum over the images of 1 - soft Dice (or IoU), each a mean over the classes in the image's labels."""
    probabilities = (logits.softmax(dim=1) * known[:, None]).flatten(2)  # (B, K, P)
    truth = _truth(logits, target, known)
    common, sizes = (probabilities * truth).sum(dim=2), probabilities.sum(dim=2) + truth.sum(dim=2)
    overlap = common / (sizes - common).clamp(min=1e-9) if jaccard else 2 * common / sizes.clamp(min=1e-9)
    return _mean_over_present(1 - overlap, truth.sum(dim=2) > 0)


def _lovasz(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Sum over the images of the Lovász-softmax loss, each a mean over the classes in the image's labels.

    The errors are sorted, worst first. Each is weighted by the IoU that is lost when one more of
    them counts as a mistake.
    Source: Berman et al., The Lovász-Softmax loss, 2018.
    """
    probabilities = logits.softmax(dim=1).flatten(2)  # (B, K, P)
    truth = _truth(logits, target, known)
    errors = (truth - probabilities).abs() * known.flatten(1)[:, None]
    errors, order = errors.sort(dim=2, descending=True)
    hits = truth.gather(2, order)
    size = truth.sum(dim=2, keepdim=True)
    counted = known.flatten(1)[:, None].expand_as(order).gather(2, order)
    union = size + ((1 - hits) * counted).cumsum(dim=2)
    lost = 1 - (size - hits.cumsum(dim=2)) / union.clamp(min=1e-9)
    steps = torch.cat([lost[..., :1], lost.diff(dim=2)], dim=2)
    return _mean_over_present((errors * steps).sum(dim=2), size[..., 0] > 0)


def _truth(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return 1 where a pixel is labelled with a class, else 0, (B, K, P). torch's own one-hot takes more memory."""
    classes = torch.arange(logits.shape[1], device=target.device)[:, None, None]
    return ((target[:, None] == classes) & known[:, None]).flatten(2).to(logits.dtype)


def _mean_over_present(losses: Tensor, present: Tensor) -> Tensor:
    """Average losses (B, K) over the classes present in each image, and sum over the images."""
    shares = present.to(losses.dtype) / present.sum(dim=1, keepdim=True).clamp(min=1)
    return (losses * shares).sum()
