"""A pyramid of convolutions between image and patches, and the way back to full resolution.

# B batch, C bands, S side in pixels, w = pyramid_width, n levels, E = prompt_embed_dim, H W patches

A patch token cannot say what a single pixel shows, or where inside its patch a road runs. Here every pixel passes
convolutions at full resolution first. Each further level halves the resolution and doubles the channels, and the last
one becomes the tokens. On the way back, each level is joined with the tokens' features, as in a U-Net (Ronneberger et
al. 2015). Group norms (Wu and He 2018) see one image only: several processes and accumulated batches give the same
gradients as one, and an image that is brighter or darker than the training data gives similar features.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.model.variants import Architecture

GROUPS = 4
"""Groups of channels that are normalised together."""


class DoubleConv(nn.Module):
    """Two 3×3 convolutions with one norm; a norm after each would cost 1.1 × the time of a training step."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map features to features of the same size."""
        return self.norm(self.conv2(self.conv1(x).relu())).relu()


class ImagePyramid(nn.Module):
    """Convolutions from an image to levels of half the resolution and twice the channels each."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = [arch.num_bands, *arch.pyramid_widths]
        self.levels = nn.ModuleList(DoubleConv(channels, out) for channels, out in pairwise(widths))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, S, S) to n levels (B, w, S, S), (B, 2w, S/2, S/2) and so on."""
        x = image.contiguous(memory_format=torch.channels_last)  # convolutions on a CPU are 1.3 times as fast
        found: list[Tensor] = []
        for level in self.levels:
            x = level(x if not found else F.max_pool2d(x, 2))
            found.append(x)
        return found


class PyramidJoin(nn.Module):
    """Way back from the decoder's features to full resolution, joined with every level of the pyramid."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = arch.pyramid_widths[::-1]
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(channels, out, 2, stride=2)
            for channels, out in pairwise([arch.prompt_embed_dim, *widths])
        )
        self.joins = nn.ModuleList(DoubleConv(2 * width, width) for width in widths)

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Map features (B, E, H, W) and the levels of a pyramid to features (B, w, S, S)."""
        x = x.contiguous(memory_format=torch.channels_last)
        for up, join, level in zip(self.ups, self.joins, reversed(levels), strict=True):
            x = join(torch.cat([level, up(x)], dim=1))
        return x
