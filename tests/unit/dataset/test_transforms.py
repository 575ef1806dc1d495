"""Images and labels change together, and nodata stays nodata."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.transforms import augment, band_statistics, crop_or_pad, normalize
from cwsam_cli.taxonomy import IGNORE

BANDS = (Band(name="a", mean=100.0, std=20.0), Band(name="b", mean=3000.0, std=500.0))
EVERYWHERE = np.ones((2, 3), bool)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- normalize ---


def scale(image: NDArray[Any], valid: NDArray[np.bool_], bands: Sequence[Band]) -> Tensor:
    return normalize(torch.from_numpy(image), torch.from_numpy(valid), *band_statistics(bands))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_bands_come_to_mean_0_and_spread_1(dtype: str) -> None:
    image = np.stack([np.array([[100, 120, 80], [140, 100, 60]]), np.array([[3000] * 3, [3500] * 3])]).astype(dtype)
    scaled = scale(image, EVERYWHERE, BANDS)
    assert scaled.dtype == torch.float32
    expected = [[[0, 1, -1], [2, 0, -2]], [[0, 0, 0], [1, 1, 1]]]
    torch.testing.assert_close(scaled, torch.tensor(expected, dtype=torch.float32))


def test_measured_bands_are_standard_normal_afterwards() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 64)).astype(np.uint8)
    band = Band(name="x", mean=float(image.mean()), std=float(image.std()))
    scaled = scale(image, np.ones((64, 64), bool), [band])
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scaled.std(correction=0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("outlier", [1e30, np.finfo(np.float32).max, 301.0])
def test_outliers_beyond_ten_deviations_say_no_more(outlier: float) -> None:
    image = np.full((2, 2, 3), 100, np.float32)
    image[0, 0, 0], image[0, 1, 1] = outlier, -outlier
    scaled = scale(image, EVERYWHERE, BANDS)
    assert scaled[0, 0, 0] == 10 and scaled[0, 1, 1] == -10
    assert scaled.abs().max() == 10


@pytest.mark.parametrize("value", [0, -9999, np.nan, np.inf])
def test_nodata_becomes_0_whatever_it_was(value: float) -> None:
    image = np.full((2, 2, 3), 140, np.float32)
    image[:, 1, 2] = value
    valid = EVERYWHERE.copy()
    valid[1, 2] = False
    scaled = scale(image, valid, BANDS)
    assert (scaled[:, 1, 2] == 0).all()
    assert (scaled[0, 0] == 2).all()


def test_a_value_that_is_not_finite_becomes_0_even_where_valid() -> None:
    image = np.full((2, 2, 3), 140, np.float64)
    image[0, 0, 0] = np.nan
    assert scale(image, EVERYWHERE, BANDS)[0, 0, 0] == 0


# --- crop_or_pad ---


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    label = torch.arange(height * width).reshape(height, width).to(torch.uint8)
    return torch.stack([label.float() + 1, label.float() * 2 + 1]), label


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 1), (4, 5)])
def test_a_crop_is_that_square_of_both(top: int, left: int) -> None:
    image, label = pair(10, 11)
    cropped, codes = crop_or_pad(image, label, top, left, 6)
    assert torch.equal(cropped, image[:, top : top + 6, left : left + 6])
    assert torch.equal(codes, label[top : top + 6, left : left + 6])


@pytest.mark.parametrize(("height", "width"), [(3, 8), (8, 3), (5, 5), (1, 1)])
def test_what_lies_beyond_a_small_tile_is_nodata_without_label(height: int, width: int) -> None:
    image, label = pair(height, width)
    padded, codes = crop_or_pad(image, label, 0, 0, 8)
    assert padded.shape == (2, 8, 8) and codes.shape == (8, 8)
    assert torch.equal(padded[:, :height, :width], image) and torch.equal(codes[:height, :width], label)
    beyond = torch.ones(8, 8, dtype=torch.bool)
    beyond[:height, :width] = False
    assert (padded[:, beyond] == 0).all() and (codes[beyond] == IGNORE).all()


# --- augment ---


def painted(size: int = 8) -> tuple[Tensor, Tensor]:
    """An image whose every value tells its label; no two pixels have the same."""
    label = torch.randperm(size * size, generator=generator(0)).reshape(size, size).to(torch.uint8)
    return torch.stack([label.float() / 32 - 1.01, label.float() / 64 - 0.501, 2.01 - label.float() / 16]), label


def symmetries(square: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    return [turned for flip in (square, square[:, ::-1]) for turned in (np.rot90(flip, k) for k in range(4))]


def test_image_and_label_turn_together() -> None:
    image, label = painted()
    for seed in range(40):
        changed, codes = augment(image, label, generator(seed))
        assert changed.shape == image.shape and codes.shape == label.shape
        for before, after in zip(image, changed, strict=True):
            # Brightness and contrast are one line a band: where labels lie right, so do all pixels.
            by_label = before.flatten()[label.flatten().argsort()], after.flatten()[codes.flatten().argsort()]
            slope, offset = np.polyfit(*by_label, 1)
            assert slope > 0
            np.testing.assert_allclose(by_label[1], slope * by_label[0] + offset, atol=1e-5)


def test_a_change_is_one_of_the_eight_symmetries_and_each_occurs() -> None:
    image, label = painted()
    possible = [square.tobytes() for square in symmetries(label.numpy())]
    assert len(set(possible)) == 8
    seen = {augment(image, label, generator(seed))[1].numpy().tobytes() for seed in range(120)}
    assert seen == set(possible)


def test_a_change_is_repeatable_by_its_seed() -> None:
    image, label = painted()
    first, second = (augment(image, label, generator(7)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    other = augment(image, label, generator(8))
    assert not torch.equal(first[0], other[0])


def test_nodata_stays_0_and_turns_with_the_image() -> None:
    image, label = painted()
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[1:3, 4:] = True
    image, label = image.masked_fill(hole, 0), label.masked_fill(hole, IGNORE)
    for seed in range(20):
        changed, codes = augment(image, label, generator(seed))
        assert torch.equal((changed == 0).all(dim=0), codes == IGNORE)


def test_brightness_and_contrast_change_within_reason() -> None:
    image, label = painted()
    flat = torch.ones_like(image)
    changed = torch.stack([augment(flat, label, generator(seed))[0][:, 0, 0] for seed in range(300)])
    assert 0.1 < float(changed.std()) < 0.5
    assert float(changed.mean()) == pytest.approx(1, abs=0.1)
    contrast = [float(augment(image, label, generator(seed))[0][0].std() / image[0].std()) for seed in range(300)]
    assert 0.05 < float(np.std(contrast)) < 0.3


def test_the_tile_itself_is_not_changed() -> None:
    image, label = painted()
    kept = image.clone(), label.clone()
    augment(image, label, generator(3))
    assert torch.equal(image, kept[0]) and torch.equal(label, kept[1])
