"""The model as a function from batches of windows to scores, and what it costs.

# B windows, C bands, K classes, S pixels a side
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cwsam_cli.config.schema import Precision
from cwsam_cli.model.encoder import MLP_RATIO
from cwsam_cli.model.experts import HierarchicalExperts, expert_layers
from cwsam_cli.model.variants import Architecture
from cwsam_cli.predict.request import AUGMENTATIONS, Turn


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores of a batch of windows.

    The model is on its device already; `views` are averaged; `hidden` is the class that is
    never predicted.
    """

    model: nn.Module
    device: torch.device
    views: tuple[Turn, ...] = AUGMENTATIONS["none"]
    precision: str = "fp32"
    probabilities: bool = False
    hidden: int | None = None
    expert_groups: int = 0
    """How many further planes say which expert group served a pixel; the model must have as many."""

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """(B, C, S, S) normalised → (B, K + expert groups, S, S), the caller's own."""
        with (
            torch.no_grad(),  # inference mode and sharded weights do not go together
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            images = images.to(self.device, non_blocking=True)
            total = self._score(images, self.views[0])
            for view in self.views[1:]:
                total += self._score(images, view)
            if len(self.views) > 1:
                total /= len(self.views)
            return np.asarray(total.cpu().numpy(), np.float32)

    def _score(self, images: Tensor, view: Turn) -> Tensor:
        turns, flip = view
        seen = torch.rot90(images, turns, (2, 3))
        with _watched(self.model, self.expert_groups) as served:
            logits = self.model(seen.flip(3) if flip else seen).float()
        if self.hidden is not None:
            logits[:, self.hidden] = -torch.inf
        scores = logits.softmax(dim=1) if self.probabilities else logits
        if self.expert_groups:
            by_patch = torch.stack(served).mean(dim=0).movedim(-1, 1)
            by_pixel = nn.functional.interpolate(by_patch, size=logits.shape[-2:], mode="nearest")
            scores = torch.cat([scores, by_pixel], dim=1)
        return torch.rot90(scores.flip(3) if flip else scores, -turns, (2, 3)).contiguous()


@contextmanager
def _watched(model: nn.Module, groups: int) -> Iterator[list[Tensor]]:
    """Collect, for each expert layer of so many groups, each group's weight on every patch, (B, H, W, G)."""
    served: list[Tensor] = []

    def note(layer: HierarchicalExperts, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        with torch.autocast(x.device.type, enabled=False):
            weights, chosen = layer.route(x.reshape(-1, x.shape[-1]).float())
        shares = weights.new_zeros(len(weights), groups).scatter_add_(1, chosen // layer.experts, weights)
        served.append(shares.view(*x.shape[:-1], groups))

    layers = [layer for _, layer in expert_layers(model) if len(layer.groups) == groups] if groups else []
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield served
    finally:
        for hook in hooks:
            hook.remove()


def choose_precision(name: str, device: torch.device) -> Precision:
    """What `--precision` means: `auto` is bf16 where the hardware multiplies in it, else fp32."""
    if name != "auto":
        return cast(Precision, name)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    quick: list[Callable[[], bool]] = [torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported]
    return "bf16" if device.type == "cpu" and any(has() for has in quick) else "fp32"


def activation_bytes(arch: Architecture, *, views: int = 1) -> int:
    """Memory that a forward pass without gradients takes for each image, about.

    The largest of the encoder's blocks and the decoder's last planes, in float32, three
    times: passes leave holes in the heap. A test holds it against what passes really take.
    """
    tokens, dim = arch.patches**2, arch.embed_dim
    copies = max(1, arch.moe_k_groups * arch.moe_k_experts) if arch.moe_num_expert_groups else 1
    attention = 5 * tokens * dim + 2 * min(4, arch.num_heads) * tokens * tokens
    mlp = tokens * dim * (3 + copies * (2 + 2 * MLP_RATIO))
    out = arch.prompt_embed_dim
    planes = 16 * tokens * (out // 8 * 3 + arch.num_classes) + 4 * tokens * (out // 4) * 3
    logits = (3 if views > 1 else 1) * arch.num_classes * arch.inp_size**2
    return 3 * 4 * max(2 * tokens * dim + max(attention, mlp), planes + logits)
