"""With `--normalize scene` a scene is mapped alike whatever the light, the season's mean or the sensor's scale."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from typer.testing import Result

from tests.cli.conftest import striped

Cwsam = Callable[..., Result]
PLACE = from_origin(600_000, 4_000_000, 30, 30)
GAIN, OFFSET = np.array([1.5, 0.6, 1.1]), np.array([200.0, -190.0, 10.0])


def codes(path: Path | str) -> NDArray[np.uint8]:
    with rasterio.open(path) as source:
        found: NDArray[np.uint8] = source.read(1)
        return found


@pytest.fixture
def picture() -> NDArray[np.float32]:
    image, _ = striped(96, 128)
    return (image + np.random.default_rng(1).normal(0, 4, image.shape)).clip(1, 250).astype(np.float32)


@pytest.fixture
def predict(cwsam: Cwsam, run: Any) -> Callable[..., Result]:
    def to_map(*words: Any) -> Result:
        return cwsam("predict", "-c", run.checkpoint, "--precision", "fp32", *words)

    return to_map


def changed(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return (image * GAIN[:, None, None] + OFFSET[:, None, None]).astype(np.float32)


def test_gain_and_offset_of_bands_do_not_change_the_map(
    predict: Callable[..., Result], make_raster: Any, picture: NDArray[np.float32]
) -> None:
    plain, other = make_raster("plain.tif", picture), make_raster("other.tif", changed(picture))
    told = predict(other, "-o", "training.tif").stderr
    assert "compare the map with that of --normalize scene" in told
    for scene in (plain, other):
        told = predict(scene, "--normalize", "scene", "-o", f"map_{scene.name}").stderr
        assert "--normalize" not in told and "another scale" not in told
    own = codes("map_plain.tif")
    assert len(np.unique(own)) > 1
    assert (codes("map_other.tif") == own).mean() > 0.999
    assert (codes("training.tif") == own).mean() < 0.99


def test_the_map_names_the_figures_and_a_part_uses_those_of_the_whole_scene(
    predict: Callable[..., Result], make_raster: Any, picture: NDArray[np.float32]
) -> None:
    scene = make_raster("scene.tif", changed(picture), transform=PLACE)
    predict(scene, "--normalize", "scene", "-o", "whole.tif")
    bounds = (600_000 + 30 * 64, 4_000_000 - 30 * 96, 600_000 + 30 * 128, 4_000_000)
    predict(scene, "--normalize", "scene", "-o", "part.tif", "--bounds", *bounds)
    np.testing.assert_array_equal(codes("part.tif"), codes("whole.tif")[:, 64:])
    with rasterio.open("whole.tif") as whole, rasterio.open("part.tif") as part:
        assert whole.tags()["CWSAM_NORMALIZATION"] == part.tags()["CWSAM_NORMALIZATION"]
        first = whole.tags()["CWSAM_NORMALIZATION"].split(",")[0].split()
    values = changed(picture)[0]
    assert [float(first[1]), float(first[3])] == pytest.approx([values.mean(), values.std()], rel=1e-4)


def test_each_scene_of_a_mosaic_has_its_own_figures(
    predict: Callable[..., Result], make_raster: Any, picture: NDArray[np.float32]
) -> None:
    east = PLACE * PLACE.translation(64, 0)
    halves = picture[:, :, :80], picture[:, :, 64:]
    left, right = (
        make_raster("left.tif", halves[0], transform=PLACE),
        make_raster("right.tif", halves[1], transform=east),
    )
    dark = make_raster("dark.tif", changed(halves[1]), transform=east)
    for name, scenes in (("same", (left, right)), ("mixed", (left, dark))):
        predict(*scenes, "--mosaic", "--normalize", "scene", "-o", f"{name}.tif")
    assert (codes("mixed.tif") == codes("same.tif")).mean() > 0.999


def test_a_scene_without_valid_pixels_is_told_and_leaves_a_mosaic_as_it_was(
    predict: Callable[..., Result], make_raster: Any, picture: NDArray[np.float32]
) -> None:
    scene = make_raster("scene.tif", picture, transform=PLACE)
    empty = make_raster("empty.tif", np.full_like(picture, np.nan), transform=PLACE)
    predict(scene, "--normalize", "scene", "-o", "alone.tif")
    told = predict(scene, empty, "--mosaic", "--normalize", "scene", "-o", "both.tif").stderr
    assert "has no valid pixel, so --normalize scene uses the training data's statistics" in told
    np.testing.assert_array_equal(codes("both.tif"), codes("alone.tif"))
