"""A scene is compared with a model's bands from a small sample of its pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cwsam_cli.dataset.fit import find_doubts, find_misfits, find_shifts
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.radiometry import own_bands, sample
from cwsam_cli.raster.scene import Scene, open_scene

MakeRaster = Callable[..., Path]
BANDS = (Band(name="red", mean=100.0, std=10.0), Band(name="nir", mean=50.0, std=5.0))


@pytest.mark.parametrize(("blocks", "share"), [((256, 256), 0.05), ((512, 512), 0.08), ((1, 4096), 0.05)])
def test_a_sample_reads_a_small_share_of_a_large_scene(
    make_raster: MakeRaster, monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, int], share: float
) -> None:
    layout = {"blockysize": blocks[0]} if blocks[0] == 1 else {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if blocks[0] > 1:
        layout |= {"blockxsize": blocks[1], "blockysize": blocks[0]}
    values = np.zeros((1, 4096, 4096), np.uint8)
    values[:, 1500:2500] = 7
    path = make_raster("scene.tif", values, compress="deflate", **layout)
    reads, read = [], Scene.read

    def spy(self: Scene, window: Any) -> Any:
        reads.append(window)
        return read(self, window)

    monkeypatch.setattr(Scene, "read", spy)
    with open_scene(path) as scene:
        found = sample(scene)
    assert set(np.unique(found)) == {0, 7}
    assert sum(window.width * window.height for window in reads) < share * 4096**2
    assert found.shape[1] <= len(reads) << 16


def test_a_sample_reads_a_part_of_a_block_that_is_too_large(
    make_raster: MakeRaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_raster("scene.tif", np.ones((1, 3008, 3008), np.uint8), tiled=True, blockxsize=3008, blockysize=3008)
    with open_scene(path) as scene:
        assert scene.dataset.block_shapes == [(3008, 3008)]
        found = sample(scene)
    assert 0 < found.shape[1] <= 1 << 16


def test_a_sample_holds_valid_pixels_only(make_raster: MakeRaster) -> None:
    values = np.full((2, 50, 70), 9, np.uint8)
    values[:, :40] = 0
    with open_scene(make_raster("scene.tif", values, nodata=0)) as scene:
        found = sample(scene)
    assert found.shape == (2, 700) and (found == 9).all()


def test_a_sample_goes_on_until_it_finds_valid_pixels(make_raster: MakeRaster) -> None:
    values = np.zeros((1, 4096, 4096), np.uint8)
    values[:, :, 3500:] = 9
    path = make_raster("edge.tif", values, nodata=0, compress="deflate", tiled=True, blockxsize=1024, blockysize=1024)
    with open_scene(path) as scene:
        found = sample(scene)
    assert found.size and (found == 9).all()


@pytest.mark.parametrize(
    ("values", "dtype", "gsd_m", "words"),
    [
        ((110, 40), "uint8", 30.0, ()),
        ((110, 40), "uint8", None, ()),
        ((110, 40), "uint8", 10.0, ("pixels of 30 m, the set has 10 m: resample",)),
        ((110, 40), "uint16", 30.0, ("uint8 values, the set has uint16",)),
        ((11, 40), "uint8", 30.0, ("band red is about 11, the set has 100 ± 10",)),
    ],
)
def test_other_values_are_named(
    make_raster: MakeRaster, values: tuple[int, int], dtype: str, gsd_m: float | None, words: tuple[str, ...]
) -> None:
    image = np.stack([np.full((16, 16), value, np.uint8) for value in values])
    with open_scene(make_raster("scene.tif", image)) as scene:
        found = find_misfits(scene, sample(scene), BANDS, dtype, gsd_m, than="the set has", advice="resample")
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))


def test_bands_by_position_and_a_missing_crs_are_doubts(make_raster: MakeRaster) -> None:
    path = make_raster("scene.tif", np.ones((2, 16, 16), np.uint8), crs=None)
    with open_scene(path) as scene:
        assert [text.count("by position") for text in find_doubts(scene, ["red", "nir"])] == [1, 0]
        assert len(find_doubts(scene, ["red", "nir"], bands_chosen=True)) == 1


@pytest.mark.parametrize(
    ("values", "named"),
    [((108, 46), ""), ((115, 49), "red by +1.5"), ((85, 59), "red by -1.5, nir by +1.8"), ((5, 50), "")],
)
def test_brighter_and_darker_bands_are_named_before_they_are_of_another_scale(
    make_raster: MakeRaster, values: tuple[int, int], named: str
) -> None:
    image = np.stack([np.full((16, 16), value, np.uint8) for value in values])
    with open_scene(make_raster("scene.tif", image)) as scene:
        found = find_shifts(scene, sample(scene), BANDS, than="the set has", advice="look again")
    assert len(found) == bool(named)
    assert all(f"the set has ({named} standard deviations)" in text and text.endswith("look again") for text in found)


def test_a_scenes_own_bands_give_it_mean_0_and_standard_deviation_1(make_raster: MakeRaster) -> None:
    image = np.random.default_rng(0).integers(1, 200, (2, 40, 50)).astype(np.uint8)
    image[:, :7] = 0
    with open_scene(make_raster("scene.tif", image, nodata=0)) as scene:
        bands = own_bands(sample(scene), BANDS)
    assert [band.name for band in bands] == ["red", "nir"]
    for band, values in zip(bands, image[:, 7:], strict=True):
        scaled = (values - band.mean) / band.std
        assert abs(scaled.mean()) < 1e-6 and scaled.std() == pytest.approx(1)


def test_a_constant_band_has_a_standard_deviation_of_1_and_an_empty_one_keeps_its_figures(
    make_raster: MakeRaster,
) -> None:
    with open_scene(make_raster("flat.tif", np.full((2, 16, 16), 9, np.uint8))) as scene:
        assert [(band.mean, band.std) for band in own_bands(sample(scene), BANDS)] == [(9.0, 1.0)] * 2
    with open_scene(make_raster("empty.tif", np.zeros((2, 16, 16), np.uint8), nodata=0)) as scene:
        assert own_bands(sample(scene), BANDS) == BANDS
