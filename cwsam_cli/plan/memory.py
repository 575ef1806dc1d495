"""What a run needs of each GPU's memory, computed before anything is there to measure.

A rank's own part of the weights, gradients and optimizer state is counted exactly; what comes
and goes beside it is the worst moment of one step, run on an imagined device (`imagine`).
All gradients count as being there at that moment. With accumulated batches they are; with one
batch a step they are not yet, and the sum is a bound.
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
from cwsam_cli.plan.live import Bytes
from cwsam_cli.plan.simulate import simulate_step

RESERVE = 0.06
"""Share of a GPU's memory left to the driver's context, NCCL's and cuDNN's buffers, and gaps between blocks."""
MACHINE = 8
"""GPUs of a machine, for the host memory that offloading takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of the fullest GPU."""

    gpus: int
    device: str
    """`cuda`, or `cpu` where processes take the GPUs' place."""
    optimizer_name: str
    precision: str
    batch_size: int
    parameters: int
    """Its share of the weights, in float32."""
    gradients: int
    """Its share of the gradients of all that learns."""
    optimizer: int
    """Its share of the optimizer's state."""
    average: int
    """Its share of the moving average of the weights, with `ema`."""
    offloaded: bool
    """These four lie in the host's memory."""
    step: Bytes
    """What a step needs beside them at its worst moment."""
    updating: int
    """What the optimizer needs beside them, after the step's activations are gone."""
    activations_kept: int
    """At the moment that is worst for activations, without `activation_checkpointing`."""
    activations_recomputed: int
    """The same with it."""
    unevenness: float
    """The largest share of the weights against the mean."""
    gpu: int
    """All that lies in a GPU's memory."""
    host: int
    """All that lies in the host's memory for one GPU."""

    def fits(self, gpu_memory: int) -> bool:
        """Whether a GPU of so many bytes has room for it and the reserve."""
        return self.gpu <= usable(gpu_memory)

    def as_text(self) -> str:
        """A line for each part."""
        where = "in the host's memory" if self.offloaded else ""
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
            ("the optimizer's step", self.updating, ["instead of the three above, if more"]),
            (f"each of {self.gpus} {several}" if self.gpus > 1 else f"the {unit}", self.gpu, []),
            (
                f"the host, for each {unit}",
                self.host,
                [f"{gigabytes(self.host * min(self.gpus, MACHINE))} a machine of {min(self.gpus, MACHINE)}"],
            ),
        ]
        return "\n".join(
            f"{name:<28}{gigabytes(size):>12}   {', '.join(filter(None, notes))}".rstrip()
            for name, size, notes in rows
            if size
        )


def usable(gpu_memory: int) -> int:
    """A GPU's bytes without the reserve."""
    return round(gpu_memory * (1 - RESERVE))


def gigabytes(size: int) -> str:
    """As people read it, in 10⁹ bytes."""
    return f"{size / 1e9:,.2f} GB"


def estimate_memory(
    config: RunConfig, arch: Architecture, learning: frozenset[str], *, gpus: int, device: str = "cuda"
) -> MemoryEstimate:
    """Compute what each GPU needs.

    Args:
        config: the run.
        arch: its model.
        learning: names of the parameters that learn, in the stage in which most do.
        gpus: how many there are.
        device: whose autocast, `cuda` or `cpu`.
    """
    if dist.is_initialized():  # within a run: a process can be of one group only, so imagine in another process
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            return apart.submit(estimate_memory, config, arch, learning, gpus=gpus, device=device).result()
    settings, fsdp = config.training_settings, config.fsdp_settings
    kept, recomputed = (
        simulate_step(
            arch,
            learning,
            gpus=gpus,
            batch=config.train_dataset.batch_size,
            loss=config.model.args.loss,
            smoothing=config.model.args.label_smoothing,
            settings=TrainingSettings(
                precision=settings.precision,
                grad_accum_steps=min(settings.grad_accum_steps, 2),  # a third batch is as the second
                activation_checkpointing=checkpointed,
            ),
            fsdp=dataclasses.replace(fsdp, cpu_offload=False),
            device=device,
        )
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
    # torch's AdamW on CUDA takes the square root of all second averages at once; the others go one by one.
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


def _adamw(share: int, whole: int) -> int:
    return 8 * share + 4  # two averages in float32, and the step


def _adamw_8bit(share: int, whole: int) -> int:
    return 8 * share if whole < MIN_8BIT_VALUES else 2 * share + 8 * math.ceil(share / VALUES_PER_SCALE)


_STATE = {"adamw": _adamw, "adamw8bit": _adamw_8bit}
