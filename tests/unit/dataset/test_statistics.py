"""Statistics are numpy's, whatever the dtype and however the pixels are divided into tiles."""

import numpy as np
import pytest

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.statistics import RunningStats, class_weights


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_running_statistics_equal_those_of_all_valid_pixels_at_once(dtype: str) -> None:
    rng = np.random.default_rng(0)
    stats, seen = RunningStats(), []
    for height, width in ((1, 1), (40, 30), (7, 50), (3, 3)):
        image = (rng.normal(120, 30, (3, height, width)).clip(0, 255) * np.array([[[1]], [[0.5]], [[0.1]]])).astype(
            dtype
        )
        valid = rng.random((height, width)) < 0.7
        stats.add(image, valid)
        seen.append(image[:, valid].astype(np.float64))
    pixels = np.concatenate(seen, axis=1)
    bands = stats.bands(("r", "g", "b"))
    assert [band.name for band in bands] == ["r", "g", "b"]
    assert stats.pixels == pixels.shape[1]
    np.testing.assert_allclose([band.mean for band in bands], pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose([band.std for band in bands], pixels.std(axis=1), rtol=1e-12)
    assert [band.minimum for band in bands] == pixels.min(axis=1).tolist()
    assert [band.maximum for band in bands] == pixels.max(axis=1).tolist()
    percentiles = np.percentile(pixels, (2, 98), axis=1)
    np.testing.assert_allclose([(band.p2, band.p98) for band in bands], percentiles.T, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_parts_that_are_merged_or_stored_give_the_same_figures(dtype: str) -> None:
    rng = np.random.default_rng(1)
    whole, merged = RunningStats(), RunningStats()
    for number in range(4):
        image = rng.normal(90 + 5 * number, 9, (2, 31, 17)).clip(0, 255).astype(dtype)
        valid = rng.random((31, 17)) < 0.9
        part = RunningStats()
        for stats in (whole, part):
            stats.add(image, valid)
        merged.merge(RunningStats.from_arrays(part.to_arrays()))
    assert merged.bands(("a", "b")) == whole.bands(("a", "b"))


def test_tiles_of_different_dtypes_count_together() -> None:
    stats, rng = RunningStats(), np.random.default_rng(2)
    images = [rng.integers(0, 200, (1, 20, 20)).astype(dtype) for dtype in ("uint8", "float32", "int16")]
    for image in images:
        stats.add(image, np.ones((20, 20), bool))
    values = np.concatenate([image.ravel() for image in images]).astype(float)
    (band,) = stats.bands(("x",))
    assert (band.mean, band.std) == pytest.approx((values.mean(), values.std()))
    assert (band.minimum, band.maximum) == (values.min(), values.max())
    assert (band.p2, band.p98) == pytest.approx(np.percentile(values, (2, 98)))


def test_percentiles_of_many_floats_are_those_of_a_sample_of_bounded_size() -> None:
    stats, rng = RunningStats(), np.random.default_rng(3)
    images = rng.normal(0, 1, (12, 1, 512, 512)).astype(np.float32)
    for image in images:
        stats.add(image, np.ones((512, 512), bool))
    (band,) = stats.bands(("x",))
    assert stats.sample.size <= 1 << 21
    assert (band.p2, band.p98) == pytest.approx(np.percentile(images, (2, 98)), abs=0.01)
    assert band.mean == pytest.approx(images.mean(dtype=float), rel=1e-9)


def test_a_small_spread_on_a_large_offset_is_not_lost() -> None:
    values = 1e9 + np.random.default_rng(0).normal(0, 1, (1, 100, 100))
    stats = RunningStats()
    for row in values[0]:
        stats.add(row[None, None], np.ones((1, 100), bool))
    (band,) = stats.bands(("x",))
    assert band.std == pytest.approx(values.std(), rel=1e-6)


def test_invalid_pixels_do_not_count_even_if_they_are_not_numbers() -> None:
    image = np.array([[[1.0, np.nan, 3.0, 1e30]]], np.float32)
    stats = RunningStats()
    stats.add(image, np.array([[True, False, True, False]]))
    assert stats.bands(("x",)) == (Band(name="x", mean=2.0, std=1.0, minimum=1.0, maximum=3.0, p2=1.04, p98=2.96),)


def test_a_tile_without_a_valid_pixel_changes_nothing() -> None:
    stats = RunningStats()
    stats.add(np.full((1, 2, 2), 4, np.uint8), np.array([[True, True], [True, False]]))
    before = stats.bands(("x",))
    stats.add(np.full((1, 2, 2), 200, np.uint8), np.zeros((2, 2), bool))
    assert stats.bands(("x",)) == before


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_band_gets_the_spread_1(value: int) -> None:
    stats = RunningStats()
    stats.add(np.full((1, 5, 5), value, np.uint8), np.ones((5, 5), bool))
    (band,) = stats.bands(("x",))
    assert (band.mean, band.std, band.minimum, band.maximum) == (value, 1.0, value, value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_an_image_without_pixels_changes_nothing(dtype: str) -> None:
    statistics, whole = RunningStats(), np.arange(12).reshape(1, 3, 4).astype(dtype)
    statistics.add(whole, np.ones((3, 4), bool))
    before = statistics.bands(["red"])
    statistics.add(whole[:, 3:, 4:], np.ones((0, 0), bool))
    assert statistics.bands(["red"]) == before


def test_bands_without_any_pixel_stay_as_they_are() -> None:
    assert RunningStats().bands(("a", "b")) == (Band(name="a", mean=0, std=1), Band(name="b", mean=0, std=1))


def test_class_weights_have_mean_1_over_the_pixels() -> None:
    pixels = [900, 90, 10]
    weights = class_weights(pixels)
    assert sum(w * n for w, n in zip(weights, pixels, strict=True)) / sum(pixels) == pytest.approx(1)


def test_class_weights_go_with_one_over_the_square_root_of_the_share() -> None:
    common, rare = class_weights([40_000, 100])
    assert rare / common == pytest.approx(20)


def test_equal_classes_weigh_1_each() -> None:
    assert class_weights([7, 7, 7]) == pytest.approx([1, 1, 1])


def test_a_class_without_pixels_weighs_0_and_leaves_the_others_alone() -> None:
    weights = class_weights([50, 0, 200])
    assert weights[1] == 0
    assert [weights[0], weights[2]] == pytest.approx(class_weights([50, 200]))
