"""Estimate the memory that a run needs on each GPU.

A rank's shards of weights, gradients and optimizer state are counted exactly. Everything else is
the peak of one simulated step (`simulate`). We count all gradients as live at the peak. Without
accumulation this overestimates, so the sum is an upper bound.
"""

import dataclasses
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch.distributed as dist

from cwsam_cli.config.schema import RunConfig, TrainingSettings
from cwsam_cli.learning.optim import MIN_8BIT_VALUES, VALUES_PER_SCALE
from cwsam_cli.model.variants import Architecture
from cwsam_cli.plan.cards import MACHINE
from cwsam_cli.plan.live import LiveBytes
from cwsam_cli.plan.simulate import SimulatedStep, simulate_step

RESERVE = 0.06
"""Share of a GPU's memory kept for the driver, buffers of NCCL and cuDNN, and fragmentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Memory of the fullest GPU; all sizes in bytes."""

    gpus: int
    device: str
    """`cuda`, or `cpu` for processes instead of GPUs."""
    optimizer_name: str
    precision: str
    batch_size: int
    parameters: int
    """Shards of the weights, in float32."""
    gradients: int
    """Shards of the gradients of the weights that learn."""
    optimizer: int
    """Shards of the optimizer state."""
    average: int
    """Shards of the moving average of the weights, with `ema`."""
    offloaded: bool
    """Whether these four are in host memory."""
    step: LiveBytes
    """Further memory at the peak of a step."""
    updating: int
    """Temporary memory of the optimizer, after the step's activations are freed."""
    activations_kept: int
    """Largest activations without `activation_checkpointing`."""
    activations_recomputed: int
    """Largest activations with `activation_checkpointing`."""
    unevenness: float
    """Largest share of the weights, divided by the mean share."""
    gpu: int
    """Total in the memory of a GPU."""
    host: int
    """Total in host memory for one GPU."""

    def fits(self, gpu_memory: int) -> bool:
        """Check whether the estimate and the reserve fit in a GPU of so many bytes."""
        return self.gpu <= usable(gpu_memory)

    def as_text(self) -> str:
        """Format one line per part."""
        where = "in host memory" if self.offloaded else ""
        uneven = f"largest share {self.unevenness:.2f} × the mean" if self.gpus > 1 else ""
        unit = "GPU" if self.device == "cuda" else "process"
        several = "GPUs" if self.device == "cuda" else "processes"
        copies = "" if self.precision == "fp32" else f"copies in {self.precision} included"
        recomputed, kept = gigabytes(self.activations_recomputed), gigabytes(self.activations_kept)
        rows = [
            ("parameters", self.parameters, ["float32", where, uneven]),
            ("gradients", self.gradients, [where]),
            (f"optimizer state, {self.optimizer_name}", self.optimizer, [where]),
            ("moving average", self.average, [where]),
            ("gathered weights", self.step.gathered, [copies]),
            ("gradients being summed", self.step.reducing, []),
            (
                f"activations, batch {self.batch_size}",
                self.step.activations,
                [f"at most {recomputed} with activation_checkpointing, {kept} without"],
            ),
            ("optimizer update", self.updating, ["instead of the three lines above, if larger"]),
            (f"each of {self.gpus} {several}" if self.gpus > 1 else f"the {unit}", self.gpu, []),
            (
                f"host memory per {unit}",
                self.host,
                [f"{gigabytes(self.host * min(self.gpus, MACHINE))} per machine of {min(self.gpus, MACHINE)}"],
            ),
        ]
        return "\n".join(
            f"{name:<28}{gigabytes(size):>12}   {', '.join(filter(None, notes))}".rstrip()
            for name, size, notes in rows
            if size
        )


def usable(gpu_memory: int) -> int:
    """Return a GPU's memory without the reserve, in bytes."""
    return round(gpu_memory * (1 - RESERVE))


def gigabytes(size: int) -> str:
    """Format a size in GB (10⁹ bytes)."""
    return f"{size / 1e9:,.2f} GB"


def estimate_memory(
    config: RunConfig, arch: Architecture, learning: frozenset[str], *, gpus: int, device: str = "cuda"
) -> MemoryEstimate:
    """Estimate the memory that each GPU needs.

    Args:
        config: configuration of the run.
        arch: architecture of its model.
        learning: names of the parameters that learn, in the stage in which most do.
        gpus: number of GPUs.
        device: `cuda` or `cpu`, whose autocast is simulated.
    """
    if dist.is_initialized():  # a process can have only one process group, so simulate in another process
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            return apart.submit(estimate_memory, config, arch, learning, gpus=gpus, device=device).result()
    settings, fsdp = config.training_settings, config.fsdp_settings
    kept, recomputed = (
        simulate_run(config, arch, learning, gpus=gpus, device=device, checkpointed=checkpointed)
        for checkpointed in (False, True)
    )
    step = recomputed if settings.activation_checkpointing else kept
    offloaded = fsdp.cpu_offload and gpus > 1
    learns = sum(share for share, _ in step.learning)
    shares = {
        "parameters": 4 * sum(step.shards),
        "gradients": 4 * learns,
        "optimizer": sum(_STATE[config.optimizer.name](share, whole) for share, whole in step.learning),
        "average": 4 * learns if settings.ema is not None else 0,
    }
    together = sum(shares.values())
    # torch's AdamW on CUDA makes the square roots of all second averages at once, other optimizers one by one.
    updating = 4 * learns if config.optimizer.name == "adamw" and device == "cuda" and not offloaded else 0
    return MemoryEstimate(
        gpus=gpus,
        device=device,
        optimizer_name=config.optimizer.name,
        precision=settings.precision,
        batch_size=config.train_dataset.batch_size,
        **shares,
        offloaded=offloaded,
        step=step.worst,
        updating=updating,
        activations_kept=kept.activations,
        activations_recomputed=recomputed.activations,
        unevenness=step.unevenness,
        gpu=(0 if offloaded else together) + max(step.worst.total, updating),
        host=together if offloaded else 0,
    )


def simulate_run(
    config: RunConfig, arch: Architecture, learning: frozenset[str], *, gpus: int, device: str, checkpointed: bool
) -> SimulatedStep:
    """Simulate a step of a run; see `estimate_memory` for the arguments.

    Offloading changes nothing here. Equal steps are simulated once.
    """
    settings = config.training_settings
    return simulate_step(
        arch,
        learning,
        gpus=gpus,
        batch=config.train_dataset.batch_size,
        loss=config.model.args.loss,
        smoothing=config.model.args.label_smoothing,
        settings=TrainingSettings(
            precision=settings.precision,
            grad_accum_steps=settings.grad_accum_steps,
            activation_checkpointing=checkpointed,
        ),
        fsdp=dataclasses.replace(config.fsdp_settings, cpu_offload=False),
        device=device,
    )


def _adamw(share: int, whole: int) -> int:
    return 8 * share + 4  # two averages in float32, and the step count


def _adamw_8bit(share: int, whole: int) -> int:
    return 8 * share if whole < MIN_8BIT_VALUES else 2 * share + 8 * math.ceil(share / VALUES_PER_SCALE)


_STATE = {"adamw": _adamw, "adamw8bit": _adamw_8bit}
