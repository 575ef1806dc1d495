"""Parameter-efficient tuning: bottleneck adapters and a frequency prompt.

# B batch, C bands, S side in pixels, H W patches, D width, r = D/32

Their last layers start at zero, so the initial encoder equals Segment Anything's.
Source: Houlsby et al., Parameter-Efficient Transfer Learning, 2019 (adapters); Liu et al.,
Explicit Visual Prompting, 2023 (prompts).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BOTTLENECK = 4
PROMPT_REDUCTION = 32
MLP_SCALE = 0.5
"""Factor on the output of the adapter that is parallel to the MLP."""


class Adapter(nn.Module):
    """Bottleneck adapter D → D/4 → D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, dim // BOTTLENECK)
        self.up = nn.Linear(dim // BOTTLENECK, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (…, D) to (…, D). The initial output is 0."""
        return self.up(F.gelu(self.down(x)))


class FrequencyPrompt(nn.Module):
    """Prompt added before each block, made from the image's low frequencies and its patch tokens.

    Args:
        bands: number of bands C.
        dim: width D of a token.
        depth: number of blocks.
        patch: side of a patch in pixels.
        share: share of the spectrum's area that is kept around its centre, 0 to 1.
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
        """Return a function from the number of a block to its prompt (B, H, W, D). The initial prompts are 0.

        Args:
            image: (B, C, S, S).
            tokens: patch tokens (B, H, W, D).
        """
        low = self.spectrum(low_frequencies(image, self.share))
        start = low.permute(0, 2, 3, 1) + self.embedding(tokens)  # (B, H, W, r)
        return lambda block: self.shared(F.gelu(self.layers[block](start)))


def low_frequencies(image: Tensor, share: float) -> Tensor:
    """Keep the low frequencies of an image: the centred square of its spectrum, √share of the side.

    This runs in float32 even under autocast, because not every device has a Fourier transform in
    half precision.

    Args:
        image: (B, C, S, S).
        share: share of the spectrum's area, 0 to 1.

    Returns:
        Image (B, C, S, S) float32.
    """
    if not len(image):  # a process without samples has an empty batch, which MKL refuses
        return image
    with torch.autocast(image.device.type, enabled=False):
        spectrum = torch.fft.fftshift(torch.fft.fft2(image.float()), dim=(-2, -1))
        keep = torch.zeros(image.shape[-2:], device=image.device)
        height, width = (round(share**0.5 * side) for side in image.shape[-2:])
        top, left = image.shape[-2] // 2 - height // 2, image.shape[-1] // 2 - width // 2
        keep[top : top + height, left : left + width] = 1
        return torch.fft.ifft2(torch.fft.ifftshift(spectrum * keep, dim=(-2, -1))).real
