"""One pass over the data: to learn from it, or to measure on it."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cwsam_cli.assess.confusion import Matrix, confusion_matrix
from cwsam_cli.config.schema import ModelArgs, TrainingSettings
from cwsam_cli.console import track
from cwsam_cli.data.dataset import EpochSampler, TileDataset
from cwsam_cli.errors import CwsamError, MachineError
from cwsam_cli.model.experts import routing_loss
from cwsam_cli.train.losses import segmentation_loss

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What an epoch of training came to."""

    loss: float
    """Mean over the steps."""
    gradient_norm: float
    """Of the last step, before clipping."""
    steps: int


def training_batches(
    dataset: TileDataset, batch_size: int, settings: TrainingSettings, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch; their order and content follow from (seed, epoch)."""
    sampler = EpochSampler(len(dataset), seed=settings.seed, epoch=epoch)
    loader = DataLoader(dataset, batch_size, sampler=sampler, num_workers=settings.workers)
    try:
        yield from loader
    except CwsamError as error:  # a worker's error arrives with its traceback for a message
        last = str(error).strip().splitlines()[-1].partition("Error: ")[2]
        raise (type(error)(last, hint=error.hint or "tile the scenes again") if last else error) from None


def train_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    *,
    first_step: int,
    args: ModelArgs,
    settings: TrainingSettings,
    weights: Tensor | None,
    device: torch.device,
) -> EpochResult:
    """Learn from every batch once.

    Args:
        model: on `device`.
        batches: images (B, C, S, S) and class indices (B, S, S).
        optimizer: its learning rate is set here, step by step.
        rate: step → learning rate.
        first_step: steps of the run so far.
        args: the loss.
        settings: precision, accumulation, clipping.
        weights: one a class, or None.
        device: where the model is.

    Raises:
        MachineError: the loss is no longer a finite number.
    """
    model.train()
    losses: list[float] = []
    norm, step = math.nan, first_step
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for group in _grouped(batches, settings.grad_accum_steps):
        for setting in optimizer.param_groups:
            setting["lr"] = rate(step)
        total = 0.0
        for image, label in group:
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = model(image.to(device, non_blocking=True))
            loss = segmentation_loss(logits, label.to(device, non_blocking=True), args.loss, weights)
            routing = routing_loss(model, balance=args.balance_loss, z=args.router_z_loss)
            loss = (loss if routing is None else loss + routing) / len(group)
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise MachineError(
                f"the loss is {total} at step {step}", hint="lower optimizer.args.lr, or train with precision fp32"
            )
        norm = float(nn.utils.clip_grad_norm_(parameters, settings.clip_grad_norm or math.inf))
        if not math.isfinite(norm):
            raise MachineError(f"the gradient is {norm} at step {step}", hint="lower optimizer.args.lr")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        step += 1
    return EpochResult(float(np.mean(losses)), norm, step - first_step)


def validate(
    model: nn.Module,
    dataset: TileDataset,
    *,
    batch_size: int,
    classes: int,
    device: torch.device,
    precision: str,
    hidden: int | None = None,
) -> Matrix:
    """The confusion matrix over a dataset's pixels, each counted once; the hidden class is never predicted."""
    model.eval()
    matrix = np.zeros((classes, classes), np.int64)
    loader = DataLoader(dataset, batch_size)
    with torch.inference_mode():
        for image, label in track(loader, "validating", total=len(loader)):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = model(image.to(device))
            if hidden is not None:
                logits[:, hidden] = -math.inf
            best = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
            matrix += confusion_matrix(label.numpy(), best, classes)
    return matrix


def _grouped(batches: Batches, size: int) -> Iterable[list[tuple[Tensor, Tensor]]]:
    group: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
