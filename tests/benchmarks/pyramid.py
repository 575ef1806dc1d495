"""A network that `far_ground.py` measures beside `sam_tiny`: a pyramid of convolutions under the class-wise decoder.

# B batch, C bands, K classes, S side in pixels, E width of tokens and decoder

Convolutions at full, half and quarter resolution, tokens at an eighth, three transformer blocks without learnt place,
the two-way transformer with class tokens, and the way back with skips. The products with the class tokens are taken at
full resolution. With batch norms its gradients depend on how a batch is divided among processes.
"""

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.config.load import load_config
from cwsam_cli.model.decoder import HyperMLP, PositionCode, TwoWayTransformer
from cwsam_cli.model.encoder import Block, LayerNorm2d
from cwsam_cli.model.variants import architecture

Norm = Callable[[int], nn.Module]


class Pyramid(nn.Module):
    """The network.

    Args:
        bands: number of bands.
        classes: number of classes.
        width: channels at full resolution.
        dim: width of tokens and decoder.
        norm: makes the norm of some channels.
        twice: whether a norm follows each convolution, not every second one.
        has_classes: whether class tokens and the two-way transformer make the logits, not a convolution.
    """

    def __init__(
        self,
        bands: int,
        classes: int,
        width: int = 16,
        dim: int = 128,
        norm: Norm = LayerNorm2d,
        *,
        twice: bool = False,
        has_classes: bool = True,
    ) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        arch = dataclasses.replace(
            architecture(load_config("tiny").model, num_bands=bands, num_classes=classes),
            embed_dim=dim,
            num_heads=4,
            depth=3,
            global_attn_indexes=(2,),
            moe_num_expert_groups=0,
            prompt_embed_dim=dim,
            decoder_mlp_dim=4 * dim,
        )
        self.downs = nn.ModuleList(_double(into, out, norm, twice=twice) for into, out in pairwise([bands, *widths]))
        self.embed = nn.Conv2d(widths[-1], dim, 2, stride=2)
        self.blocks = nn.ModuleList(Block(arch, index) for index in range(arch.depth))
        self.neck = nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), LayerNorm2d(dim))
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(into, out, 2, stride=2) for into, out in pairwise([dim, *widths[::-1]])
        )
        self.joins = nn.ModuleList(_double(2 * out, out, norm, twice=twice) for out in widths[::-1])
        self.has_classes = has_classes
        if has_classes:
            self.tokens = nn.Embedding(classes, dim)
            self.place = PositionCode(dim)
            self.transformer = TwoWayTransformer(arch)
            self.hypernetwork = HyperMLP(dim, width)
        else:
            self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, S, S) → logits (B, K, S, S)."""
        x = image.contiguous(memory_format=torch.channels_last)
        levels: list[Tensor] = []
        for down in self.downs:
            x = down(F.max_pool2d(x, 2) if levels else x)
            levels.append(x)
        x = self.embed(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        x = self.neck(x.permute(0, 3, 1, 2))
        if self.has_classes:
            height, width = x.shape[-2:]
            tokens = self.tokens.weight.expand(len(x), -1, -1)
            place = self.place(height, width).to(x.dtype)
            tokens, mixed = self.transformer(x.flatten(2).transpose(1, 2), place, tokens)
            x = mixed.transpose(1, 2).unflatten(2, (height, width))
        x = x.contiguous(memory_format=torch.channels_last)
        for up, join, level in zip(self.ups, self.joins, levels[::-1], strict=True):
            x = join(torch.cat([level, up(x)], dim=1))
        return torch.einsum("bkc,bchw->bkhw", self.hypernetwork(tokens), x) if self.has_classes else self.head(x)


def _double(into: int, out: int, norm: Norm, *, twice: bool) -> nn.Sequential:
    between = [norm(out)] if twice else []
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1, bias=not twice),
        *between,
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        norm(out),
        nn.ReLU(inplace=True),
    )
