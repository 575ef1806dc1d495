"""Estimate how far classes are correlated on the ground, by indicator semivariograms.

The indicator of a class is 1 where a pixel has the class and 0 elsewhere. Its semivariogram at a distance h is half
the mean squared difference of pixels that are h apart. It rises to the sill p (1 - p), where p is the class's share.
1 - semivariogram / sill is the correlation that is left at that distance.
Source: Goovaerts, Geostatistics for Natural Resources Evaluation, 1997, chapter 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.audit.tiles import TileFacts

_TILES = 100
"""Tiles whose points are used."""
_BINS = 16
_AT_SILL = 0.95
_FEW = 30
"""Fewest pairs of a distance class."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Variogram:
    """Correlation of the classes by distance."""

    distances_m: Floats
    """Mean distance of the pairs in each distance class, (B,)."""
    correlation: dict[int, Floats]
    """Correlation that is left by code, (B,)."""

    def range_m(self, code: int) -> float | None:
        """Return the distance at which a class reaches 95 % of its sill, in metres; None if it never does."""
        at_sill = self.correlation.get(code, np.ones(1)) <= 1 - _AT_SILL
        return float(self.distances_m[at_sill.argmax()]) if at_sill.any() else None

    def left_at(self, distance_m: float) -> dict[int, float]:
        """Return the correlation that is left at a distance, by code, 0 to 1."""
        return {
            code: float(np.clip(np.interp(distance_m, self.distances_m, values), 0, 1))
            for code, values in self.correlation.items()
        }


def estimate(tiles: Sequence[TileFacts]) -> Variogram | None:
    """Estimate the semivariograms from points in up to 100 tiles; None if no tile has a position or labels.

    Tiles of the CRS that most tiles have are used.
    """
    placed = [tile for tile in tiles if tile.grid is not None and tile.grid.crs is not None and len(tile.points)]
    if not placed:
        return None
    names = [tile.grid.crs.to_wkt() if tile.grid and tile.grid.crs else "" for tile in placed]
    most = max(sorted(set(names)), key=names.count)
    own = [tile for tile, name in zip(placed, names, strict=True) if name == most]
    chosen = own[:: max(1, -(-len(own) // _TILES))]
    first = chosen[0].grid
    assert first is not None and first.gsd_m is not None
    scale = first.gsd_m / np.sqrt(abs(first.transform.determinant))  # metres per unit; near enough for a range
    places, codes = [], []
    for tile in chosen:
        assert tile.grid is not None
        t, x, y = tile.grid.transform, tile.points[:, 0] + 0.5, tile.points[:, 1] + 0.5
        places.append(np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=1) * scale)
        codes.append(tile.points[:, 2])
    return _from_points(np.concatenate(places), np.concatenate(codes), first.gsd_m)


def _from_points(places: Floats, codes: NDArray[np.int64], pixel_m: float) -> Variogram | None:
    values, index = np.unique(codes, return_inverse=True)
    farthest = float(np.linalg.norm(np.ptp(places, axis=0))) / 2
    if farthest <= pixel_m or len(values) < 2:
        return None
    edges = np.geomspace(pixel_m * 0.999, farthest, _BINS + 1)
    pairs, total = np.zeros(_BINS), np.zeros(_BINS)
    ends, alike = np.zeros((_BINS, len(values))), np.zeros((_BINS, len(values)))
    for number in range(len(places) - 1):
        apart = np.linalg.norm(places[number + 1 :] - places[number], axis=1)
        inside = (apart > 0) & (apart < farthest)
        bins = np.clip(np.searchsorted(edges, apart[inside], side="right") - 1, 0, _BINS - 1)
        theirs, ours = index[number + 1 :][inside], index[number]
        count = np.bincount(bins, minlength=_BINS)
        pairs += count
        total += np.bincount(bins, apart[inside], _BINS)
        ends[:, ours] += count
        ends += np.bincount(bins * len(values) + theirs, minlength=ends.size).reshape(ends.shape)
        alike[:, ours] += np.bincount(bins[theirs == ours], minlength=_BINS)
    enough = pairs >= _FEW
    if not enough.any():
        return None
    pairs, total, ends, alike = pairs[enough, None], total[enough], ends[enough], alike[enough]
    gamma = (ends - 2 * alike) / pairs / 2
    share = np.bincount(index) / len(index)
    sill = share * (1 - share)
    left = 1 - gamma / sill
    return Variogram(total / pairs[:, 0], {int(code): left[:, i] for i, code in enumerate(values)})
