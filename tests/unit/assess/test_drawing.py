"""Pictures show the scene's pixels, the labels and the predicted classes where they lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor, nn

from cwsam_cli.assess import drawing
from cwsam_cli.assess.drawing import draw_pictures
from cwsam_cli.assess.places import Places
from cwsam_cli.assess.trained import Trained
from cwsam_cli.config.schema import FolderArgs
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.distributed.world import World
from cwsam_cli.taxonomy import IGNORE, from_names

CLASSES = from_names(["water", "forest", "rock"])
WORLD = World(torch.device("cpu"))


class Oracle(nn.Module):
    """Sees the answer in the first band: its value is the class index plus one."""

    def forward(self, image: Tensor) -> Tensor:
        return -((image[:, :1] - torch.arange(1.0, 4.0).view(1, 3, 1, 1)) ** 2)


@pytest.fixture
def scene(tmp_path: Path, make_raster: Callable[..., Path]) -> tuple[Trained, NDArray[Any]]:
    """Four tiles of 40 pixels that cover a scene of 80, and the scene's class indices."""
    index = np.random.default_rng(0).integers(0, 3, (80, 80))
    for number, (top, left) in enumerate([(0, 0), (0, 40), (40, 0), (40, 40)]):
        own = index[top : top + 40, left : left + 40]
        make_raster(f"images/{number}.tif", np.stack([own + 1] * 3).astype(np.float32))
        make_raster(f"labels/{number}.tif", own.astype(np.uint8))
    args = FolderArgs(root_path_1=str(tmp_path / "images"), root_path_2=str(tmp_path / "labels"))
    bands = tuple(Band(name=name, mean=0.0, std=1.0) for name in ("red", "green", "blue"))
    return Trained(Oracle(), TileDataset(args, CLASSES, bands, 32), CLASSES, None), index


def places(*corners: tuple[int, int], known: bool = True) -> Places:
    windows = tuple(Window(left, top, 40, 40) if known else None for top, left in corners)
    blocks = tuple(map(str, range(len(corners))))
    return Places(scenes=("a/scene.tif",) * len(corners), blocks=blocks, windows=windows, has_blocks=True)


ALL = ((0, 0), (0, 40), (40, 0), (40, 40))
TILES = np.array([[1600, 1500], [1600, 800], [1600, 1600], [10, 0]])


def test_a_scene_is_put_together_from_its_tiles(scene: Any) -> None:
    trained, index = scene
    (picture,) = draw_pictures(trained, WORLD, places(*ALL), TILES, 3).places
    assert picture.title == "scene.tif, 4 of 4 tiles"
    np.testing.assert_array_equal(picture.reference, index)
    np.testing.assert_array_equal(picture.predicted, index)
    assert [picture.image[index == number, 0].mean() for number in range(3)] == [0, 127, 255]
    assert (picture.image[..., 3] == 255).all()


def test_the_least_accurate_tiles_come_first_without_those_that_have_hardly_a_label(scene: Any) -> None:
    trained, index = scene
    worst = draw_pictures(trained, WORLD, places(*ALL), TILES, 3).worst
    assert [picture.title for picture in worst] == [
        "1: 50 % of 1,600 pixels correct",
        "0: 94 % of 1,600 pixels correct",
        "2: 100 % of 1,600 pixels correct",
    ]
    np.testing.assert_array_equal(worst[0].reference, index[:40, 40:])


def test_tiles_of_unknown_place_are_drawn_alone(scene: Any) -> None:
    trained, index = scene
    pictures = draw_pictures(trained, WORLD, places(*ALL, known=False), TILES, 3)
    assert pictures.places == ()
    np.testing.assert_array_equal(pictures.worst[1].reference[:40, :40], index[:40, :40])


def test_ground_without_data_has_no_class_and_is_transparent(scene: Any, make_raster: Any) -> None:
    trained, index = scene
    image = np.stack([index[:40, :40] + 1] * 3).astype(np.float32)
    image[:, :10] = np.nan
    make_raster("images/0.tif", image)
    (picture,) = draw_pictures(trained, WORLD, places(*ALL), TILES, 3).places
    assert (picture.predicted[:10, :40] == IGNORE).all()
    assert (picture.image[:10, :40, 3] == 0).all()
    assert (picture.predicted[10:] != IGNORE).all()


def test_a_scattered_scene_takes_no_more_memory_than_a_picture(scene: Any) -> None:
    trained, _ = scene
    far = ((0, 0), (0, 40), (10_000_000, 0), (10_000_000, 40))
    (picture,) = draw_pictures(trained, WORLD, places(*far), TILES, 3).places
    assert max(picture.reference.shape) <= 640


def test_a_large_place_is_reduced_by_leaving_out_pixels(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, index = scene
    monkeypatch.setattr(drawing, "_LARGEST", 27)
    (picture,) = draw_pictures(trained, WORLD, places(*ALL), TILES, 3).places
    np.testing.assert_array_equal(picture.reference, index[::3, ::3])
    np.testing.assert_array_equal(picture.predicted, index[::3, ::3])


def test_neighbours_of_the_best_labelled_block_are_shown_while_few_samples_are_needed(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, _ = scene
    monkeypatch.setattr(drawing, "_SQUARES", 8)  # two tiles of four samples
    tiles = np.array([[1600, 800], [1601, 800], [1600, 800], [1600, 800]])
    (picture,) = draw_pictures(trained, WORLD, places((900, 900), (0, 40), (600, 600), (0, 0)), tiles, 3).places
    assert picture.title == "scene.tif, 2 of 4 tiles"
    assert picture.reference.shape == (40, 80)
