"""Parameter-efficient tuning: bottleneck adapters and a frequency prompt.

# B batch, C bands, S pixels a side, H W patches, D width, r = D/32

Their last layers start at zero, so that at the start the encoder is exactly Segment
Anything's. Source: Houlsby et al. 2019 (adapters); Liu et al., Explicit Visual Prompting,
2023 (prompts).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BOTTLENECK = 4
PROMPT_REDUCTION = 32
MLP_SCALE = 0.5
"""How much the adapter beside the MLP counts."""


class Adapter(nn.Module):
    """D → D/4 → D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, dim // BOTTLENECK)
        self.up = nn.Linear(dim // BOTTLENECK, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D), 0 at the start."""
        return self.up(F.gelu(self.down(x)))


class FrequencyPrompt(nn.Module):
    """What is added before each block: the image's low frequencies and its patch tokens, seen through a narrow layer.

    Args:
        bands: C.
        dim: D.
        depth: blocks.
        patch: pixels a side of a patch.
        share: of the spectrum's area that is kept around its centre.
    """

    def __init__(self, bands: int, dim: int, depth: int, patch: int, share: float) -> None:
        super().__init__()
        narrow = dim // PROMPT_REDUCTION
        self.share = share
        self.spectrum = nn.Conv2d(bands, narrow, patch, stride=patch)
        self.embedding = nn.Linear(dim, narrow)
        self.layers = nn.ModuleList(nn.Linear(narrow, narrow) for _ in range(depth))
        self.shared = nn.Linear(narrow, dim)
        nn.init.zeros_(self.shared.weight)
        nn.init.zeros_(self.shared.bias)

    def forward(self, image: Tensor, tokens: Tensor) -> Callable[[int], Tensor]:
        """Image (B, C, S, S) and patch tokens (B, H, W, D) → each block's prompt (B, H, W, D), 0 at the start."""
        low = self.spectrum(low_frequencies(image, self.share))
        start = low.permute(0, 2, 3, 1) + self.embedding(tokens)  # (B, H, W, r)
        return lambda block: self.shared(F.gelu(self.layers[block](start)))


def low_frequencies(image: Tensor, share: float) -> Tensor:
    """The centred square of the shifted spectrum, √share of the side, back in pixels.

    In float32 even under autocast: half precision has no Fourier transform on every device.

    Args:
        image: (B, C, S, S).
        share: 0 to 1, of the spectrum's area.
    """
    if not len(image):  # MKL refuses an empty batch, which a process without samples has
        return image
    with torch.autocast(image.device.type, enabled=False):
        spectrum = torch.fft.fftshift(torch.fft.fft2(image.float()), dim=(-2, -1))
        keep = torch.zeros(image.shape[-2:], device=image.device)
        height, width = (round(share**0.5 * side) for side in image.shape[-2:])
        top, left = image.shape[-2] // 2 - height // 2, image.shape[-1] // 2 - width // 2
        keep[top : top + height, left : left + width] = 1
        return torch.fft.ifft2(torch.fft.ifftshift(spectrum * keep, dim=(-2, -1))).real
