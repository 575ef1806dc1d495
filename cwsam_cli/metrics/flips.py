"""Test whether the sum of paired differences could be chance, by turning the signs of whole blocks.

Without a true difference, each block's difference could as well have the other sign. The p-value is the share of such
sign patterns whose sum is at least as far from 0 as the observed one. Like McNemar's test it looks only at the pixels
on which two maps are not equally right, but it treats the pixels of a block together.
Source: Edgington and Onghena 2007, Randomization tests.
"""

import numpy as np
from numpy.typing import NDArray

_EXACT = 14  # blocks up to which all patterns are tried
_DRAWS = 9_999


def flip_signs(differences: NDArray[np.generic]) -> float:
    """Return the two-sided p-value of a sum of differences (G,), 0 to 1; 1 if all are 0."""
    own = np.asarray(differences, np.float64)
    own = own[own != 0]
    if not own.size:
        return 1.0
    observed = abs(own.sum()) - 1e-9
    if own.size <= _EXACT:
        patterns = 2.0 * ((np.arange(2**own.size)[:, None] >> np.arange(own.size)) & 1) - 1
        return float((np.abs(patterns @ own) >= observed).mean())
    rng, reached = np.random.default_rng(0), 0
    for _ in range(_DRAWS):
        reached += bool(abs(rng.choice((-1.0, 1.0), own.size) @ own) >= observed)
    return (1 + reached) / (1 + _DRAWS)
