"""Find the bands that a model reads in a raster, by name or by position."""

import re
from collections.abc import Sequence
from pathlib import Path

import rasterio
from rasterio.enums import ColorInterp

from cwsam_cli.console import ONCE, log
from cwsam_cli.errors import DataError


def band_descriptions(dataset: rasterio.DatasetReader) -> tuple[str | None, ...]:
    """Return the description of each band, None where the file has none; all None if one is not UTF-8."""
    try:
        return tuple(dataset.descriptions)
    except UnicodeDecodeError:
        log.warning("`%s`: the names of its bands are not UTF-8 and are ignored", dataset.name, extra=ONCE)
        return (None,) * dataset.count


def band_names(dataset: rasterio.DatasetReader) -> list[str]:
    """Return a name for each band: its description, else red, green or blue, else `band_1` and so on."""
    colors = {ColorInterp.red, ColorInterp.green, ColorInterp.blue}
    return [
        description or (kind.name if kind in colors else f"band_{i}")
        for i, (description, kind) in enumerate(
            zip(band_descriptions(dataset), dataset.colorinterp, strict=True), start=1
        )
    ]


def is_named(band: str) -> bool:
    """Return whether a band has a real name; `band_3` is a placeholder that we give to bands without one."""
    return re.fullmatch(r"band[ _]?\d+", band.lower()) is None


def band_index(band: str, names: list[str], path: Path | str) -> int:
    """Return the index of a band, counted from 0.

    Args:
        band: its name, or its number counted from 1.
        names: the names of all bands of the file.
        path: the file, for the message.

    Raises:
        DataError: the file has no such band.
    """
    if names.count(band) == 1:
        return names.index(band)
    if band.isdecimal() and 1 <= int(band) <= len(names):
        return int(band) - 1
    raise DataError(
        f"`{path}` has no band `{band}`, only {', '.join(names)}", hint="--bands takes names, or numbers from 1"
    )


def choose_bands(image: list[int], names: list[str], wanted: Sequence[str], path: Path | str) -> list[int]:
    """Return the indices of the bands that a model reads, in the model's order.

    If the file names every wanted band, the bands are chosen by name, else by position.

    Args:
        image: the indices of the image bands.
        names: the names of all bands of the file.
        wanted: the names of the bands of the model or dataset.
        path: the file, for the message.

    Raises:
        DataError: the number of image bands differs from the model's, or the named bands are in another order.
    """
    own = [names[i] for i in image]
    if len(set(wanted)) == len(wanted) and all(is_named(name) and own.count(name) == 1 for name in wanted):
        return [image[own.index(name)] for name in wanted]
    swapped = [
        name for name, place in zip(own, wanted, strict=False) if is_named(name) and name in wanted and name != place
    ]
    if len(image) == len(wanted) and swapped:
        raise DataError(
            f"`{path}` has the bands {', '.join(own)}, but {', '.join(wanted)} are needed",
            hint="name its bands so, or bring them into that order: gdal_translate -b ...",
        )
    if len(image) != len(wanted):
        count = f"{len(image)} image bands" if len(image) > 1 else "1 image band"
        raise DataError(
            f"`{path}` has {count}, but {len(wanted)} are needed: {', '.join(wanted)}",
            hint="name those, in that order: --bands 3,2,1"
            if len(image) > len(wanted)
            else "bands in files of their own become one scene by: gdalbuildvrt -separate scene.vrt ...",
        )
    return image
