"""What labels of any kind are on a scene's pixel grid: class codes, and the values that no class has."""

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

NO_LABEL = -1
UNEXPECTED = -2
"""The code of a pixel whose label is not in the class table."""

Codes = NDArray[np.int16]
Conflicts = Counter[tuple[int, ...]]
"""Numbers of pixels by the ids of the features that contain them."""
Value = int | str
"""A label as its file holds it: a number, a text, or a colour `#rrggbb`."""


def count_codes(codes: Codes) -> NDArray[np.int64]:
    """Return the number of pixels by code (258,); those of `NO_LABEL` and `UNEXPECTED` are the last two."""
    return np.roll(np.bincount(codes.ravel() - UNEXPECTED, minlength=256 - UNEXPECTED), UNEXPECTED)


class Labels(Protocol):
    """Labels on a scene's grid."""

    def read(self, window: Window) -> Codes:
        """Return the class codes (H, W) of a window, `NO_LABEL` where there is none, or `UNEXPECTED`."""

    def unexpected(self, window: Window) -> Counter[Value]:
        """Count the pixels of a window by their value, where no class has it."""

    def conflicts(self, window: Window) -> Conflicts:
        """Count the pixels of a window that features of different classes contain, by the ids of those features."""


@dataclass(frozen=True, slots=True)
class JoinedLabels:
    """Labels from several files. Where they overlap, the first that has a label counts."""

    parts: tuple[Labels, ...]

    def read(self, window: Window) -> Codes:
        """See `Labels`."""
        codes = self.parts[0].read(window)
        for part in self.parts[1:]:
            missing = codes == NO_LABEL
            if missing.any():
                codes[missing] = part.read(window)[missing]
        return codes

    def unexpected(self, window: Window) -> Counter[Value]:
        """See `Labels`."""
        return sum((part.unexpected(window) for part in self.parts), Counter[Value]())

    def conflicts(self, window: Window) -> Conflicts:
        """See `Labels`."""
        return sum((part.conflicts(window) for part in self.parts), Conflicts())
