"""The network as a file for other programs has it: from a scene's pixels to probabilities.

# C bands, K classes, S pixels per side, N tokens, D width

torch's grouped product of experts has no counterpart in ONNX. Here each expert gathers the tokens that chose it, so
the file computes no more than the checkpoint does.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.dataset.transforms import band_statistics, normalize
from cwsam_cli.model.experts import Activation, ExpertGroup, HierarchicalExperts, expert_layers

_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class PortableNetwork(nn.Module):
    """Network from one window of a scene to the probabilities of its classes.

    The probabilities are calibrated as the checkpoint is, and a hidden class has probability 0.

    Args:
        checkpoint: the model.
        divisor: number by which the caller divides the scene's values.
    """

    mean: Tensor
    std: Tensor
    hidden: Tensor

    def __init__(self, checkpoint: Checkpoint, divisor: float = 1.0) -> None:
        super().__init__()
        self.divisor = divisor
        calibration = checkpoint.calibration
        self.temperature = 1.0 if calibration is None else calibration.temperature
        self.has_hidden = checkpoint.hidden_class is not None
        mean, std = band_statistics(checkpoint.bands)
        hidden = torch.tensor([index == checkpoint.hidden_class for index in range(len(checkpoint.taxonomy))])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.register_buffer("hidden", hidden[None, :, None, None], persistent=False)
        self.model = checkpoint.model().requires_grad_(False)
        for name, layer in list(expert_layers(self.model)):
            self.model.set_submodule(name, GatheredExperts(layer))

    def forward(self, image: Tensor) -> Tensor:
        """Map the values of a scene, divided by `divisor`, (1, C, S, S), to probabilities (1, K, S, S)."""
        valid = torch.ones(image.shape[-2:], device=image.device)
        logits = self.model(normalize(image * self.divisor, valid, self.mean, self.std))
        if self.has_hidden:
            logits = logits.masked_fill(self.hidden, -torch.inf)
        if self.temperature != 1:
            logits = logits / self.temperature
        probabilities: Tensor = logits.softmax(dim=1)
        return probabilities


class GatheredExperts(nn.Module):
    """Layer of experts in which each expert gathers its tokens.

    Args:
        layer: the layer. It keeps its routers and loses its experts.
    """

    def __init__(self, layer: HierarchicalExperts) -> None:
        super().__init__()
        groups = [group for group in layer.groups if isinstance(group, ExpertGroup)]
        self.experts = nn.ModuleList(
            _Expert(stacks, layer.activation) for group in groups for stacks in zip(*group.stacks(), strict=True)
        )
        self.layer = layer
        for number in range(len(layer.groups)):  # only the routers are needed, and the number of groups
            layer.groups[number] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (…, D) to (…, D) as the layer does, up to the order of sums."""
        tokens = x.flatten(end_dim=-2)
        weights, chosen = self.layer.route(tokens)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            is_own = chosen == number
            (rows,) = is_own.any(dim=1).nonzero(as_tuple=True)
            share = (weights * is_own).sum(dim=1).index_select(0, rows)
            out = out.index_add(0, rows, expert(tokens.index_select(0, rows)) * share[:, None])
        return out.view(x.shape)


class _Expert(nn.Module):
    """One expert. It has copies of its weights, because parts of a stack would be cut out again in every run."""

    def __init__(self, stacks: Sequence[Tensor], activation: Activation) -> None:
        super().__init__()
        lin1_weight, lin1_bias, lin2_weight, lin2_bias = stacks
        self.activation = activation
        self.lin1, self.lin2 = _linear(lin1_weight, lin1_bias), _linear(lin2_weight, lin2_bias)

    def forward(self, x: Tensor) -> Tensor:
        served: Tensor = self.lin2(self.activation(self.lin1(x)))
        return served


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight.clone(), "bias": bias.clone()}, assign=True)
    return linear.requires_grad_(False)


def noise_image(checkpoint: Checkpoint) -> Tensor:
    """Make one window (1, C, S, S) with the mean and the standard deviation of the training ground."""
    size = checkpoint.architecture.inp_size
    mean, std = band_statistics(checkpoint.bands)
    return mean + std * torch.randn(1, len(checkpoint.bands), size, size, generator=torch.Generator().manual_seed(0))


@contextmanager
def hidden_messages() -> Iterator[None]:
    """Hide warnings and messages of torch's exporters, which say nothing about the model."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
