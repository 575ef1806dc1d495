"""Optimizer and learning rate."""

import math

import torch
from torch import nn

from cwsam_cli.config.schema import OptimizerConfig
from cwsam_cli.model.experts import ExpertGroup


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW; weight matrices decay; norms, biases, tokens, position tables and partly frozen weights do not."""
    decays: list[nn.Parameter] = []
    stays: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            partly_frozen = bool(parameter._backward_hooks)  # decay would shrink what a hook keeps from learning
            layer = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and name == "weight"
            stack = isinstance(module, ExpertGroup) and name.endswith("_weight")
            (decays if (layer or stack) and not partly_frozen else stays).append(parameter)
    groups = [
        {"params": decays, "weight_decay": config.args.weight_decay},
        {"params": stays, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.args.lr, betas=config.args.betas)


def learning_rate(step: int, steps: int, *, lr: float, lr_min: float, warmup: int) -> float:
    """Linear warm-up to `lr`, then half a cosine to `lr_min` at the last step.

    Args:
        step: from 0.
        steps: of the whole run.
        lr: the highest rate.
        lr_min: the last rate.
        warmup: steps of warm-up; never more than a tenth of a short run.
    """
    warmup = min(warmup, steps // 10)
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * min(1.0, done))) / 2
