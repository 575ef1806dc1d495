"""Write a picture of the ground around each point of a sample."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio.windows import Window

from cwsam_cli.console import track
from cwsam_cli.errors import DataError
from cwsam_cli.files import staged
from cwsam_cli.raster.scene import Scene, open_scene

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_SIDE = 65
"""Pixels per side of a picture; odd, so the point's pixel is in the middle."""
_ZOOM = 6
_OUTLINE = (255, 235, 59)
_OVERVIEW = 1024


def write_chips(image: Path, points: "GeoDataFrame", folder: Path) -> None:
    """Write `<id>.png` for each point: the image around it, and the outline of the pixel in the middle.

    Args:
        image: the image, in any CRS.
        points: points with a field `id`.
        folder: the folder; it must not exist.

    Raises:
        DataError: the image cannot be read, or has no CRS while the points have one.
    """
    with open_scene(image) as scene, staged(folder, overwrite=False) as made:
        if (scene.grid.crs is None) != (points.crs is None):
            raise DataError(f"`{image}` cannot be placed on the sample: one of them has no CRS", hint="give both a CRS")
        placed = points if scene.grid.crs is None else points.to_crs(scene.grid.crs.to_wkt())
        bands, low, high = _stretch(scene)
        made.mkdir()
        columns, rows = ~scene.grid.transform @ (placed.geometry.x.to_numpy(), placed.geometry.y.to_numpy())
        places = zip(points["id"].tolist(), np.floor(rows), np.floor(columns), strict=True)
        for number, row, column in track(places, "chips", total=len(points), unit="chip"):
            window = Window(int(column) - _SIDE // 2, int(row) - _SIDE // 2, _SIDE, _SIDE)
            values = scene.dataset.read(bands, window=window, boundless=True, fill_value=0).astype(np.float32)
            _draw((values - low) / (high - low)).save(made / f"{number}.png")


def _stretch(scene: Scene) -> tuple[list[int], NDArray[np.float32], NDArray[np.float32]]:
    """Return three bands, and their 2nd and 98th percentiles over the whole image, (3, 1, 1) each."""
    names = list(scene.band_names)
    if {"red", "green", "blue"} <= set(names):
        bands = [scene.bands[names.index(name)] for name in ("red", "green", "blue")]
    else:
        bands = list(scene.bands[2::-1]) if len(scene.bands) >= 3 else [scene.bands[0]] * 3
    scale = min(1.0, _OVERVIEW / max(scene.grid.width, scene.grid.height))
    shape = (3, max(1, int(scene.grid.height * scale)), max(1, int(scene.grid.width * scale)))
    small = scene.dataset.read(bands, out_shape=shape, masked=True).astype(np.float32).filled(np.nan)
    low, high = np.nanpercentile(small.reshape(3, -1), (2, 98), axis=1)
    return bands, low[:, None, None], np.maximum(high, low + 1e-6)[:, None, None]


def _draw(brightness: NDArray[np.float32]) -> Image.Image:
    pixels = (np.nan_to_num(brightness).clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(pixels).resize((_SIDE * _ZOOM, _SIDE * _ZOOM), Image.Resampling.NEAREST)
    start = _SIDE // 2 * _ZOOM
    ImageDraw.Draw(picture).rectangle((start - 1, start - 1, start + _ZOOM, start + _ZOOM), outline=_OUTLINE)
    return picture
