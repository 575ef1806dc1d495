"""Normalise, crop and augment tiles.

# C bands, S side in pixels
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cwsam_cli.taxonomy import IGNORE

if TYPE_CHECKING:
    from cwsam_cli.dataset.manifest import Band

_LIMIT = 10.0  # standard deviations; outliers are clipped
_BRIGHTNESS = 0.2  # standard deviations
_CONTRAST = 0.15


def band_statistics(bands: "Sequence[Band]", device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each band, (C, 1, 1) each, for `normalize`."""
    mean, std = (torch.tensor(values)[:, None, None] for values in zip(*((b.mean, b.std) for b in bands), strict=True))
    return mean.to(device), std.to(device)


def normalize(image: Tensor, valid: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring each band to mean 0 and standard deviation 1; nodata becomes 0.

    Args:
        image: pixels (…, C, H, W) in the raster's dtype and units; float32 pixels are overwritten.
        valid: mask of valid pixels, (…, H, W).
        mean: mean of each band, (C, 1, 1) float32.
        std: standard deviation of each band, likewise.

    Returns:
        Image (…, C, H, W) float32, clipped to ±10 standard deviations.
    """
    scaled = image.to(torch.float32).sub_(mean).div_(std).nan_to_num_(0.0, 0.0, 0.0).clamp_(-_LIMIT, _LIMIT)
    return scaled.mul_(valid.unsqueeze(-3).to(torch.float32))


def crop_or_pad(image: Tensor, label: Tensor, top: int, left: int, size: int) -> tuple[Tensor, Tensor]:
    """Cut a square that starts at (top, left). Pixels beyond the tile become nodata.

    Args:
        image: normalised image (C, H, W).
        label: class indices (H, W).
        top: first row, in pixels.
        left: first column, in pixels.
        size: side of the square in pixels.

    Returns:
        Image (C, size, size) and label (size, size).
    """
    image = image[:, top : top + size, left : left + size]
    label = label[top : top + size, left : left + size]
    pad_rows, pad_columns = size - label.shape[0], size - label.shape[1]
    if pad_rows or pad_columns:
        image = torch.nn.functional.pad(image, (0, pad_columns, 0, pad_rows))
        label = torch.nn.functional.pad(label, (0, pad_columns, 0, pad_rows), value=IGNORE)
    return image, label


def augment(image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Apply one of the eight flips and quarter turns, and change brightness and contrast.

    Args:
        image: normalised image (C, S, S).
        label: class indices (S, S).
        generator: source of random numbers.

    Returns:
        Image and label of the same shapes. Nodata stays 0.
    """
    turn = int(torch.randint(8, (), generator=generator))
    image, label = torch.rot90(image, turn % 4, (1, 2)), torch.rot90(label, turn % 4, (0, 1))
    if turn >= 4:
        image, label = image.flip(2), label.flip(1)
    nodata = (image == 0).all(dim=0)
    shift = torch.randn(1, generator=generator) + torch.randn(len(image), generator=generator) / 2
    gain = 1 + _CONTRAST * torch.randn(1, generator=generator)
    image = image * gain + _BRIGHTNESS * shift[:, None, None]
    return image.masked_fill(nodata, 0.0).contiguous(), label.contiguous()
