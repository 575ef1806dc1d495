"""A model, and all that changes with it while it learns."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cwsam_cli.distributed.parallelize import refresh_units
from cwsam_cli.learning.optim import Shards


@dataclass(slots=True)
class Learner:
    """A model and all that changes with it."""

    model: nn.Module
    shards: Shards
    """Of the model; what the optimizer changes."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    """With fp16."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """Moving averages of the shards that learn, with `ema`."""
    averaged_steps: int = 0
    """Since a weight last joined the averages."""
    skipped: int = 0
    """Steps in a row whose loss or gradient was not finite."""
    frozen_bands: dict[str, list[int]] = field(default_factory=dict)
    """Input bands, by weight, whose filters stay as they are."""

    def learn(self, names: set[str]) -> None:
        """Let exactly these weights learn."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in names)
            self.shards[name].requires_grad_(name in names)
        refresh_units(self.model)

    def begin_average(self) -> None:
        """Average what learns now and did not before."""
        joining = [name for name, shard in self.shards.items() if shard.requires_grad and name not in self.average]
        self.average |= {name: self.shards[name].detach().clone() for name in joining}
        if joining:
            self.averaged_steps = 0

    def update_average(self, decay: float) -> None:
        """Move the averages towards the weights.

        The half-life is that of `decay`, in steps, but at first a tenth of the steps that were averaged:
        else the weights that a run starts with would be most of the average for as long as its half-life.
        Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022.
        """
        self.averaged_steps += 1
        half_life = min(math.log(0.5) / math.log(decay), self.averaged_steps / 10)
        latest = [self.shards[name].detach() for name in self.average]
        torch._foreach_lerp_([*self.average.values()], latest, 1 - 0.5 ** (1 / half_life))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averages in place of the weights, while the block runs."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        with torch.no_grad():
            for name, average in self.average.items():
                shard = self.shards[name]
                kept = shard.detach().clone()
                shard.copy_(average)
                average.copy_(kept)
