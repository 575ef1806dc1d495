"""Run training steps, with the same result for one process and for many.

A step learns from one large batch. The batch is divided over the processes and, with gradient
accumulation, over several passes. Every process runs the same number of passes, some perhaps
with no image, because all processes gather sharded weights together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cwsam_cli.config.schema import ModelArgs, TrainingSettings
from cwsam_cli.dataset.loader import Batch, BatchShare, load_batches
from cwsam_cli.distributed.shards import begin_batch
from cwsam_cli.distributed.world import DTYPES, World
from cwsam_cli.errors import MachineError
from cwsam_cli.learning.learner import Learner
from cwsam_cli.learning.losses import BatchTotals, count_totals, loss_parts
from cwsam_cli.learning.optim import compute_gradient_norm, drop_gradients, take_gradients
from cwsam_cli.model.experts import collect_routing
from cwsam_cli.model.routing import RoutingCounts, routing_loss, sum_counts

if TYPE_CHECKING:
    from cwsam_cli.dataset.samples import TileDataset

_MOST_SKIPPED = 30
"""Largest number of skipped steps in a row with fp16. The loss scale starts at 2¹⁶ and is halved each time."""


class RunStatus(NamedTuple):
    """Whether a process must stop or save after a step."""

    is_interrupted: bool = False
    """A signal asked to stop: save the state and end."""
    is_out_of_time: bool = False
    """The time limit is near: save the state and end."""
    is_save_due: bool = False
    """Save the state and continue."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a step, over all processes."""

    losses: dict[str, float]
    """Parts of the loss by name; they sum to the loss."""
    gradient_norm: float
    """Norm of the gradient before clipping."""
    images: int
    """Number of images in the step."""
    is_skipped: bool
    """With fp16, the gradient overflowed: no weight changed, and the loss scale was reduced."""
    routing: dict[str, RoutingCounts]
    """Routing counts by expert layer, on the CPU."""
    status: RunStatus
    """Combined status: a field is true if it is true in any process."""

    @property
    def loss(self) -> float:
        """Sum of the loss parts."""
        return sum(self.losses.values())


def training_steps(
    dataset: "TileDataset",
    batch_size: int,
    settings: TrainingSettings,
    epoch: int,
    world: World,
    *,
    samples_done: int = 0,
    probabilities: NDArray[np.float64] | None = None,
) -> Iterator[list[Batch]]:
    """Yield this process's batches of each step of an epoch.

    Args:
        dataset: training tiles of the run.
        batch_size: images per batch and process.
        settings: seed, gradient accumulation and workers.
        epoch: number of the epoch. It decides the order and the augmentation, together with the seed.
        world: the processes of the run.
        samples_done: samples of the epoch that a run learned from before an interruption; these are skipped.
        probabilities: probability of drawing each sample, (samples,); see `balanced_probabilities`.

    Yields:
        The batches of one step, `grad_accum_steps` of them or fewer in the last step.

    Raises:
        DataError: a tile is damaged.
    """
    shares = BatchShare(
        len(dataset),
        batch_size,
        seed=settings.seed,
        epoch=epoch,
        rank=world.rank,
        size=world.size,
        samples_done=samples_done,
        probabilities=probabilities,
    )
    step: list[Batch] = []
    for batch in load_batches(dataset, shares, workers=settings.workers, pin_memory=world.device.type != "cpu"):
        world.beat()
        step.append(batch)
        if len(step) == settings.grad_accum_steps:
            yield step
            step = []
    if step:
        yield step


