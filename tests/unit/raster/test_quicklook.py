"""One picture: image, reference and map side by side, in the classes' own colours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin

from cwsam_cli.raster.quicklook import draw_quicklook
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy

MakeRaster = Callable[..., Path]

WATER, FOREST, EMPTY = (0, 90, 220), (0, 110, 40), (236, 236, 236)
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=1, name="water", color="#005adc"),
        LandCoverClass(code=5, name="forest", color="#006e28"),
    )
)
GAP = 16  # pixels between panels
TOP = GAP // 2 + 23  # of the panels, below their titles


def brightness(height: int, width: int) -> NDArray[np.uint8]:
    """Red rises to the right, green downwards, blue is even."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([20 + cols, 20 + rows, np.full_like(rows, 90)]).astype(np.uint8)


def halves(height: int, width: int, dtype: str = "uint8") -> NDArray[np.generic]:
    """Water on the left, forest on the right."""
    return np.where(np.arange(width) < width // 2, 1, 5)[None].repeat(height, axis=0).astype(dtype)


def picture(scene: Path, reference: Path, mapped: Path, output: Path) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The PNG's pixels and the size (height, width) of the scene."""
    with open_scene(scene) as opened:
        draw_quicklook(opened, reference, mapped, TAXONOMY, output)
        shape = opened.grid.height, opened.grid.width
    with Image.open(output) as drawn:
        assert drawn.format == "PNG" and drawn.mode == "RGB"
        return np.asarray(drawn), shape


def panel(pixels: NDArray[np.uint8], number: int, height: int, width: int) -> NDArray[np.uint8]:
    left = GAP + number * (width + GAP)
    return pixels[TOP : TOP + height, left : left + width]


def test_the_map_stands_right_of_reference_and_image_in_its_classes_colours(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    mapped = halves(40, 60)
    mapped[:10, :10] = 255
    pixels, (height, width) = picture(
        make_raster("scene.tif", brightness(40, 60)),
        make_raster("label.tif", halves(40, 60)[:, ::-1]),
        make_raster("map.tif", mapped, nodata=255),
        tmp_path / "quicklook.png",
    )
    assert pixels.shape[1] == 3 * (width + GAP) + GAP
    assert pixels.shape[0] > TOP + height + GAP  # the legend stands below
    shown = panel(pixels, 2, height, width)
    assert (shown[12:, :30] == WATER).all() and (shown[:, 30:] == FOREST).all() and (shown[:10, :10] == EMPTY).all()
    reference = panel(pixels, 1, height, width)
    assert (reference[:, :30] == FOREST).all() and (reference[:, 30:] == WATER).all()
    image = panel(pixels, 0, height, width).astype(int)
    assert (np.diff(image[20, :, 0]) >= 0).all() and image[20, -1, 0] - image[20, 0, 0] > 200
    assert abs(image[20, 30, 0] - 128) < 8  # the middle of the scene's brightness is the middle of the picture's
    assert (np.diff(image[:, 20, 1]) >= 0).all() and image[-1, 20, 1] - image[0, 20, 1] > 200


def test_the_legend_shows_every_class(make_raster: MakeRaster, tmp_path: Path) -> None:
    scene, label = (
        make_raster("scene.tif", brightness(20, 80)),
        make_raster("label.tif", np.full((20, 80), 77, "uint8")),
    )
    pixels, (height, _) = picture(scene, label, label, tmp_path / "quicklook.png")
    below = pixels[TOP + height + 1 :].reshape(-1, 3)
    for color in (WATER, FOREST):
        assert (below == color).all(axis=1).sum() >= 100
    above = pixels[: TOP + height].reshape(-1, 3)
    assert not (above == WATER).all(axis=1).any()


def test_a_large_scene_is_shown_small(make_raster: MakeRaster, tmp_path: Path) -> None:
    scene = make_raster("scene.tif", np.full((3, 400, 1280), 9, np.uint8))
    label = make_raster("label.tif", halves(400, 1280))
    pixels, _ = picture(scene, label, label, tmp_path / "quicklook.png")
    assert pixels.shape[1] == 3 * (640 + GAP) + GAP
    shown = panel(pixels, 2, 200, 640)
    assert (shown[:, :319] == WATER).all() and (shown[:, 321:] == FOREST).all()


def test_a_reference_on_another_grid_is_laid_over_the_scene(make_raster: MakeRaster, tmp_path: Path) -> None:
    scene = make_raster("scene.tif", brightness(40, 60))
    coarse = make_raster("coarse.tif", halves(10, 20, "int16"), transform=from_origin(600_000, 4_000_000, 90, 90))
    pixels, (height, width) = picture(scene, coarse, make_raster("map.tif", halves(40, 60)), tmp_path / "q.png")
    reference = panel(pixels, 1, height, width)
    assert (reference[:30, :30] == WATER).all() and (reference[:30, 30:] == FOREST).all()


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_a_scene_of_any_number_of_bands_has_a_picture(make_raster: MakeRaster, tmp_path: Path, bands: int) -> None:
    image = np.stack([brightness(30, 50)[0]] * bands).astype(np.uint16)
    label = make_raster("label.tif", halves(30, 50))
    pixels, (height, width) = picture(make_raster("scene.tif", image), label, label, tmp_path / "q.png")
    shown = panel(pixels, 0, height, width)
    assert (shown[..., 0] == shown[..., 2]).all()
    assert shown[10, -1, 0] > shown[10, 25, 0] > shown[10, 0, 0]


def test_ground_without_data_is_shown_empty(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = brightness(30, 50)
    image[:, :, :10] = 0
    label = make_raster("label.tif", halves(30, 50))
    pixels, (height, width) = picture(make_raster("scene.tif", image, nodata=0), label, label, tmp_path / "q.png")
    shown = panel(pixels, 0, height, width)
    assert (shown[:, :10] == EMPTY).all()
    assert (shown[:, 10:] != EMPTY).any(axis=2).all()


def test_an_older_picture_is_replaced_and_nothing_else_left(make_raster: MakeRaster, tmp_path: Path) -> None:
    scene, label = make_raster("scene.tif", brightness(20, 40)), make_raster("label.tif", halves(20, 40))
    output = tmp_path / "out" / "quicklook.png"
    output.parent.mkdir()
    output.write_text("older")
    picture(scene, label, label, output)
    assert list(output.parent.iterdir()) == [output]
