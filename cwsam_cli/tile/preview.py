"""Draw a contact sheet: some tiles of each split beside their labels, with a legend."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cwsam_cli.dataset.manifest import Manifest
from cwsam_cli.dataset.pairs import find_pairs
from cwsam_cli.files import staged
from cwsam_cli.raster.quicklook import color_classes, compose_panels, stretch_scene
from cwsam_cli.raster.scene import open_raster, open_scene, reading

_ROWS = 6
_SIDE = 128
"""Pixels per side of a drawn tile."""
_GAP = 4


def draw_preview(dataset: Path, manifest: Manifest, output: Path, *, overwrite: bool) -> None:
    """Write a PNG with up to six tiles of each split, evenly chosen.

    Args:
        dataset: the dataset's folder.
        manifest: its description.
        output: path of the PNG.
        overwrite: whether an existing file may be replaced.
    """
    panels = {}
    for split, count in manifest.tiles.items():
        if count:
            pairs = find_pairs(dataset / "images" / split, dataset / "labels" / split)
            chosen = np.unique(np.linspace(0, len(pairs) - 1, _ROWS).round().astype(int))
            panels[split] = _column([_draw_pair(pairs[number], manifest) for number in chosen])
    with staged(output, overwrite=overwrite) as path:
        compose_panels(panels, manifest.taxonomy).save(path, format="PNG")


def _draw_pair(pair: tuple[Path, Path], manifest: Manifest) -> NDArray[np.uint8]:
    """Draw an image beside its label, (side, 2 sides + gap, 3)."""
    image, label = pair
    with open_scene(image) as scene:
        picture = stretch_scene(scene, (scene.grid.height, scene.grid.width))
    with open_raster(label) as dataset, reading(label):
        codes = color_classes(dataset.read(1), manifest.taxonomy)
    gap = np.full((_SIDE, _GAP, 3), 255, np.uint8)
    return np.concatenate([_resized(picture), gap, _resized(codes, Image.Resampling.NEAREST)], axis=1)


def _resized(picture: NDArray[np.uint8], how: Image.Resampling = Image.Resampling.BOX) -> NDArray[np.uint8]:
    how = how if picture.shape[0] > _SIDE else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((_SIDE, _SIDE), how))


def _column(pairs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put pairs below each other; missing ones stay white."""
    height, width = pairs[0].shape[:2]
    column = np.full((_ROWS * (height + _GAP) - _GAP, width, 3), 255, np.uint8)
    for row, pair in enumerate(pairs):
        column[row * (height + _GAP) :][:height] = pair
    return column