def take_step(
    learner: Learner,
    batches: list[Batch],
    world: World,
    *,
    args: ModelArgs,
    settings: TrainingSettings,
    weights: Tensor | None,
    rate: float,
    get_status: Callable[[], RunStatus] = RunStatus,
) -> StepResult:
    """Run one optimizer step on one large batch.

    Args:
        learner: the learner, with its model on the world's device.
        batches: this process's batches of the step; all processes have the same number of them.
        world: the processes of the run.
        args: settings of the loss.
        settings: precision, gradient clipping and moving average.
        weights: weight of each class (K,) on the device, or None.
        rate: learning rate, before the factor of each parameter group.
        get_status: function that returns the status of this process. It is called after the passes.

    Returns:
        The result over all processes.

    Raises:
        MachineError: the loss or gradient is not finite; with fp16, in more than 30 steps in a row.
    """
    model, scaler = learner.model, learner.scaler
    model.train()
    own_totals = count_totals([label for _, label in batches], weights)
    counts = world.total(torch.cat([part.view(-1) for part in own_totals]).to(world.device, non_blocking=True))
    totals = BatchTotals(counts[0], counts[1], counts[2:])
    passes = backward_passes(
        model, batches, world, args=args, settings=settings, weights=weights, totals=totals, scaler=scaler
    )
    take_gradients(model, learner.shards, learner.frozen_bands)
    if scaler is not None:
        scaler.unscale_(learner.optimizer)
    norm = compute_gradient_norm(learner.shards, world)
    status = torch.tensor(get_status(), dtype=torch.float32).to(world.device, non_blocking=True)
    to_reduce = [
        world.total(torch.cat([torch.stack([*passes.losses.values()]), status])),
        norm.view(1),
        totals.sizes,
        *(own.values for own in passes.routing.values()),
    ]
    sums, norms, sizes, *counts = (
        torch.cat([part.double() for part in to_reduce]).cpu().split([len(part) for part in to_reduce])
    )
    losses = dict(zip(passes.losses, sums.tolist(), strict=False))
    is_finite = bool(torch.isfinite(torch.cat([sums, norms])).all())
    learner.skipped = 0 if is_finite else learner.skipped + 1
    if learner.skipped > (0 if scaler is None else _MOST_SKIPPED):
        raise MachineError(
            f"the loss is {sum(losses.values()):g} and the norm of its gradient {norms.item():g}"
            + (f", the last of {learner.skipped} such steps in a row" if scaler is not None else ""),
            hint=f"lower optimizer.args.lr, or train with precision {'fp32' if scaler is None else 'bf16 or fp32'}",
        )
    if settings.clip_grad_norm and is_finite:
        nn.utils.clip_grads_with_norm_(learner.shards.values(), settings.clip_grad_norm, norm)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
    frozen = [(learner.shards[name].detach(), bands) for name, bands in learner.frozen_bands.items()]
    kept = [shard[:, bands] for shard, bands in frozen]
    if scaler is None:
        learner.optimizer.step()
    else:
        scaler.step(learner.optimizer)
        scaler.update()
    for (shard, bands), filters in zip(frozen, kept, strict=True):
        shard[:, bands] = filters  # 8-bit codes of 0 are not exactly 0, which would change frozen filters
    drop_gradients(model, learner.shards)
    if settings.ema is not None:
        learner.update_average(settings.ema)
    return StepResult(
        losses=losses,
        gradient_norm=norms.item(),
        images=int(sizes.sum()),
        is_skipped=not is_finite,
        routing={
            name: RoutingCounts(values, own.groups)
            for (name, own), values in zip(passes.routing.items(), counts, strict=True)
        },
        status=RunStatus(*(value > 0 for value in sums[len(losses) :].tolist())),
    )


@dataclass(frozen=True, slots=True)
class Passes:
    """Result of the passes of a step."""

    losses: dict[str, Tensor]
    """This process's share of each part of the loss, by name."""
    routing: dict[str, RoutingCounts]
    """Routing counts by expert layer, summed over all processes."""


def backward_passes(
    model: nn.Module,
    batches: list[Batch],
    world: World,
    *,
    args: ModelArgs,
    settings: TrainingSettings,
    weights: Tensor | None,
    totals: BatchTotals,
    scaler: torch.amp.GradScaler | None = None,
) -> Passes:
    """Run the forward and backward passes of a step. The gradients are left in the weights.

    Args:
        model: model in training mode, on the world's device.
        batches: this process's batches of the step; all processes have the same number of them.
        world: the processes of the run.
        args: settings of the loss.
        settings: precision.
        weights: weight of each class (K,) on the device, or None.
        totals: totals over the batches of all processes in this step.
        scaler: loss scaler, with fp16.

    Returns:
        The loss parts and routing counts.
    """
    device = world.device
    sums: dict[str, Tensor] = {}
    counts: dict[str, RoutingCounts] = {}
    for number, (image, label) in enumerate(batches, start=1):
        begin_batch(model, last=number == len(batches))
        autocast = torch.autocast(device.type, DTYPES[settings.precision], enabled=settings.precision != "fp32")
        with collect_routing(model) as routing, autocast:
            logits = model(image.to(device, non_blocking=True))
        world.beat()
        target = label.to(device, non_blocking=True)
        parts = loss_parts(logits, target, args.loss, weights, smoothing=args.label_smoothing, totals=totals)
        if routing:
            shared = sum_counts(routing, world.total)
            share = totals.sizes[number - 1] / totals.sizes.sum()  # the last batch of an epoch may be smaller
            parts["routing"] = share * routing_loss(shared, balance=args.balance_loss, z=args.router_z_loss)
            counts = {name: own.counts + counts[name] if counts else own.counts for name, own in shared.items()}
            routing.clear()
        loss = torch.stack([*parts.values()]).sum() * world.size  # because FSDP averages gradients over the processes
        (loss if scaler is None else scaler.scale(loss)).backward()
        sums = {name: sums.get(name, 0) + part.detach() for name, part in parts.items()}
        world.beat()
    return Passes(sums, counts)
