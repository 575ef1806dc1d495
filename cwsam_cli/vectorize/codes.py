"""What class rasters are read as; without numba, which only the loops over pixels need."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTSIDE, NODATA, HOLE = -(2**31), -(2**31) + 1, -(2**31) + 2
"""Codes of what is no class: beyond the map's edge, without data, and without data where that is to be filled."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Some rows of a map."""

    codes: NDArray[np.int32]
    """(H, W), NODATA where there is none."""
    values: NDArray[np.float32] | None = None
    """Of other rasters on the same grid (S, H, W), NaN where there is none."""
