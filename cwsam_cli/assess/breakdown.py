"""Accuracy by parts of the measured ground: by group of experts, and by distance from training ground.

# G blocks of ground, N tiles, P parts
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.metrics.bootstrap import Arrays, bootstrap
from cwsam_cli.metrics.confusion import or_none, ratio

_PARTS = 5
"""Largest number of ranges of a quantity."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """Accuracy on a part of the measured ground."""

    part: str
    blocks: int
    """Number of blocks with labelled pixels in the part."""
    pixels: int
    """Labelled pixels."""
    accuracy: float | None
    """None if no pixel is labelled."""
    interval: tuple[float, float] | None
    """95 % interval; None if fewer than two blocks have labelled pixels in the part."""


def measure_parts(counts: NDArray[np.int64], names: Sequence[str]) -> tuple[PartResult, ...]:
    """Compute the accuracy of parts, with intervals from drawing whole blocks again.

    Args:
        counts: labelled and correct pixels by block and part, (G, P, 2).
        names: names of the parts, (P,).
    """
    if not names:
        return ()
    ends = bootstrap({"counts": counts}, _accuracies)["accuracy"]
    pixels, right = counts.sum(axis=0).T
    blocks = np.count_nonzero(counts[:, :, 0], axis=0)
    return tuple(
        PartResult(
            part=name,
            blocks=int(blocks[part]),
            pixels=int(pixels[part]),
            accuracy=or_none(ratio(right[part], pixels[part])),
            interval=(float(ends[0, part]), float(ends[1, part])) if blocks[part] > 1 else None,
        )
        for part, name in enumerate(names)
    )


def measure_ranges(
    values: NDArray[np.float64], tiles: NDArray[np.int64], blocks: Sequence[str], name: Callable[[float], str]
) -> tuple[PartResult, ...]:
    """Compute the accuracy by at most five ranges of a quantity that each tile has.

    The ranges would have equally many pixels, but tiles whose values have the same text stay together.

    Args:
        values: the quantity, (N,).
        tiles: labelled and correct pixels of each tile, (N, 2).
        blocks: name of each tile's block, (N,).
        name: function from a value to its text.

    Returns:
        Accuracy by range, from the smallest values to the largest. Nothing if all values have the same text.
    """
    labelled = tiles[:, 0] > 0
    values, tiles, blocks = (
        values[labelled],
        tiles[labelled],
        [blocks[tile] for tile in np.flatnonzero(labelled).tolist()],
    )
    texts = [name(value) for value in values.tolist()]
    smallest: dict[str, float] = {}
    for text, value in zip(texts, values.tolist(), strict=True):
        smallest[text] = min(value, smallest.get(text, value))
    order = sorted(smallest, key=lambda text: smallest[text])
    # Tiles of equal text stay together. They belong to the fifth of the pixels in which the first of them lies.
    step = {text: number for number, text in enumerate(order)}
    steps = np.array([step[text] for text in texts], np.int64)
    pixels = np.bincount(steps, tiles[:, 0], len(order))
    begins = (np.cumsum(pixels) - pixels) * _PARTS / pixels.sum()
    used, range_of_step = np.unique(begins.astype(np.int64), return_inverse=True)
    if len(used) < 2:
        return ()
    block = {text: number for number, text in enumerate(dict.fromkeys(blocks))}
    counts = np.zeros((len(block), len(used), 2), np.int64)
    np.add.at(counts, (np.array([block[text] for text in blocks]), range_of_step[steps]), tiles)
    names = []
    for number in range(len(used)):
        own = [order[place] for place in np.flatnonzero(range_of_step == number)]
        names.append(own[0] if len(own) == 1 else f"{own[0]} to {own[-1]}")
    return measure_parts(counts, names)


def as_length(metres: float) -> str:
    """Return a length with its unit and at most three digits."""
    if round(metres) < 1000:
        return f"{metres:.0f} m"
    return f"{metres / 1000:.3g} km" if metres < 100_000 else f"{metres / 1000:,.0f} km"


def _accuracies(sums: Arrays) -> Arrays:
    pixels, right = np.moveaxis(sums["counts"], -1, 0)
    return {"accuracy": ratio(right, pixels)}
