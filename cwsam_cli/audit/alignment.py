"""Estimate by how many pixels labels are shifted against their images.

Neighbouring pixels of different classes are an edge of the labels. If labels lie right, the image changes there more
than elsewhere. We move the label edges over the image by up to 8 pixels, sum the image's local contrast below them, and
take the place of the largest sum. A parabola gives its fraction of a pixel. Horizontal and vertical differences are
compared with each other only, so both lie on the same half pixel and the estimate has no bias.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.audit.tiles import Pair, local_mean, read_pair
from cwsam_cli.console import track

Verdict = Literal["aligned", "shifted", "unknown"]
_Floats = NDArray[np.float64]

_REACH = 8
"""Largest shift in pixels that is looked for."""
_SIDES = 2 * _REACH + 1
_LOCAL = 8
"""Contrast is compared with its mean and spread within so many pixels."""
_CELL = 64
"""Pixels per side of the cells that the bootstrap draws."""
_TILES = 100
"""Most tiles of a scene that are read."""
_POINTS = 5000
"""Most edges in each direction that are used of a tile."""
_FEWEST = 16
"""Fewest cells (or scenes) for a verdict."""
_DRAWS = 200
_CLEAR = 5.0
"""Smallest sum at the peak, in standard errors. Labels of other tiles reached 3.2 in 360 trials of 25 or 49 cells."""
_SURE_PX = 0.5
"""Largest standard error of a shift in each direction."""
_STABLE = 0.95
"""Share of the draws whose peak lies within a pixel of the estimate."""
_USUAL_PX = 0.75
"""Shift that is no finding. Labels of the real scenes that we tried lie 0.5 and 0.7 pixels beside their images."""
_TILE_NAME = re.compile(r"(.+)_r\d{5,}_c\d{5,}")
_COMPASS = ("east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east")
_PICTURE = ("right", "lower right", "bottom", "lower left", "left", "upper left", "top", "upper right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How the labels of a scene lie to its image."""

    scene: str
    """The scene's name; `all` for all tiles together."""
    verdict: Verdict
    right_px: float | None
    """Shift of the labels along the rows of the image; None if it is not known."""
    down_px: float | None
    """Shift of the labels along the columns of the image."""
    error_px: float | None
    """Half of the 95 % interval of the shift's length."""
    text: str
    """The verdict in words."""


