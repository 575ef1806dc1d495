"""The class-wise mask decoder: one token per class attends to the image.

# B batch, K classes, T image tokens, E = prompt_embed_dim, H W patches

This is Segment Anything's mask decoder with class tokens in place of its mask tokens, and
without prompts. Class and image tokens pass the two-way transformer together. One hypernetwork,
shared by all classes, turns each class token into E/8 weights. The logits are the products of
these weights with the upscaled image features.
"""

import math

import torch
from torch import Tensor, nn

from cwsam_cli.model.encoder import MLP, LayerNorm2d
from cwsam_cli.model.experts import HierarchicalExperts
from cwsam_cli.model.variants import Architecture

DEPTH = 2
HEADS = 8
DOWNSAMPLE = 2  # cross-attention uses half the width


class DecoderAttention(nn.Module):
    """Multi-head attention with an optional smaller inner width."""

    def __init__(self, dim: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from queries (B, Tq, E) to keys and values (B, Tk, E): (B, Tq, E)."""
        heads = [
            projected.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for projected in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        ]
        if len(q):
            mixed = nn.functional.scaled_dot_product_attention(*heads)
        else:  # some of torch's kernels refuse an empty batch
            mixed = heads[0] @ heads[1].transpose(-2, -1) @ heads[2]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Layer in which tokens attend to themselves and to the image, and the image attends to the tokens.

    Args:
        arch: architecture of the model.
        first: whether this is the first layer, in which self-attention adds no position code.
    """

    def __init__(self, arch: Architecture, *, first: bool) -> None:
        super().__init__()
        dim = arch.prompt_embed_dim
        self.first = first
        self.self_attn = DecoderAttention(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = DecoderAttention(dim, DOWNSAMPLE)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp: nn.Module
        if arch.moe_decoder_experts:
            self.mlp = HierarchicalExperts(
                dim,
                arch.decoder_mlp_dim,
                groups=1,
                experts=arch.moe_decoder_experts,
                top_groups=1,
                top_experts=arch.moe_decoder_k_experts,
                noisy=arch.moe_noisy_gating,
                activation=nn.functional.relu,
            )
        else:
            self.mlp = MLP(dim, arch.decoder_mlp_dim, activation=nn.functional.relu)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = DecoderAttention(dim, DOWNSAMPLE)

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Update the class tokens (B, K, E) and the image tokens (B, T, E). The others are their position codes."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            asked = tokens + token_pe
            tokens = tokens + self.self_attn(asked, asked, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Segment Anything's two-way transformer."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dim = arch.prompt_embed_dim
        self.layers = nn.ModuleList(TwoWayBlock(arch, first=index == 0) for index in range(DEPTH))
        self.final_attn_token_to_image = DecoderAttention(dim, DOWNSAMPLE)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the updated class tokens (B, K, E) and image tokens (B, T, E)."""
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image


class PositionCode(nn.Module):
    """Position code of a patch: random Fourier features of its coordinates."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """Return the codes of a grid of patches, (T, E)."""
        matrix = self.positional_encoding_gaussian_matrix
        rows = (torch.arange(height, device=matrix.device) + 0.5) / height
        cols = (torch.arange(width, device=matrix.device) + 0.5) / width
        y, x = torch.meshgrid(rows, cols, indexing="ij")
        angles = 2 * math.pi * ((2 * torch.stack([x, y], dim=-1) - 1).to(matrix.dtype) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(0, 1)


class HyperMLP(nn.Module):
    """Hypernetwork of three linear layers, from a class token to the weights of its logits."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, K, E) to weights (B, K, E/8)."""
        for layer in list(self.layers)[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class ResidualConv(nn.Module):
    """Residual convolution with a norm before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features to features of the same shape."""
        return x + self.conv(nn.functional.gelu(self.norm(x)))


class DetailStem(nn.Module):
    """Convolutions on the image that add detail to the upscaled features.

    A patch token cannot say where inside its patch a road runs. Three convolutions on the image,
    at the resolution of the logits, can. A fourth one sees the sum of both.
    """

    def __init__(self, bands: int, channels: int, stride: int) -> None:
        super().__init__()
        kernel = stride + 1 + stride % 2  # odd, and larger than the stride
        self.reduce = nn.Conv2d(bands, channels, kernel, stride=stride, padding=kernel // 2)
        self.refine = nn.Sequential(ResidualConv(channels), ResidualConv(channels))
        self.join = ResidualConv(channels)

    def forward(self, image: Tensor, upscaled: Tensor) -> Tensor:
        """Add the detail of the image (B, C, S, S) to features (B, E/8, 4H, 4W)."""
        return self.join(upscaled + self.refine(self.reduce(image)))


class ClassWiseMaskDecoder(nn.Module):
    """Decoder from image features to logits per class, at four times the resolution of the patches."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dim = arch.prompt_embed_dim
        self.class_tokens = nn.Embedding(arch.num_classes, dim)
        self.pe_layer = PositionCode(dim)
        self.transformer = TwoWayTransformer(arch)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.class_hypernetwork = HyperMLP(dim, dim // 8)
        self.detail_stem = DetailStem(arch.num_bands, dim // 8, arch.patch_size // 4) if arch.detail_stem else None

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """Map features (B, E, H, W) of an image (B, C, S, S) to logits (B, K, 4H, 4W)."""
        batch, _, height, width = features.shape
        tokens = self.class_tokens.weight.expand(batch, -1, -1)
        image_pe = self.pe_layer(height, width).to(features.dtype)
        tokens, mixed = self.transformer(features.flatten(2).transpose(1, 2), image_pe, tokens)
        upscaled = self.output_upscaling(mixed.transpose(1, 2).unflatten(2, (height, width)))
        if self.detail_stem is not None:
            upscaled = self.detail_stem(image, upscaled)
        return torch.einsum("bkc,bchw->bkhw", self.class_hypernetwork(tokens), upscaled)
