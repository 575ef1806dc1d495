"""Compare a scene with the pixels that a model was trained on, or that a dataset holds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.raster.scene import Scene

NO_CRS = "`%s` has no coordinate reference system, so the map has none either"
_FAR = 8.0  # standard deviations of the training data
_PLACES = ((0.5, 0.5), (0.1, 0.1), (0.9, 0.9), (0.1, 0.9), (0.9, 0.1), (0.5, 0.1), (0.5, 0.9), (0.1, 0.5), (0.9, 0.5))
"""Where a scene is sampled, as shares of its height and width; the first ones count most."""
_PLACE_PIXELS = 1 << 16  # at each of them: read at least, kept at most
_SAMPLE_PIXELS = 1 << 20  # read in all, or 4 % of a large scene: they are read again for the map


def find_doubts(scene: Scene, wanted: Sequence[str], *, bands_chosen: bool = False) -> list[str]:
    """Return sentences on what a scene does not tell, and what is assumed.

    Args:
        scene: the scene.
        wanted: names of the bands of the model or dataset.
        bands_chosen: whether the user named the scene's bands.
    """
    found = []
    if not bands_chosen and scene.band_names != tuple(wanted):
        numbers = ", ".join(map(str, scene.bands))
        found.append(
            f"`{scene.path}`: bands {numbers} ({', '.join(scene.band_names)}) are taken for {', '.join(wanted)} by "
            "position: if they are in another order, the map is wrong"
        )
    if scene.grid.crs is None:
        found.append(NO_CRS % scene.path)
    return found


def find_misfits(
    scene: Scene, bands: Sequence[Band], dtype: str, gsd_m: float | None, *, than: str, advice: str
) -> list[str]:
    """Return sentences on the values of a scene that differ from those of a model or dataset.

    Args:
        scene: the scene, with its bands in the order of `bands`.
        bands: bands of the model or dataset.
        dtype: its dtype.
        gsd_m: its ground sampling distance in metres per pixel, if it is known.
        than: words that come before the values of the model or dataset.
        advice: words on what to do about another pixel size.
    """
    path, own_m = scene.path, scene.grid.gsd_m
    found = []
    if gsd_m and own_m and not 0.5 <= own_m / gsd_m <= 2:
        found.append(f"`{path}` has pixels of {own_m:.3g} m, {than} {gsd_m:.3g} m: {advice}")
    if scene.dtype != dtype:
        found.append(f"`{path}` holds {scene.dtype} values, {than} {dtype}: check that both have the same scale")
    for band, own in zip(bands, sample(scene), strict=True):
        known = own[np.isfinite(own)]
        if known.size and abs(np.median(known) - band.mean) > _FAR * band.std:
            found.append(
                f"`{path}`: band {band.name} is about {np.median(known):.4g}, {than} "
                f"{band.mean:.4g} ± {band.std:.4g}: values of another scale make a useless map"
            )
    return found


def sample(scene: Scene) -> NDArray[np.float64]:
    """Read values of valid pixels (bands, N): whole blocks of the file, or parts of large ones, at a few places."""
    height, width = scene.grid.height, scene.grid.width
    block = scene.dataset.block_shapes[scene.bands[0] - 1]
    high, wide = min(int(block[0]), height), min(int(block[1]), width)
    high = min(height, -(-_PLACE_PIXELS // (high * wide)) * high)
    count = max(1, max(_SAMPLE_PIXELS, height * width // 25) // (high * wide))
    places = dict.fromkeys((int(y * height) // high * high, int(x * width) // wide * wide) for y, x in _PLACES)
    rows = max(1, min(high, _SAMPLE_PIXELS // wide))
    found = []
    for top, left in list(places)[:count]:
        image, valid = scene.read(Window(left, top, min(wide, width - left), min(rows, height - top)))
        values = image[:, valid]
        found.append(values[:, :: values.shape[1] // _PLACE_PIXELS + 1].astype(np.float64))
    return np.concatenate(found, axis=1)
