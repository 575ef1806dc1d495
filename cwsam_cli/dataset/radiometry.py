"""The values of a scene, from a sample of its blocks, and bands that are normalised by them.

A sample depends on the file and on how it is read (bands, mask, pixel size), not on the part of it that is mapped:
every window, part and process normalises by the same figures.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.raster.scene import Scene

NO_VALUES = "`%s`: a sample has no valid pixel, so --normalize scene uses the training data's statistics"
_PLACES = 25
_FEWEST = 5  # places, unless blocks are larger than 512 × 512 pixels
_PLACE_PIXELS = 1 << 16  # at each of them: read at least, kept at most
_LARGEST_PLACE = 1 << 20  # pixels, of a part of a large block
_SAMPLE_PIXELS = 1 << 19  # read in all, or 4 % of a large scene: they are read again for the map


def sample(scene: Scene) -> NDArray[np.float64]:
    """Read values of valid pixels (C, N): whole blocks of the file, or parts of large ones, at up to 25 places.

    Places without valid pixels do not count.
    """
    height, width = scene.grid.height, scene.grid.width
    block = scene.dataset.block_shapes[scene.bands[0] - 1]
    high, wide = min(int(block[0]), height), min(int(block[1]), width)
    high = min(height, -(-_PLACE_PIXELS // (high * wide)) * high)
    fewest = _FEWEST if high * wide <= 1 << 18 else 1
    count = max(fewest, max(_SAMPLE_PIXELS, height * width // 25) // (high * wide))
    places = dict.fromkeys(
        (int(_halton(i, 2) * height) // high * high, int(_halton(i, 3) * width) // wide * wide)
        for i in range(1, _PLACES + 1)
    )
    rows = max(1, min(high, _LARGEST_PLACE // wide))
    found: list[NDArray[np.float64]] = []
    for top, left in places:
        image, valid = scene.read(Window(left, top, min(wide, width - left), min(rows, height - top)))
        values = image[:, valid]
        if values.size:
            found.append(values[:, :: values.shape[1] // _PLACE_PIXELS + 1].astype(np.float64))
        if len(found) == count:
            break
    return np.concatenate(found, axis=1) if found else np.empty((len(scene.bands), 0))


def _halton(number: int, base: int) -> float:
    """Return a term of the van der Corput sequence; terms of two bases spread evenly over a square, in any number."""
    found, part = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        part /= base
        found += digit * part
    return found


def own_bands(values: NDArray[np.float64], bands: Sequence[Band]) -> tuple[Band, ...]:
    """Return a model's bands with the mean and standard deviation of a scene instead of the training data's.

    A scene that is normalised by them has the training data's mean and standard deviation in every band.

    Args:
        values: a sample of the scene's pixels (C, N), in the order of `bands`; see `sample`.
        bands: bands of the model. A band without values keeps its figures.
    """
    found = []
    for band, row in zip(bands, values, strict=True):
        known = row[np.isfinite(row)]
        own = replace(band, mean=float(known.mean()), std=float(known.std()) or 1.0) if known.size else band
        found.append(own)
    return tuple(found)
