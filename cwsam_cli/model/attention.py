"""Attention with Segment Anything's decomposed relative positions, and its windows.

# B batch, H W patches, T = H·W tokens, D width, N heads, d = D/N

Names and shapes are Segment Anything's, so its checkpoints load unchanged. The position bias is
the mask of torch's fused attention. On a CPU with gradients, the attention is written out instead,
which trains fastest there. Extra head dimensions in place of the T×T mask took 1.3 × the time of
the written-out form (ViT-B at 512 pixels, fp32, on a CPU). On GPUs the forms were not compared.
Source: Kirillov et al., Segment Anything, 2023; Li et al., Exploring Plain Vision
Transformer Backbones for Object Detection, 2022.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HEADS_AT_ONCE = 4  # on a CPU without gradients: limits the T×T bias, which cuts the peak memory to a third


class Attention(nn.Module):
    """Multi-head self-attention over a grid of patches.

    Args:
        dim: width D of a token.
        num_heads: number of heads N.
        grid: size (H, W) in patches for which the relative position tables are made.
    """

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, H, W, D) to (B, H, W, D)."""
        batch, height, width, dim = x.shape
        qkv = (
            self.qkv(x).reshape(batch, height * width, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv.unbind(0)  # each (B, N, T, d)
        on_cpu = x.device.type == "cpu"
        if not batch or (on_cpu and torch.is_grad_enabled()):  # some fused kernels refuse an empty batch
            bias = self._position_bias(q, height, width)
            mixed = (q * self.scale @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v
        else:
            heads = (part.split(_HEADS_AT_ONCE if on_cpu else self.num_heads, dim=1) for part in (q, k, v))
            mixed = torch.cat(
                [
                    F.scaled_dot_product_attention(
                        some_q, some_k, some_v, attn_mask=self._position_bias(some_q, height, width), scale=self.scale
                    )
                    for some_q, some_k, some_v in zip(*heads, strict=True)
                ],
                dim=1,
            )
        return self.proj(mixed.transpose(1, 2).reshape(batch, height, width, dim))

    def _position_bias(self, q: Tensor, height: int, width: int) -> Tensor:
        """Compute the attention bias of the row and column distances between queries and keys, (B, N, T, T)."""
        grid = q.unflatten(2, (height, width))
        rows = torch.einsum("bnhwd,hkd->bnhwk", grid, _by_distance(self.rel_pos_h, height))
        cols = torch.einsum("bnhwd,wkd->bnhwk", grid, _by_distance(self.rel_pos_w, width))
        return (rows[..., :, None] + cols[..., None, :]).flatten(4, 5).flatten(2, 3)


def _by_distance(table: Tensor, size: int) -> Tensor:
    """Arrange the rows of a (2·size-1, d) table by query and key position: (size, size, d)."""
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position[None, :] + size - 1]


def window_partition(x: Tensor, size: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut (B, H, W, D) into windows (B·n, size, size, D), zero-padded below and to the right.

    Returns:
        The windows, and the padded height and width.
    """
    batch, height, width, dim = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    padded = x.shape[1], x.shape[2]
    x = x.view(batch, padded[0] // size, size, padded[1] // size, size, dim)
    return x.transpose(2, 3).flatten(0, 2), padded


def window_unpartition(windows: Tensor, padded: tuple[int, int], height: int, width: int) -> Tensor:
    """Undo `window_partition` and drop the padding: (B, H, W, D)."""
    size, dim = windows.shape[1], windows.shape[-1]
    rows, cols = padded[0] // size, padded[1] // size
    x = windows.view(len(windows) // (rows * cols), rows, cols, size, size, dim)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
