"""How a model's scores become probabilities that can be trusted, and sets of classes that hold the truth."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A temperature and thresholds, fitted on validation ground. `cwsam eval` writes them into a checkpoint's copy."""

    temperature: float = 1.0
    """Scores are divided by it before the softmax. Above 1, the model was too sure."""
    coverage: float | None = None
    """Share of pixels, of each class, whose set of classes should hold the true class; None if there are no sets."""
    thresholds: tuple[float, ...] = ()
    """By class index, the smallest probability at which the class remains in a pixel's set."""
    data: str
    """Folder of the dataset."""
    pixels: int
    """Number of labelled pixels of its validation split."""
    weights_sha256: str
    """Hash of the model's weights, see `hash_weights`. The original checkpoint and its calibrated copies share it."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, but it must be above 0 and finite")
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise ValueError(f"coverage is {self.coverage}, but it must be between 0 and 1")
        if not all(0 <= number < math.inf for number in self.thresholds):
            raise ValueError("thresholds has a value that is negative or not finite")

    def as_text(self) -> str:
        """Return a phrase about the calibration."""
        sets = f", sets of classes for a coverage of {self.coverage:g}" if self.coverage is not None else ""
        return (
            f"temperature {self.temperature:.3g}{sets}; fitted on {self.pixels:,} validation pixels of `{self.data}`; "
            f"weights {self.weights_sha256}"
        )


def hash_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and values of tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(values.data)
    return digest.hexdigest()
