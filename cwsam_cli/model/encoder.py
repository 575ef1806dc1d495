"""Segment Anything's image encoder: a plain vision transformer with windows, and its neck.

# B batch, C bands, S side in pixels, H W patches, D width

Names, shapes and mathematics are Segment Anything's.
"""

import torch
from torch import Tensor, nn

from cwsam_cli.model.adapters import MLP_SCALE, Adapter, FrequencyPrompt
from cwsam_cli.model.attention import Attention, window_partition, window_unpartition
from cwsam_cli.model.experts import Activation, HierarchicalExperts
from cwsam_cli.model.variants import Architecture

MLP_RATIO = 4


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, dim: int, hidden: int, activation: Activation = nn.functional.gelu) -> None:
        super().__init__()
        self.activation = activation
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (…, D) to (…, D)."""
        return self.lin2(self.activation(self.lin1(x)))


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of features (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features; same shape."""
        normed = nn.functional.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6)
        return normed.movedim(-1, 1)


class PatchEmbed(nn.Module):
    """Patch embedding by one strided convolution."""

    def __init__(self, bands: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(bands, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, C, S, S) to patch tokens (B, H, W, D)."""
        return self.proj(x).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Transformer block: attention and an MLP or experts, each with a norm before it and a skip connection.

    Args:
        arch: architecture of the model.
        index: number of the block. It decides between windows and global attention, and between MLP and experts.
    """

    def __init__(self, arch: Architecture, index: int) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.window_size = 0 if index in arch.global_attn_indexes else arch.window_size
        grid = self.window_size or arch.patches
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, arch.num_heads, (grid, grid))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp: nn.Module
        if arch.has_experts(index):
            self.mlp = HierarchicalExperts(
                dim,
                dim * MLP_RATIO,
                groups=arch.moe_num_expert_groups,
                experts=arch.moe_experts_per_group,
                top_groups=arch.moe_k_groups,
                top_experts=arch.moe_k_experts,
                noisy=arch.moe_noisy_gating,
            )
        else:
            self.mlp = MLP(dim, dim * MLP_RATIO)
        adapted = arch.adaptor == "adaptor"
        self.adapter_attn = Adapter(dim) if adapted else None
        self.adapter_mlp = Adapter(dim) if adapted else None

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, H, W, D) to (B, H, W, D)."""
        height, width = x.shape[1:3]
        attended = self.norm1(x)
        if self.window_size:
            windows, padded = window_partition(attended, self.window_size)
            attended = window_unpartition(self.attn(windows), padded, height, width)
        else:
            attended = self.attn(attended)
        if self.adapter_attn is not None:
            attended = attended + self.adapter_attn(attended)
        x = x + attended
        normed = self.norm2(x)
        x = x + self.mlp(normed)
        if self.adapter_mlp is not None:
            x = x + MLP_SCALE * self.adapter_mlp(normed)
        return x


class ImageEncoder(nn.Module):
    """Encoder from an image to one feature vector per patch."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        out = arch.prompt_embed_dim
        self.patch_embed = PatchEmbed(arch.num_bands, arch.embed_dim, arch.patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, arch.patches, arch.patches, arch.embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.prompt = (
            FrequencyPrompt(arch.num_bands, arch.embed_dim, arch.depth, arch.patch_size, arch.freq_nums)
            if arch.input_type == "fft" and arch.adaptor == "adaptor"
            else None
        )
        self.blocks = nn.ModuleList(Block(arch, index) for index in range(arch.depth))
        self.neck = nn.Sequential(
            nn.Conv2d(arch.embed_dim, out, 1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            LayerNorm2d(out),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, C, S, S) to features (B, prompt_embed_dim, H, W)."""
        tokens = self.patch_embed(image)
        prompts = None if self.prompt is None else self.prompt(image, tokens)
        x = tokens + self.pos_embed
        for index, block in enumerate(self.blocks):
            x = block(x if prompts is None else x + prompts(index))
        return self.neck(x.permute(0, 3, 1, 2))
