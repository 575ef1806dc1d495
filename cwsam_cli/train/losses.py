"""What the model is told it got wrong.

# B batch, K classes, P pixels an image
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cwsam_cli.config.schema import Loss
from cwsam_cli.taxonomy import IGNORE


def class_weights(pixels: Sequence[int]) -> list[float]:
    """`loss_weight: auto`: one over the square root of a class's share, mean 1 over the pixels.

    The square root lifts rare classes without letting a few hundred pixels rule. A class
    without a labelled pixel weighs 0.
    """
    counts = torch.tensor(pixels, dtype=torch.float64)
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).tolist()


def segmentation_loss(logits: Tensor, target: Tensor, kind: Loss, weights: Tensor | None = None) -> Tensor:
    """The loss that `model.args.loss` names.

    Args:
        logits: (B, K, H, W).
        target: class indices (B, H, W), any integer dtype; `IGNORE` counts for nothing.
        kind: cross-entropy alone, or plus a soft overlap loss.
        weights: one a class (K,), for the cross-entropy.

    Returns:
        A scalar; 0 with gradient 0 where nothing is labelled.
    """
    target = target.long()
    known = target != IGNORE
    per_pixel = F.cross_entropy(logits, target, weight=weights, ignore_index=IGNORE, reduction="none")
    weight = known.to(logits.dtype) if weights is None else weights[target.masked_fill(~known, 0)] * known
    loss = per_pixel.sum() / weight.sum().clamp(min=1e-9)
    if kind != "ce":
        loss = loss + _overlap_loss(logits, target, known, jaccard=kind == "ce+iou")
    return loss


def _overlap_loss(logits: Tensor, target: Tensor, known: Tensor, *, jaccard: bool) -> Tensor:
    """1 - soft Dice (or IoU), the mean over the classes that each image's labels hold."""
    scores = (logits.softmax(dim=1) * known[:, None]).flatten(2)  # (B, K, P)
    truth = (
        F.one_hot(target.masked_fill(~known, 0), logits.shape[1]).movedim(-1, 1).flatten(2) * known.flatten(1)[:, None]
    )
    common, sizes = (scores * truth).sum(dim=2), scores.sum(dim=2) + truth.sum(dim=2)
    overlap = common / (sizes - common).clamp(min=1e-9) if jaccard else 2 * common / sizes.clamp(min=1e-9)
    present = (truth.sum(dim=2) > 0).to(logits.dtype)
    return ((1 - overlap) * present).sum() / present.sum().clamp(min=1)
