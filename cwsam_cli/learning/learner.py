"""Hold a model together with its optimizer and moving averages."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cwsam_cli.distributed.shards import refresh_units
from cwsam_cli.learning.optim import Shards


@dataclass(slots=True)
class Learner:
    """Model, optimizer and moving averages of a run."""

    model: nn.Module
    shards: Shards
    """This process's shards of the weights; the optimizer updates them."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    """Loss scaler, only with fp16."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """Moving averages of the shards that learn, by name, only with `ema`."""
    averaged_steps: int = 0
    """Steps since a weight last joined the averages."""
    skipped: int = 0
    """Latest steps in a row with a loss or gradient that is not finite."""
    frozen_bands: dict[str, list[int]] = field(default_factory=dict)
    """Input bands whose filters do not learn, by name of the weight."""

    def learn(self, names: set[str]) -> None:
        """Make exactly these weights learn, and freeze all others."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in names)
            self.shards[name].requires_grad_(name in names)
        refresh_units(self.model)

    def begin_average(self) -> None:
        """Start to average the weights that learn now and did not before."""
        joining = [name for name, shard in self.shards.items() if shard.requires_grad and name not in self.average]
        self.average |= {name: self.shards[name].detach().clone() for name in joining}
        if joining:
            self.averaged_steps = 0

    def update_average(self, decay: float) -> None:
        """Move the averages towards the current weights.

        Early in a run the half-life is a tenth of the averaged steps. Otherwise the initial weights
        would dominate the average for a full half-life.

        Args:
            decay: decay per step, between 0 and 1. Its half-life in steps is ln 0.5 / ln decay.

        Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022.
        """
        self.averaged_steps += 1
        half_life = min(math.log(0.5) / math.log(decay), self.averaged_steps / 10)
        latest = [self.shards[name].detach() for name in self.average]
        torch._foreach_lerp_([*self.average.values()], latest, 1 - 0.5 ** (1 / half_life))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averages in place of the weights inside the `with` statement."""
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
