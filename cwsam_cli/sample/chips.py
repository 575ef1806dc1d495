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
from cwsam_cli.raster.scene import Scene, open_scene, reading

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_SIDE = 65
"""Pixels per side of a picture; odd, so the point's pixel is in the middle."""
_AROUND = 4
"""Smallest side of a picture in sides of a block."""
_ZOOM = 6
_TOUCH = 1e-6  # of a pixel; an edge that touches a pixel does not cover it
_OUTLINE = (255, 235, 59)
_OVERVIEW = 1024


def write_chips(image: Path, points: "GeoDataFrame", folder: Path) -> None:
    """Write `<id>.png` for each unit: the image around it, and the outline of its pixel or block in the middle.

    Args:
        image: the image, in any CRS.
        points: points or outlines of blocks, with a field `id`.
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
        boxes = _boxes(scene, placed)
        for number, box in track(
            zip(points["id"].tolist(), boxes, strict=True), "chips", total=len(points), unit="chip"
        ):
            side = max(_SIDE, _AROUND * max(box[2] - box[0], box[3] - box[1]) | 1)
            left, top = ((box[axis] + box[axis + 2]) // 2 - side // 2 for axis in (0, 1))
            window = Window(left, top, side, side)
            with reading(image):
                values = scene.dataset.read(bands, window=window, boundless=True, fill_value=0).astype(np.float32)
            outline = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
            _draw((values - low) / (high - low), outline).save(made / f"{number}.png")


def _boxes(scene: Scene, placed: "GeoDataFrame") -> list[tuple[int, int, int, int]]:
    """Return the pixels of the image that each unit covers: left, top, and the first ones beyond on both axes."""
    left, low, right, high = placed.geometry.bounds.to_numpy().T
    corners = [~scene.grid.transform @ corner for corner in ((left, high), (right, low))]
    first, last = (np.stack(corner, axis=1) for corner in corners)
    starts = np.floor(np.minimum(first, last) + _TOUCH).astype(int)
    ends = np.maximum(np.ceil(np.maximum(first, last) - _TOUCH).astype(int), starts + 1)
    return [(*start, *end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _stretch(scene: Scene) -> tuple[list[int], NDArray[np.float32], NDArray[np.float32]]:
    """Return three bands, and their 2nd and 98th percentiles over the whole image, (3, 1, 1) each."""
    names = list(scene.band_names)
    if {"red", "green", "blue"} <= set(names):
        bands = [scene.bands[names.index(name)] for name in ("red", "green", "blue")]
    else:
        bands = list(scene.bands[2::-1]) if len(scene.bands) >= 3 else [scene.bands[0]] * 3
    scale = min(1.0, _OVERVIEW / max(scene.grid.width, scene.grid.height))
    shape = (3, max(1, int(scene.grid.height * scale)), max(1, int(scene.grid.width * scale)))
    with reading(scene.path):
        small = scene.dataset.read(bands, out_shape=shape, masked=True).astype(np.float32).filled(np.nan)
    low, high = np.nanpercentile(small.reshape(3, -1), (2, 98), axis=1)
    return bands, low[:, None, None], np.maximum(high, low + 1e-6)[:, None, None]


def _draw(brightness: NDArray[np.float32], box: tuple[int, int, int, int]) -> Image.Image:
    pixels = (np.nan_to_num(brightness).clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    zoom = max(1, _SIDE * _ZOOM // len(pixels))
    picture = Image.fromarray(pixels).resize((len(pixels) * zoom,) * 2, Image.Resampling.NEAREST)
    left, top, right, bottom = (edge * zoom for edge in box)
    ImageDraw.Draw(picture).rectangle((left - 1, top - 1, right, bottom), outline=_OUTLINE)
    return picture
