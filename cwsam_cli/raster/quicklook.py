"""Draw pictures of a map: with its image and reference side by side, or alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from cwsam_cli.files import staged
from cwsam_cli.raster.scene import Scene, open_raster, reading
from cwsam_cli.taxonomy import Taxonomy

_PANEL = 640  # largest width of a panel in pixels
_ALONE = 1280  # largest side of a single map in pixels
_GAP = 16
_TEXT = 15
_PAPER = (255, 255, 255)
_INK = (30, 30, 30)
_EMPTY = (236, 236, 236)


def draw_quicklook(scene: Scene, reference: Path, map_path: Path | None, taxonomy: Taxonomy, output: Path) -> None:
    """Write a PNG: image | reference | map, with the legend of the classes below.

    Args:
        scene: the image, shown in its red, green and blue bands, or in its bands 3, 2 and 1.
        reference: path of the label raster, on any grid.
        map_path: path of the map, on the scene's grid; None leaves its panel out.
        taxonomy: class table with names and colours.
        output: path of the PNG.
    """
    scale = min(1.0, _PANEL / scene.grid.width)
    shape = (max(1, round(scene.grid.height * scale)), max(1, round(scene.grid.width * scale)))
    with open_raster(reference) as dataset, reading(reference), _on_grid_of(scene, dataset) as view:
        truth = view.read(1, out_shape=shape, resampling=Resampling.nearest, masked=True).astype(np.int32).filled(-1)
    panels = {"image": stretch_scene(scene, shape), "reference": color_classes(truth, taxonomy)}
    if map_path is not None:
        with open_raster(map_path) as dataset, reading(map_path):
            mapped = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
        panels["map"] = color_classes(mapped, taxonomy)
    with staged(output, overwrite=True) as path:
        compose_panels(panels, taxonomy).save(path, format="PNG")


def draw_map(map_path: Path, taxonomy: Taxonomy, output: Path, text: Mapping[str, str]) -> None:
    """Write a PNG of a map with its legend.

    Args:
        map_path: path of the map.
        taxonomy: class table with names and colours.
        output: path of the PNG.
        text: texts to store in the PNG, by keyword.
    """
    with open_raster(map_path) as dataset, reading(map_path):
        scale = min(1.0, _ALONE / max(dataset.shape))
        shape = (max(1, round(dataset.height * scale)), max(1, round(dataset.width * scale)))
        mapped = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
    with staged(output, overwrite=True) as path:
        info = PngInfo()
        for keyword, value in text.items():
            info.add_text(keyword, value)
        compose_panels({"": color_classes(mapped, taxonomy)}, taxonomy).save(path, format="PNG", pnginfo=info)


def read_text(picture: Path, keyword: str) -> str | None:
    """Read a text stored in a PNG; None if there is none, or the file is not a PNG."""
    try:
        with Image.open(picture) as opened:
            return opened.info.get(keyword)
    except (OSError, ValueError, Image.DecompressionBombError):  # no such file, or not an image
        return None


def _on_grid_of(scene: Scene, dataset: rasterio.DatasetReader) -> WarpedVRT:
    if scene.grid.crs is None or dataset.crs is None:
        return dataset
    return WarpedVRT(
        dataset,
        crs=scene.grid.crs,
        transform=scene.grid.transform,
        width=scene.grid.width,
        height=scene.grid.height,
        resampling=Resampling.nearest,
    )


def stretch_scene(scene: Scene, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Read three bands of the image, each stretched between its 2nd and 98th percentile."""
    image, known = _read_small(scene, display_bands(scene), shape)
    picture = np.full((*shape, 3), _EMPTY, np.uint8)
    for channel, (low, high) in enumerate(_bright_ranges(image, known)):
        bright = np.clip((image[channel] - low) / max(high - low, 1e-6), 0, 1)
        picture[..., channel] = np.where(known[channel], bright * 255, _EMPTY[channel])
    return picture


def display_bands(scene: Scene) -> tuple[int, int, int]:
    """Return the bands shown as red, green and blue, counted from 1; of one or two bands three times the first."""
    names = list(scene.band_names)
    if {"red", "green", "blue"} <= set(names):
        red, green, blue = (scene.bands[names.index(name)] for name in ("red", "green", "blue"))
    elif len(scene.bands) >= 3:
        blue, green, red = scene.bands[:3]
    else:
        red = green = blue = scene.bands[0]
    return red, green, blue


def display_ranges(scene: Scene, bands: Sequence[int]) -> list[tuple[float, float]]:
    """Return the 2nd and 98th percentile of bands, from a reduced picture; 0 and 1 of a band without data."""
    shape = min(scene.grid.height, _ALONE), min(scene.grid.width, _ALONE)
    return _bright_ranges(*_read_small(scene, bands, shape))


def _read_small(
    scene: Scene, bands: Sequence[int], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read bands (C, *shape), and where they have data."""
    with reading(scene.path):
        image = scene.dataset.read(list(bands), out_shape=(len(bands), *shape), masked=True).astype(np.float32)
    return image.data, ~np.ma.getmaskarray(image) & np.isfinite(image.data)


def _bright_ranges(image: NDArray[np.float32], known: NDArray[np.bool_]) -> list[tuple[float, float]]:
    ranges = []
    for band, has_data in zip(image, known, strict=True):
        low, high = np.percentile(band[has_data], (2, 98)) if has_data.any() else (0.0, 1.0)
        ranges.append((float(low), float(high)))
    return ranges


def color_classes(codes: NDArray[np.generic], taxonomy: Taxonomy) -> NDArray[np.uint8]:
    """Draw class codes (H, W) in the colours of their classes, (H, W, 3)."""
    picture = np.full((*codes.shape, 3), _EMPTY, np.uint8)
    for entry in taxonomy.classes:
        picture[codes == entry.code] = entry.rgb
    return picture


def compose_panels(panels: dict[str, NDArray[np.uint8]], taxonomy: Taxonomy) -> Image.Image:
    """Put pictures of one size beside each other, with their titles above and a legend of the classes below."""
    font = ImageFont.load_default(_TEXT)
    height, width = next(iter(panels.values())).shape[:2]
    whole = len(panels) * (width + _GAP) + _GAP
    line = _TEXT + 8
    places, x, y = [], _GAP, height + 2 * _GAP + line
    for name in taxonomy.names:
        entry_width = int(font.getlength(name)) + 2 * line
        if x > _GAP and x + entry_width > whole:
            x, y = _GAP, y + line
        places.append((x, y))
        x += entry_width
    paper = Image.new("RGB", (whole, y + line + _GAP), _PAPER)
    draw = ImageDraw.Draw(paper)
    for number, (title, panel) in enumerate(panels.items()):
        left = _GAP + number * (width + _GAP)
        draw.text((left, _GAP // 2), title, _INK, font)
        paper.paste(Image.fromarray(panel), (left, _GAP // 2 + line))
    for (x, y), entry in zip(places, taxonomy.classes, strict=True):
        draw.rectangle((x, y + 2, x + _TEXT, y + _TEXT + 2), entry.rgb, _INK)
        draw.text((x + line, y), entry.name, _INK, font)
    return paper
