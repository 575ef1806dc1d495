"""Estimate the time of a training step, and find what limits it.

The time is a lower bound: every kernel reaches the card's peak, and communication, kernels and
their launches overlap fully.
"""

from dataclasses import dataclass
from typing import Literal

from cwsam_cli.config.schema import RunConfig
from cwsam_cli.model.variants import Architecture
from cwsam_cli.plan.cards import Card
from cwsam_cli.plan.memory import MACHINE, gigabytes, simulate_run
from cwsam_cli.plan.work import SentBytes

LAUNCH_S = 5e-6
"""Seconds of the processor per kernel that it launches, without `torch.compile`."""
NETWORK = 50e9
"""Bytes per second that a GPU sends to other machines: one network card of 400 Gbit/s per GPU."""
_UPDATE = {"adamw": 80, "adamw8bit": 20}
"""Bytes that the optimizer reads and writes per value that learns; AdamW makes many passes, 8-bit AdamW one."""
_CLIPPING = 20
"""Bytes read and written per gradient for its norm and for clipping."""

Limit = Literal["arithmetic", "memory traffic", "kernel launches", "communication"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Shortest time of a step on each GPU. All numbers are computed, none is measured."""

    sent: SentBytes
    """Bytes that each GPU sends in a step."""
    arithmetic_s: float
    """Seconds of the kernels that the arithmetic limits."""
    memory_s: float
    """Seconds of the kernels that the traffic to the GPU's memory limits."""
    launches: int
    """Number of kernels."""
    launching_s: float
    """Seconds in which the processor launches them."""
    communication_s: float
    """Seconds in which the GPU sends."""
    step_s: float
    """Shortest time of the step."""
    limit: Limit
    """What takes this time."""

    def as_text(self) -> str:
        """Format one line per part."""
        sent = [
            ("all-gather", self.sent.all_gather, "weights"),
            ("reduce-scatter", self.sent.reduce_scatter, "gradients"),
            ("all-to-all", self.sent.all_to_all, "tokens and their gradients, for expert parallelism"),
            ("sent per GPU and step", self.sent.total, ""),
        ]
        times = [
            ("arithmetic", self.arithmetic_s, ""),
            ("memory traffic", self.memory_s, ""),
            ("kernel launches", self.launching_s, f"{self.launches:,} kernels"),
            ("communication", self.communication_s, ""),
            ("a step takes at least", self.step_s, f"limited by {self.limit}"),
        ]
        rows = [(name, gigabytes(size), note) for name, size, note in sent if size]
        rows += [(name, f"{seconds:.3f} s ", note) for name, seconds, note in times if seconds]
        return "\n".join(f"{name:<28}{value:>12}   {note}".rstrip() for name, value, note in rows)


def estimate_time(
    config: RunConfig, arch: Architecture, learning: frozenset[str], *, gpus: int, card: Card
) -> StepTime:
    """Estimate the shortest time of a step.

    Args:
        config: configuration of the run.
        arch: architecture of its model.
        learning: names of the parameters that learn.
        gpus: number of GPUs.
        card: peak rates of one GPU.
    """
    settings = config.training_settings
    step = simulate_run(
        config, arch, learning, gpus=gpus, device="cuda", checkpointed=settings.activation_checkpointing
    )
    arithmetic = memory = 0.0
    for kernel, count in step.work.kernels.items():
        flops = 1e12 * (card.float32_tflops if kernel.is_float32 else card.tflops)
        computing, moving = kernel.flops / flops, kernel.moved / card.bandwidth
        arithmetic += count * computing if computing >= moving else 0
        memory += count * moving if computing < moving else 0
    if not (config.fsdp_settings.cpu_offload and gpus > 1):  # otherwise the processor updates the weights
        learns = sum(share for share, _ in step.learning)
        per_value = _UPDATE[config.optimizer.name] + (_CLIPPING if settings.clip_grad_norm else 0)
        memory += learns * per_value / card.bandwidth
    launches, sent = sum(step.work.kernels.values()), step.work.sent
    # Rings over several machines leave a machine once, by the network cards of all its GPUs.
    speed = card.link if gpus <= MACHINE else min(card.link, MACHINE * NETWORK)
    launching, communication = launches * LAUNCH_S, sent.total / speed
    limits: list[tuple[float, Limit]] = [
        (arithmetic + memory, "arithmetic" if arithmetic > memory else "memory traffic"),
        (launching, "kernel launches"),
        (communication, "communication"),
    ]
    shortest, limit = max(limits)
    return StepTime(
        sent=sent,
        arithmetic_s=arithmetic,
        memory_s=memory,
        launches=launches,
        launching_s=launching,
        communication_s=communication,
        step_s=shortest,
        limit=limit,
    )
