"""Estimate the size of a configuration's model, and the memory and time that training needs."""

from dataclasses import dataclass

import torch

from cwsam_cli.config.load import dataset_taxonomy
from cwsam_cli.config.schema import RunConfig
from cwsam_cli.learning.stages import learning_names
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.plan.cards import CARDS, Card
from cwsam_cli.plan.check import MemoryCheck, check_memory, list_savings
from cwsam_cli.plan.memory import estimate_memory
from cwsam_cli.plan.parameters import model_size
from cwsam_cli.plan.speed import TimeCheck, check_time


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """Estimate of a run."""

    model: str
    total: int
    """Number of parameters."""
    active: int
    """Parameters that are active for one token."""
    trainable: dict[str, int]
    """Parameters that learn, by stage; without stages, the key is `all`."""
    parts: dict[str, int]
    """Parameters by part of the model."""
    flops: int
    """Floating-point operations of one forward pass of one image."""
    memory: MemoryCheck | None
    """Memory on the GPUs; None if no number of GPUs was given."""
    time: TimeCheck | None
    """Time of a step; None if no number of GPUs was given."""


def estimate_run(
    config: RunConfig,
    *,
    bands: int = 3,
    gpus: int | None = None,
    gpu_memory: int | None = None,
    card: Card = CARDS["h100"],
) -> RunEstimate:
    """Estimate a run on the meta device.

    Args:
        config: configuration of the run.
        bands: number of image bands, which the configuration does not contain.
        gpus: number of GPUs to train on; None leaves out memory and time.
        gpu_memory: memory of one GPU in bytes; None: that of the card.
        card: peak rates of one GPU.
    """
    arch, counts, learning = learning_by_stage(config, bands)
    size = model_size(arch)
    trainable = {stage: sum(counts[name] for name in names) for stage, names in learning.items()}
    fit = time = None
    if gpus is not None:
        fit = check_memory(config, arch, learning, gpus=gpus, gpu_memory=gpu_memory or card.memory)
        time = check_time(config, arch, frozenset(learning[fit.stage]), gpus=gpus, card=card)
    return RunEstimate(config.model.name, size.total, size.active, trainable, size.parts, size.flops, fit, time)


def explain_overflow(config: RunConfig, *, gpus: int, device: str) -> str:
    """Write the hint for a run that ran out of memory: settings that save memory, and where the memory goes.

    Args:
        config: configuration of the run.
        gpus: number of its processes.
        device: `cuda` or `cpu`.
    """
    arch, _, learning = learning_by_stage(config, bands=3)
    most = max(learning.values(), key=len)
    memory = estimate_memory(config, arch, frozenset(most), gpus=gpus, device=device)
    tries = list_savings(config, gpus) or ["more GPUs"]
    return "\n".join(
        [
            "try these settings, one after the other:",
            *(f"  {words}" for words in tries),
            "",
            "computed memory:",
            memory.as_text(),
        ]
    )


def learning_by_stage(config: RunConfig, bands: int) -> tuple[Architecture, dict[str, int], dict[str, set[str]]]:
    """Return the architecture, the size of each parameter, and the parameters that learn in each stage."""
    taxonomy = dataset_taxonomy(config.train_dataset.dataset.args)
    classes = config.model.args.num_classes or (len(taxonomy) if taxonomy else 33)
    arch = architecture(config.model, num_bands=bands, num_classes=classes)
    with torch.device("meta"):
        counts = {name: parameter.numel() for name, parameter in ClassWiseSam(arch).named_parameters()}
    grown = config.sam_checkpoint is not None
    frozen_base = grown and arch.moe_num_expert_groups > 1 and config.model.args.freeze_base_group
    stages: list[str | None] = [stage.name for stage in config.stages]
    learning = {
        stage or "all": learning_names(
            counts, arch, from_checkpoint=grown, frozen_base=frozen_base, stage=stage, extra_bands=bands > 3
        )
        for stage in stages or [None]
    }
    return arch, counts, learning
