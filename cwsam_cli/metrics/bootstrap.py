"""Estimate confidence intervals by resampling spatial blocks.

Neighbouring pixels are not independent, so pixels are not resampled one by one. Whole blocks of ground are drawn
with replacement, as often as there are blocks. An interval is the range between the 2.5th and the 97.5th percentile
of the figure over these draws.
Source: Efron and Tibshirani 1993, An introduction to the bootstrap; Lahiri 2003, Resampling methods for dependent data.

# G blocks, R draws
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float64]]

ENOUGH_BLOCKS = 10
"""Percentile intervals from fewer blocks are too narrow to be relied on."""
_DRAWS = 2000
_VALUES = 20_000_000  # numbers held at a time


def bootstrap(
    counts: Mapping[str, NDArray[np.generic]], compute: Callable[[Arrays], Arrays], *, draws: int = _DRAWS
) -> Arrays:
    """Compute 95 % intervals of figures that follow from sums over blocks.

    Args:
        counts: by name, an array (G, ...) with a first axis of blocks.
        compute: function from sums (R, ...) by name to figures (R, ...) by name; NaN where a figure is undefined.
        draws: number of draws R. The same draws serve all arrays, so differences are paired.

    Returns:
        By name of the figure: lower and upper end, (2, ...). NaN if there are fewer than two blocks.
    """
    groups = len(next(iter(counts.values())))
    if groups < 2:
        sums = {name: np.asarray(values.sum(axis=0, keepdims=True), np.float64) for name, values in counts.items()}
        whole = compute(sums)
        return {name: np.full((2, *values.shape[1:]), np.nan) for name, values in whole.items()}
    flat = {name: np.asarray(values, np.float64).reshape(groups, -1) for name, values in counts.items()}
    weights = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)
    step = max(1, _VALUES // sum(values.shape[1] for values in flat.values()))
    parts: list[Arrays] = []
    for start in range(0, draws, step):
        drawn = weights[start : start + step]
        sums = {name: (drawn @ values).reshape(-1, *counts[name].shape[1:]) for name, values in flat.items()}
        parts.append(compute(sums))
    figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: _interval(values) for name, values in figures.items()}


def _interval(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 2.5th and 97.5th percentiles over the draws in which the figure is defined, (R, ...) → (2, ...)."""
    columns = values.reshape(len(values), -1).T
    ends = np.full((2, len(columns)), np.nan)
    for number, column in enumerate(columns):
        known = column[~np.isnan(column)]
        if known.size:
            ends[:, number] = np.percentile(known, (2.5, 97.5))
    return ends.reshape(2, *values.shape[1:])
