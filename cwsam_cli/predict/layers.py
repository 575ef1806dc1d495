"""The layers of a map: class codes, and on request how sure the model is and which other classes it considered.

Every layer is uint8 with nodata 255. Codes are as in the class table, shares are in per cent, and sizes of sets are
numbers of classes.
Layers are computed on the device that holds the scores.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cwsam_cli.taxonomy import IGNORE, Taxonomy


@dataclass(frozen=True, slots=True)
class MapLayers:
    """Which layers a map has; codes come first."""

    taxonomy: Taxonomy
    kinds: tuple[str, ...] = ()
    """Names of `raster.mapfile.KINDS`; each is a file beside the map."""
    min_confidence: float = 0.0
    """Per cent; a pixel with less is nodata in the map."""
    expert_groups: int = 0
    """Number of planes behind those of the classes that say which expert group served a pixel."""
    temperature: float = 1.0
    """Scores are divided by it before they become probabilities."""
    thresholds: tuple[float, ...] = ()
    """By class, the smallest probability at which it remains in a pixel's set; needed for set_size."""

    def bands(self, kind: str) -> int:
        """Number of layers of a kind."""
        return len(self.taxonomy) if kind == "probabilities" else 1

    @property
    def count(self) -> int:
        """Number of all layers."""
        return 1 + sum(self.bands(kind) for kind in self.kinds)

    def finisher(self, device: str | torch.device) -> Callable[[Tensor], Tensor]:
        """Return a function from blended logits (K + expert groups, h, w) on a device to layers (L, h, w) uint8."""
        to_code = torch.tensor(list(self.taxonomy.index_to_code()), dtype=torch.uint8).to(device)
        classes = len(self.taxonomy)
        thresholds = torch.tensor(self.thresholds, device=device)[:, None, None]

        def codes_only(scores: Tensor) -> Tensor:
            index = best_index(scores[:classes])
            return to_code.index_select(0, index.flatten()).view(1, *index.shape)

        def finish(scores: Tensor) -> Tensor:
            codes = codes_only(scores)
            logits = scores[:classes] if self.temperature == 1 else scores[:classes] / self.temperature
            probabilities = logits.softmax(dim=0)
            unsure = 100 * probabilities.amax(dim=0) < self.min_confidence
            layers = [codes | unsure.to(torch.uint8) * IGNORE]
            for kind in self.kinds:
                if kind == "experts":
                    layers.append(best_index(scores[classes:]).to(torch.uint8)[None])
                elif kind == "set_size":
                    layers.append(count_set(probabilities, thresholds)[None])
                else:
                    layers.append(to_percent(_SHARES[kind](probabilities)))
            return torch.cat(layers)

        return finish if self.kinds or self.min_confidence else codes_only


def best_index(scores: Tensor) -> Tensor:
    """Index of the largest score, (K, h, w) → (h, w) int; the first of equal ones.

    On the CPU this keeps a running maximum over the planes. It is seven times as fast as `argmax(dim=0)`, which walks
    across them. The indices are kept in float32, because comparisons that return bool are three times as slow.
    """
    if not scores.is_cpu:
        return scores.argmax(dim=0)
    best = scores[0].clone()
    index, larger = torch.zeros_like(best), torch.empty_like(best)
    for number, plane in enumerate(scores[1:].unbind(), start=1):
        torch.gt(plane, best, out=larger)
        torch.maximum(plane, best, out=best)
        torch.maximum(index, larger.mul_(number), out=index)
    return index.to(torch.int32)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy relative to its maximum, (K, h, w) → (h, w): 0 if one class is certain, 1 if all are equally likely."""
    total: Tensor = torch.special.entr(probabilities).sum(dim=0)
    return total / math.log(max(2, len(probabilities)))


def count_set(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Number of classes in each pixel's set, (K, h, w) and (K, 1, 1) → (h, w) uint8; the likeliest class is in it."""
    best, index = probabilities.max(dim=0)
    is_below = best < thresholds.flatten()[index]
    return ((probabilities >= thresholds).sum(dim=0) + is_below).to(torch.uint8)


def to_percent(share: Tensor) -> Tensor:
    """0-1 to whole per cent, (h, w) or (K, h, w) → (1 or K, h, w) uint8."""
    percent = (share.clamp(0, 1) * 100).round().to(torch.uint8)
    return percent if percent.dim() == 3 else percent[None]


_SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "confidence": lambda probabilities: probabilities.amax(dim=0),
    "probabilities": lambda probabilities: probabilities,
    "entropy": entropy,
}
