"""The layers of a map: class codes, and on request how sure the model is and which other classes it considered.

Every layer is uint8 with nodata 255. Codes are as in the class table, shares are in per cent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.predict.blend import Layers, Scores
from cwsam_cli.taxonomy import IGNORE, Taxonomy


@dataclass(frozen=True, slots=True)
class MapLayers:
    """Which layers a map has; codes come first."""

    taxonomy: Taxonomy
    kinds: tuple[str, ...] = ()
    """Names of `KINDS`; each is a file beside the map."""
    min_confidence: float = 0.0
    """Per cent; a pixel with less is nodata in the map."""
    expert_groups: int = 0
    """Number of planes behind those of the classes that say which expert group served a pixel."""

    def bands(self, kind: str) -> int:
        """Number of layers of a kind."""
        return len(self.taxonomy) if kind == "probabilities" else 1

    @property
    def count(self) -> int:
        """Number of all layers."""
        return 1 + sum(self.bands(kind) for kind in self.kinds)

    def finisher(self) -> Callable[[Scores], Layers]:
        """Return a function from blended logits (K + expert groups, h, w) to layers (L, h, w)."""
        to_code = np.frombuffer(self.taxonomy.index_to_code(), np.uint8)
        classes = len(self.taxonomy)

        def codes_only(scores: Scores) -> Layers:
            return to_code[best_index(scores[:classes])][None]

        def finish(scores: Scores) -> Layers:
            codes = codes_only(scores)[0]
            probabilities = softmax(scores[:classes])
            layers = np.empty((self.count, *codes.shape), np.uint8)
            unsure = 100 * probabilities.max(axis=0) < self.min_confidence
            layers[0] = np.where(unsure, np.uint8(IGNORE), codes)
            at = 1
            for kind in self.kinds:
                bands = self.bands(kind)
                if kind == "experts":
                    layers[at] = best_index(scores[classes:])
                else:
                    layers[at : at + bands] = percent(_SHARES[kind](probabilities))
                at += bands
            return layers

        return finish if self.kinds or self.min_confidence else codes_only


def best_index(scores: Scores) -> NDArray[np.uint8]:
    """Index of the largest score, (K, h, w) → (h, w); the first of equal ones.

    This keeps a running maximum over the planes. It is nine times as fast as `argmax(axis=0)`, which walks across them.
    """
    best = scores[0].copy()
    index = np.zeros(best.shape, np.uint8)
    larger = np.empty(best.shape, bool)
    candidate = np.empty(best.shape, np.uint8)
    for number, plane in enumerate(scores[1:], start=1):
        np.greater(plane, best, out=larger)
        np.maximum(plane, best, out=best)
        np.multiply(larger.view(np.uint8), np.uint8(number), out=candidate)
        np.maximum(index, candidate, out=index)
    return index


def softmax(scores: Scores) -> Scores:
    """Logits (K, h, w) to probabilities."""
    shifted: Scores = np.exp(scores - scores.max(axis=0))
    shifted /= shifted.sum(axis=0)
    return shifted


def entropy(probabilities: Scores) -> Scores:
    """Entropy relative to its maximum, (K, h, w) → (h, w): 0 if one class is certain, 1 if all are equally likely."""
    logs = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    limit = np.log(max(2, len(probabilities)))
    return np.asarray(-(probabilities * logs).sum(axis=0) / limit, np.float32)


def percent(share: Scores) -> Layers:
    """0-1 to whole per cent."""
    return np.rint(np.clip(share, 0, 1) * 100).astype(np.uint8)


_SHARES: dict[str, Callable[[Scores], Scores]] = {
    "confidence": lambda probabilities: probabilities.max(axis=0),
    "probabilities": lambda probabilities: probabilities,
    "entropy": entropy,
}
KINDS = (*_SHARES, "experts")
