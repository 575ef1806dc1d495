"""A known population for simulations: a map, its reference, and the probabilities that a model gives each class."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SIDE, CLASSES = 600, 5
LEVELS = np.array([1.3, 0.9, 0.4, -0.2, -0.6])[:, None, None]
"""They make the last classes rare: 46, 30, 15, 5 and 3 % of the ground."""


@dataclass(frozen=True)
class Population:
    """Patches of about 10 pixels, mapped with an overall accuracy of 0.82."""

    truth: NDArray[np.int64]
    """(SIDE, SIDE)"""
    mapped: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """(CLASSES, SIDE, SIDE); their largest is the mapped class."""


def _fields(rng: np.random.Generator, width: float) -> Any:
    found = np.stack([gaussian_filter(rng.normal(size=(SIDE, SIDE)), width, mode="wrap") for _ in range(CLASSES)])
    return found / found.std(axis=(1, 2), keepdims=True)


@cache
def population(noise: float = 0.35, sharpness: float = 4.0) -> Population:
    """Make a population.

    Args:
        noise: how much of the map's evidence is wrong.
        sharpness: factor of the evidence in the softmax; large values make a model that is too sure.
    """
    rng = np.random.default_rng(1)
    real = _fields(rng, 4) + LEVELS
    evidence = real + noise * _fields(rng, 1.5)
    odds = np.exp(sharpness * (evidence - evidence.max(axis=0)))
    return Population(real.argmax(axis=0), evidence.argmax(axis=0), odds / odds.sum(axis=0))


def shares_of_blocks(codes: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Share of each class in each block of side × side pixels, (blocks, CLASSES)."""
    count = SIDE // side
    blocks = codes.reshape(count, side, count, side).swapaxes(1, 2).reshape(count * count, -1)
    return np.stack([(blocks == k).mean(axis=1) for k in range(CLASSES)], axis=1)
