"""The model as a function from batches of windows to scores.

# B windows, C bands, K classes, S pixels per side of a window
"""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cwsam_cli.console import log
from cwsam_cli.errors import MachineError
from cwsam_cli.model.served import groups_by_pixel, watch_groups
from cwsam_cli.predict.choices import Views

Turn = tuple[int, bool]
"""Quarter turns, then a flip from left to right."""

AUGMENTATIONS: dict[Views, tuple[Turn, ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, flip) for turns in range(4) for flip in (False, True)),
}
"""Views of a window whose scores are averaged, by the name that `--tta` takes."""


@dataclass(slots=True)
class Scorer:
    """Scores of a batch of windows.

    The model is on its device already. Scores are averaged over `views`. `hidden_class` is never predicted.
    """

    model: nn.Module
    device: torch.device
    views: tuple[Turn, ...] = AUGMENTATIONS["none"]
    precision: str = "fp32"
    hidden_class: int | None = None
    expert_groups: int = 0
    """Number of further planes that say which expert group served a pixel; the model must have as many groups."""
    most_windows: int = sys.maxsize
    """Largest batch; it shrinks when the device's memory cannot hold one."""

    def __call__(self, images: Tensor) -> Tensor:
        """Score windows, in smaller batches if the device's memory cannot hold them all.

        Args:
            images: normalised (B, C, S, S), on the device.

        Returns:
            Logits (B, K + expert groups, S, S) float32 on the device, which the caller may overwrite.

        Raises:
            MachineError: the device's memory cannot hold one window.
        """
        while True:
            size = min(self.most_windows, len(images))
            try:
                return self._score_parts(images, size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise MachineError(
                        f"{self.device} has not enough free memory for one window", hint="use --gpus N, or --device cpu"
                    ) from None
            self.most_windows = size // 2
            log.info("%s has not enough memory for %d windows at a time: %d from now on", self.device, size, size // 2)
            torch.get_device_module(self.device).empty_cache()

    def _score_parts(self, images: Tensor, size: int) -> Tensor:
        first = self.score_batch(images[:size])
        if size == len(images):
            return first
        scores = first.new_empty(len(images), *first.shape[1:])
        scores[:size] = first
        del first
        for begin in range(size, len(images), size):
            scores[begin : begin + size] = self.score_batch(images[begin : begin + size])
        return scores

    def score_batch(self, images: Tensor) -> Tensor:
        """Score all windows at once; see `__call__`."""
        with (
            torch.no_grad(),  # inference mode and sharded weights do not go together
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            total = self._one_view(images, self.views[0])
            for view in self.views[1:]:
                total += self._one_view(images, view)
            if len(self.views) > 1:
                total /= len(self.views)
            return total

    def _one_view(self, images: Tensor, view: Turn) -> Tensor:
        turns, flip = view
        seen = torch.rot90(images, turns, (2, 3)) if turns else images  # a turn by 0 is a copy
        with watch_groups(self.model, self.expert_groups) as served:
            scores = self.model(seen.flip(3) if flip else seen).float()
        if self.hidden_class is not None:
            scores[:, self.hidden_class] = -torch.inf
        if self.expert_groups:
            scores = torch.cat([scores, groups_by_pixel(served, scores.shape[-2:])], dim=1)
        scores = scores.flip(3) if flip else scores
        return (torch.rot90(scores, -turns, (2, 3)) if turns else scores).contiguous()
