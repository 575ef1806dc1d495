"""Check whether a run fits its GPUs, and find the smallest changes with which it does.

Each proposed change is tried: its memory is estimated before it is proposed.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cwsam_cli.config.schema import RunConfig
from cwsam_cli.model.variants import Architecture
from cwsam_cli.plan.memory import MemoryEstimate, estimate_memory, gigabytes, usable

MOST_GPUS = 1024
"""Largest number of GPUs that is proposed."""


@dataclass(frozen=True, slots=True)
class Change:
    """Change of settings or GPUs that makes a run fit."""

    options: tuple[str, ...]
    """Command-line options: `--set KEY=VALUE`, `--gpus N`."""
    gpu: int
    """Bytes needed on the fullest GPU."""
    host: int
    """Bytes of host memory needed per GPU."""


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """Result of checking whether a run fits its GPUs. All numbers are computed, none is measured."""

    plan: MemoryEstimate
    stage: str
    """Stage in which most parameters learn; `plan` is the estimate of this stage."""
    gpu_memory: int
    """Memory of one GPU in bytes."""
    usable: int
    """Memory of one GPU without the reserve, in bytes."""
    fits: bool
    changes: list[Change]
    """Changes that make the run fit; empty if it fits, or if no change helps."""

    def as_text(self) -> str:
        """Format the estimate, the verdict and the changes."""
        stage = "" if self.stage == "all" else f" in the stage {self.stage}"
        room = f"{gigabytes(self.gpu_memory)} ({gigabytes(self.usable)} without the reserve)"
        lines = [f"computed memory for training{stage}:", self.plan.as_text(), ""]
        if self.fits:
            return "\n".join([*lines, f"fits in {room}"])
        if not self.changes:
            return "\n".join([*lines, f"does not fit in {room}, and no change of settings or GPUs helps"])
        lines.append(f"does not fit in {room}, but fits with" + (" one of" if len(self.changes) > 1 else ""))
        for change in self.changes:
            host = f", {gigabytes(change.host)} of host memory" if change.host else ""
            lines.append(f"  {' '.join(change.options)}   ({gigabytes(change.gpu)}{host})")
        return "\n".join(lines)


def check_memory(
    config: RunConfig, arch: Architecture, learning: Mapping[str, set[str]], *, gpus: int, gpu_memory: int
) -> MemoryCheck:
    """Estimate the memory of a run, and find changes if it does not fit.

    Args:
        config: configuration of the run.
        arch: architecture of its model.
        learning: names of the parameters that learn, by stage. Of two stages, one must include the other.
        gpus: number of GPUs.
        gpu_memory: memory of one GPU in bytes.
    """
    stage = max(learning, key=lambda name: len(learning[name]))
    names = frozenset(learning[stage])
    plan = estimate_memory(config, arch, names, gpus=gpus)
    fits = plan.fits(gpu_memory)
    changes = [] if fits else find_changes(config, arch, names, gpus=gpus, gpu_memory=gpu_memory)
    return MemoryCheck(plan, stage, gpu_memory, usable(gpu_memory), fits, changes)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Single change. A later one of the same kind replaces an earlier one."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    gpus: int | None = None


def find_changes(
    config: RunConfig, arch: Architecture, learning: frozenset[str], *, gpus: int, gpu_memory: int
) -> list[Change]:
    """Find changes with which a run fits its GPUs, by trying them.

    Args:
        config: configuration of the run.
        arch: architecture of its model.
        learning: names of the parameters that learn.
        gpus: number of GPUs.
        gpu_memory: memory of one GPU in bytes.

    Returns:
        All single changes that are enough, the cheapest first. If there are none: one combination of
        the cheapest changes, without unnecessary ones. Empty if nothing helps.
    """

    def apply(candidates: list[_Candidate]) -> tuple[RunConfig, int]:
        settings = {key: value for candidate in candidates for key, value in candidate.settings.items()}
        return functools.reduce(_with, settings.items(), config), max(
            [gpus, *(candidate.gpus or 0 for candidate in candidates)]
        )

    def estimate(candidates: list[_Candidate]) -> MemoryEstimate:
        new, count = apply(candidates)
        return estimate_memory(new, arch, learning, gpus=count)

    def change(candidates: list[_Candidate]) -> Change:
        options = _options(candidates) + [f"--gpus {candidate.gpus}" for candidate in candidates if candidate.gpus]
        needed = estimate(candidates)
        return Change(tuple(options), needed.gpu, needed.host)

    def more_gpus(candidates: list[_Candidate]) -> list[_Candidate]:
        count = 2 * gpus
        while count <= MOST_GPUS:
            candidate = _Candidate("gpus", gpus=count)
            needed = estimate([*candidates, candidate])
            if needed.fits(gpu_memory):
                return [candidate]
            room = usable(gpu_memory) - needed.step.total
            if needed.offloaded or room <= 0:  # more GPUs do not reduce the memory of the step itself
                return []
            count *= 2
            while (needed.gpu - needed.step.total) * needed.gpus > room * count:
                count *= 2
        return []

    candidates = list(_candidates(config, gpus))
    enough: dict[str, _Candidate] = {}
    for candidate in candidates:
        if candidate.kind not in enough and estimate([candidate]).fits(gpu_memory):
            enough[candidate.kind] = candidate
    singles = [*enough.values(), *more_gpus([])]
    if singles:
        return [change([candidate]) for candidate in singles]
    chosen: list[_Candidate] = []
    for candidate in candidates:
        chosen = [other for other in chosen if other.kind != candidate.kind] + [candidate]
        if estimate(chosen).fits(gpu_memory):
            break
    else:
        without_offload = [candidate for candidate in chosen if candidate.kind != "offload"]
        more = more_gpus(without_offload)
        if not more:
            return []
        chosen = [*without_offload, *more]
    for candidate in list(chosen):
        without = [other for other in chosen if other is not candidate]
        chosen = without if estimate(without).fits(gpu_memory) else chosen
    return [change(chosen)]


def _candidates(config: RunConfig, gpus: int) -> Iterator[_Candidate]:
    """Yield the settings that save memory, those that cost the least speed first."""
    settings, fsdp, batch = config.training_settings, config.fsdp_settings, config.train_dataset.batch_size
    if not settings.activation_checkpointing:
        yield _Candidate("checkpointing", {"training_settings.activation_checkpointing": True})
    if config.optimizer.name != "adamw8bit":
        yield _Candidate("optimizer", {"optimizer.name": "adamw8bit"})
    # Divisors of the batch, so that the number of images per step stays the same.
    for smaller in (size for size in range(batch - 1, 0, -1) if batch % size == 0):
        accumulated = settings.grad_accum_steps * batch // smaller
        yield _Candidate(
            "batch", {"train_dataset.batch_size": smaller, "training_settings.grad_accum_steps": accumulated}
        )
    if gpus > 1 and not fsdp.reshard_after_forward:
        yield _Candidate("reshard", {"fsdp_settings.reshard_after_forward": True})
    if gpus > 1 and not fsdp.cpu_offload:
        yield _Candidate("offload", {"fsdp_settings.cpu_offload": True})


def list_savings(config: RunConfig, gpus: int) -> list[str]:
    """List the settings that save memory, as command-line options: the mildest of each kind."""
    candidates = {candidate.kind: candidate for candidate in reversed(list(_candidates(config, gpus)))}
    return [" ".join(_options([candidate])) for candidate in reversed(candidates.values())]


def _options(candidates: Iterable[_Candidate]) -> list[str]:
    """Format changes as command-line options."""
    return [
        f"--set {key}={str(value).lower()}" for candidate in candidates for key, value in candidate.settings.items()
    ]


def _with(section: Any, item: tuple[str, Any]) -> Any:
    """Return a configuration with one dotted key changed."""
    (head, _, rest), value = item[0].partition("."), item[1]
    return dataclasses.replace(section, **{head: _with(getattr(section, head), (rest, value)) if rest else value})
