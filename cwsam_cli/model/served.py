"""Find out which group of experts serves each pixel.

# B images, G groups, S pixels per side
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cwsam_cli.model.experts import HierarchicalExperts, expert_layers


@contextmanager
def watch_groups(model: nn.Module, groups: int) -> Iterator[list[Tensor]]:
    """Collect the weight of each group on every patch.

    Args:
        model: a model with experts.
        groups: number of groups G. Layers with another number are left out. 0 collects nothing.

    Yields:
        A list that receives (B, patch rows, patch columns, G) from each layer in each forward pass.
    """
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


def groups_by_pixel(served: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Return the mean weight of each group over the layers of one forward pass.

    Args:
        served: what `watch_groups` collected in this pass.
        size: rows and columns of pixels.

    Returns:
        (B, G, rows, columns). Pixels of one patch have equal weights.
    """
    by_patch = torch.stack(served).mean(dim=0).movedim(-1, 1)
    return nn.functional.interpolate(by_patch, size=size, mode="nearest")
