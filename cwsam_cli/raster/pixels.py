"""Read pixels, with every way a raster can say "no data" understood.

A pixel is nodata where a mask band, an alpha band or a `.msk` file says so, where any of
the bands that are read is NaN or infinite, and where they hold the nodata value: any of them
in floats and if the value is negative, all of them otherwise. A 0 in one band of bytes is a
dark pixel.
"""

from collections.abc import Sequence

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window


def read_image(
    dataset: rasterio.DatasetReader, bands: Sequence[int], window: Window, *, alpha: int | None = None
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Read bands (C, H, W) of an open raster in its own dtype, and where they are valid (H, W).

    A pixel without a value in any of these bands is not valid; see the module's text for nodata values.

    Args:
        dataset: an open raster.
        bands: counted from 1.
        window: what to read.
        alpha: the band that hides pixels, 0 for none; None is one tagged so that is not among the bands.
    """
    image = read_bands(dataset, bands, window)
    if alpha is None:
        alpha = next((band for band in tagged_alpha(dataset) if band not in bands), 0)
    valid = read_valid(dataset, bands, window, alpha, image=image)
    if np.issubdtype(image.dtype, np.floating):
        valid &= np.isfinite(image).all(axis=0)
    return image, valid


def read_bands(
    dataset: rasterio.DatasetReader, bands: Sequence[int], window: Window, shape: tuple[int, int] | None = None
) -> NDArray[np.generic]:
    """Read bands (C, H, W) in their own dtype, or in a common one if they differ.

    Args:
        dataset: an open raster.
        bands: counted from 1.
        window: what to read.
        shape: rows and columns of the result; None is the window's.
    """
    if len({dataset.dtypes[band - 1] for band in bands}) == 1:
        return np.asarray(dataset.read(bands, window=window, out_shape=shape and (len(bands), *shape)))
    # rasterio reads bands of one dtype only
    return np.stack([dataset.read(band, window=window, out_shape=shape) for band in bands])


def read_valid(
    dataset: rasterio.DatasetReader,
    bands: Sequence[int],
    window: Window,
    alpha: int,
    shape: tuple[int, int] | None = None,
    *,
    image: NDArray[np.generic] | None = None,
) -> NDArray[np.bool_]:
    """Read where a mask, alpha or the nodata value hides no pixel (H, W). NaN and infinity are not looked for.

    Args:
        dataset: an open raster.
        bands: counted from 1.
        window: what to read.
        alpha: the band that hides pixels, counted from 1; 0 for none.
        shape: rows and columns of the result; None is the window's.
        image: the bands' pixels (C, H, W) if they have been read, because GDAL's masks of nodata values take longer.
    """
    flags = dataset.mask_flag_enums
    telling = [band for band in bands if MaskFlags.nodata in flags[band - 1]]
    if telling:
        nodata = [dataset.nodatavals[band - 1] for band in telling]
        is_small = image is not None and image.dtype.kind in "iu" and image.dtype.itemsize <= 4
        if image is not None and is_small and all(float(value).is_integer() for value in nodata):
            pairs = zip(telling, nodata, strict=True)
            masks = np.stack([image[bands.index(band)] != int(value) for band, value in pairs])
        else:
            masks = dataset.read_masks(telling, window=window, out_shape=shape and (len(telling), *shape)) > 0
        floats = any(np.issubdtype(dataset.dtypes[band - 1], np.floating) for band in telling)
        any_band = floats or min(nodata) < 0  # 0 or 255 may be brightness
        valid = masks.all(axis=0) if any_band else masks.any(axis=0)
    elif MaskFlags.per_dataset in flags[bands[0] - 1] and MaskFlags.alpha not in flags[bands[0] - 1]:
        valid = dataset.read_masks(bands[0], window=window, out_shape=shape) > 0
    else:
        valid = np.ones(shape or (int(window.height), int(window.width)), bool)
    if alpha:  # GDAL itself takes it for a mask only beside one or three bands
        valid &= dataset.read(alpha, window=window, out_shape=shape) > 0
    return np.asarray(valid)


def tagged_alpha(dataset: rasterio.DatasetReader) -> list[int]:
    """Return the bands tagged alpha, counted from 1."""
    return [band for band, kind in enumerate(dataset.colorinterp, start=1) if kind == ColorInterp.alpha]
