"""Estimate the time of a training step, and find what limits it.

The time is a lower bound: every kernel reaches the card's peak, and communication, kernels and
their launches overlap fully.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from cwsam_cli.config.schema import RunConfig
from cwsam_cli.model.variants import Architecture
from cwsam_cli.plan.cards import Card
from cwsam_cli.plan.memory import gigabytes, simulate_run
from cwsam_cli.plan.simulate import resolve_expert_parallel
from cwsam_cli.plan.work import Message, SentBytes

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

    expert_parallel: int
    """Number of GPUs over which the experts of each group are distributed."""
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


@dataclass(frozen=True, slots=True)
class TimeCheck:
    """Shortest time of a step as configured, and with another `expert_parallel`."""

    configured: StepTime
    other: StepTime | None
    """None if the model has no experts, or if no number above 1 divides experts and GPUs."""

    @property
    def better(self) -> StepTime:
        """Return the faster one. If they are equally fast, it is the one that sends less."""
        both = [self.configured, *([self.other] if self.other else [])]
        return min(both, key=lambda time: (time.step_s, time.sent.total))

    def as_text(self) -> str:
        """Format the time as configured, and the comparison."""
        lines = [self.configured.as_text()]
        if self.other is not None:
            lines += [
                "",
                f"With expert_parallel {self.other.expert_parallel} instead of {self.configured.expert_parallel}, each "
                f"GPU sends {gigabytes(self.other.sent.total)}.",
                f"A step then takes at least {self.other.step_s:.3f} s, limited by {self.other.limit}.",
                "The configured number is better."
                if self.better is self.configured
                else f"better: --set fsdp_settings.expert_parallel={self.other.expert_parallel}",
            ]
        return "\n".join(lines)


def check_time(config: RunConfig, arch: Architecture, learning: frozenset[str], *, gpus: int, card: Card) -> TimeCheck:
    """Estimate the time of a step with and without expert parallelism; see `estimate_time` for the arguments."""
    configured = estimate_time(config, arch, learning, gpus=gpus, card=card)
    settings: Literal[1, "auto"] = "auto" if configured.expert_parallel == 1 else 1
    fsdp = dataclasses.replace(config.fsdp_settings, expert_parallel=settings)
    other = None
    if resolve_expert_parallel(arch, fsdp, gpus=gpus) != configured.expert_parallel:
        other = estimate_time(dataclasses.replace(config, fsdp_settings=fsdp), arch, learning, gpus=gpus, card=card)
    return TimeCheck(configured, other)


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
    launches = sum(step.work.kernels.values())
    launching = launches * LAUNCH_S
    communication = sum(size / _send_rate(message, card) for message, size in step.work.messages.items())
    limits: list[tuple[float, Limit]] = [
        (arithmetic + memory, "arithmetic" if arithmetic > memory else "memory traffic"),
        (launching, "kernel launches"),
        (communication, "communication"),
    ]
    shortest, limit = max(limits)
    return StepTime(
        expert_parallel=resolve_expert_parallel(arch, config.fsdp_settings, gpus=gpus),
        sent=step.work.sent,
        arithmetic_s=arithmetic,
        memory_s=memory,
        launches=launches,
        launching_s=launching,
        communication_s=communication,
        step_s=shortest,
        limit=limit,
    )


def _send_rate(message: Message, card: Card) -> float:
    """Return the bytes per second of a message.

    Gathering and summing go round a ring. The ring leaves each machine once, by the network cards of all its ranks
    there. In an exchange, each rank has only its own network card.
    """
    if message.neighbours is None:
        return card.link
    return min(card.link, NETWORK * (1 if message.kind == "all_to_all" else message.neighbours))