def check_alignment(pairs: Sequence[tuple[Path, Path]]) -> tuple[Alignment, ...]:
    """Estimate the shift of each scene's labels, and of all scenes if there are at least 16.

    Tiles whose names are not those of `cwsam tile` count as one scene. Up to 100 tiles of a scene are read.

    Args:
        pairs: images with their labels.

    Raises:
        DataError: a tile is damaged.
    """
    scenes: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    for pair in pairs:
        named = _TILE_NAME.fullmatch(pair[0].stem)
        scenes[named[1] if named else "all"].append(pair)
    found, sums, is_north_up = [], [], True
    for scene, own in track(scenes.items(), "comparing edges", total=len(scenes), unit="scene"):
        parts, is_up = [], True
        for image, label in own[:: -(-len(own) // _TILES)]:
            read = read_pair(image, label)
            parts.append(contrast_below_edges(read))
            is_up &= read.is_north_up
        cells = np.concatenate(parts)
        found.append(judge(scene, cells, is_north_up=is_up))
        sums.append(cells.sum(axis=0))
        is_north_up &= is_up
    if len(scenes) >= _FEWEST:
        found.insert(0, judge("all", np.array(sums), is_north_up=is_north_up))
    return tuple(found)


def contrast_below_edges(pair: Pair) -> _Floats:
    """Return the sum of the image's contrast below the label edges of each cell of a tile, by shift of the edges.

    Args:
        pair: a tile.

    Returns:
        Sums (N, 17, 17) by row and column of the shift, from -8 to 8 pixels. Cells without edges are left out.
    """
    side = min(pair.codes.shape)
    if side < 3 * _REACH:
        return np.zeros((0, _SIDES, _SIDES))
    per_side = max(1, side // _CELL)
    sums = np.zeros((per_side**2, _SIDES, _SIDES))
    for axis in (0, 1):
        first, second = (
            tuple(part if own == axis else slice(None) for own in (0, 1)) for part in (slice(-1), slice(1, None))
        )
        is_known = pair.valid[first] & pair.valid[second]
        contrast = _contrast(np.abs(np.diff(pair.image.astype(np.float32), axis=axis + 1)), is_known)
        edges = (pair.codes[first] != pair.codes[second]) & pair.labelled[first] & pair.labelled[second]
        height, width = edges.shape
        rows, cols = np.nonzero(edges[_REACH : height - _REACH, _REACH : width - _REACH])
        if len(rows) > _POINTS:
            chosen = np.random.default_rng(0).choice(len(rows), _POINTS, replace=False)
            rows, cols = rows[chosen], cols[chosen]
        cells = rows * per_side // height * per_side + cols * per_side // width
        for down in range(_SIDES):
            for right in range(_SIDES):
                sums[:, down, right] += np.bincount(cells, contrast[rows + down, cols + right], per_side**2)
    return np.asarray(sums[(sums != 0).any(axis=(1, 2))])


def _contrast(steps: NDArray[np.float32], is_known: NDArray[np.bool_]) -> _Floats:
    """Return the mean contrast of all bands (H, W), relative to that of its surroundings.

    Args:
        steps: differences of neighbouring pixels (C, H, W).
        is_known: where both have data (H, W).
    """
    steps[:, ~is_known] = 0
    means = steps.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    contrast = (steps / np.maximum(means, 1e-30)).mean(axis=0, dtype=np.float64)
    around = local_mean(contrast, _LOCAL)
    spread = np.sqrt(np.maximum(local_mean(contrast**2, _LOCAL) - around**2, 0))
    floor = 1e-3 * spread.mean() + 1e-30
    return np.where(is_known, (contrast - around) / (spread + floor), 0)


def judge(scene: str, cells: _Floats, *, is_north_up: bool) -> Alignment:
    """Turn sums by shift into a verdict. Their peak is estimated again in 200 random draws of the cells.

    Args:
        scene: the scene's name.
        cells: the result of `contrast_below_edges` (N, 17, 17).
        is_north_up: whether the top of the image is north.
    """
    if len(cells) < _FEWEST:
        return _unknown(scene, "there are too few tiles with label edges")
    cells = _smooth(cells)
    total = cells.sum(axis=0)
    peak = _peak(total)
    draws = np.random.default_rng(0).multinomial(len(cells), np.full(len(cells), 1 / len(cells)), _DRAWS)
    peaks = np.array([_peak(drawn) for drawn in np.tensordot(draws, cells, 1)])
    errors = np.sqrt(((peaks - peak) ** 2).mean(axis=0))
    is_stable = (np.abs(peaks - peak).max(axis=1) <= 1).mean() >= _STABLE and errors.max() <= _SURE_PX
    at_peak = cells.reshape(len(cells), -1)[:, total.argmax()]
    is_clear = at_peak.sum() >= _CLEAR * at_peak.std() * np.sqrt(len(cells)) > 0
    if not is_stable or not is_clear or np.abs(peak).max() > _REACH - 1:
        return _unknown(scene, "the edges of labels and image have too little in common")
    down, right = (-peak).tolist()  # the image's edges lie where label edges have to move
    length = float(np.hypot(right, down))
    error = 1.96 * float(np.hypot(*(peak * errors))) / max(length, 1e-9)
    sides = _COMPASS if is_north_up else _PICTURE
    side = sides[round(np.degrees(np.arctan2(down, right)) / 45) % 8]
    shift = f"{length:.1f} ± {max(error, 0.1):.1f} pixels {'' if is_north_up else 'to the '}{side}"
    is_shifted = length - error > _USUAL_PX
    text = f"labels lie {shift} of the image"
    return Alignment(
        scene=scene,
        verdict="shifted" if is_shifted else "aligned",
        right_px=round(right, 3),
        down_px=round(down, 3),
        error_px=round(error, 3),
        text=text if is_shifted else f"no clear shift: {text}, and up to {_USUAL_PX} pixels are usual",
    )


def _unknown(scene: str, why: str) -> Alignment:
    return Alignment(
        scene=scene, verdict="unknown", right_px=None, down_px=None, error_px=None, text=f"cannot tell: {why}"
    )


def _smooth(cells: _Floats) -> _Floats:
    """Return sums weighted 1, 2, 1 in both directions, so that noise makes no peak."""
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return np.asarray((rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16)


def _peak(sums: _Floats) -> _Floats:
    """Return row and column of the largest sum, as a shift (2,), with the fraction that a parabola gives."""
    row, col = (int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
    found = []
    for place, line in ((row, sums[:, col]), (col, sums[row])):
        fraction = 0.0
        if 0 < place < _SIDES - 1:
            before, at, after = line[place - 1 : place + 2].tolist()
            bend = before - 2 * at + after
            fraction = (before - after) / bend / 2 if bend < 0 else 0.0
        found.append(place - _REACH + fraction)
    return np.array(found)
