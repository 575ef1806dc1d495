"""The representation of class rasters in memory. This module does not load numba."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTSIDE, NODATA, HOLE = -(2**31), -(2**31) + 1, -(2**31) + 2
"""Reserved codes: pixels beyond the map's edge, pixels without data, and pixels without data that are to be filled."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Consecutive rows of a map."""

    codes: NDArray[np.int32]
    """Class codes (H, W), NODATA where there is none."""
    values: NDArray[np.float32] | None = None
    """Values of other rasters on the same grid (S, H, W), NaN where there is none."""
