"""Compare a scene with the pixels that a model was trained on, or that a dataset holds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.raster.scene import Scene

NO_CRS = "`%s` has no coordinate reference system, so the map has none either"
_FAR = 8.0  # standard deviations of the training data
_SHIFTED = 1.0
"""Standard deviations of the training data. Neighbouring ground differs by up to 1.04; most shifts of 1.1 or more harm.
Source: the section on distant ground in tests/benchmarks/README.md."""


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


def find_shifts(
    scene: Scene, values: NDArray[np.float64], bands: Sequence[Band], *, than: str, advice: str
) -> list[str]:
    """Return a sentence if bands are brighter or darker than those of a model or dataset, as other seasons make them.

    Args:
        scene: the scene, with its bands in the order of `bands`.
        values: a sample of its pixels (C, N); see `radiometry.sample`.
        bands: bands of the model or dataset.
        than: words that come before the values of the model or dataset.
        advice: words on what to do.
    """
    shifts = {band.name: shift for band, shift in zip(bands, _shifts(values, bands), strict=True)}
    named = [f"{name} by {shift:+.1f}" for name, shift in shifts.items() if _SHIFTED < abs(shift) <= _FAR]
    if not named:
        return []
    return [
        f"`{scene.path}`: values differ from what {than} ({', '.join(named)} standard deviations), as in another "
        f"season or light, or over other land cover: {advice}"
    ]


def _shifts(values: NDArray[np.float64], bands: Sequence[Band]) -> list[float]:
    """Return the distance of each band's median from the bands' means, in standard deviations; 0 without values."""
    found = []
    for band, own in zip(bands, values, strict=True):
        known = own[np.isfinite(own)]
        found.append(float(np.median(known) - band.mean) / band.std if known.size else 0.0)
    return found


def find_misfits(
    scene: Scene,
    values: NDArray[np.float64],
    bands: Sequence[Band],
    dtype: str,
    gsd_m: float | None,
    *,
    than: str,
    advice: str,
) -> list[str]:
    """Return sentences on the values of a scene that differ from those of a model or dataset.

    Args:
        scene: the scene, with its bands in the order of `bands`.
        values: a sample of its pixels (C, N); see `radiometry.sample`.
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
    for band, shift in zip(bands, _shifts(values, bands), strict=True):
        if abs(shift) > _FAR:
            found.append(
                f"`{path}`: band {band.name} is about {band.mean + shift * band.std:.4g}, {than} "
                f"{band.mean:.4g} ± {band.std:.4g}: values of another scale make a useless map"
            )
    return found
