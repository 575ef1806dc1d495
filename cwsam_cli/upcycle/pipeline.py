"""Grow a smaller checkpoint into a configuration's model, tensor by tensor."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint, reserved_checkpoint
from cwsam_cli.checkpoints.pretrained import describe_source, locate, log_report, open_pretrained
from cwsam_cli.config.load import dataset_taxonomy
from cwsam_cli.config.schema import RunConfig, UpcycleConfig
from cwsam_cli.console import track
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.errors import ConfigError
from cwsam_cli.files import refuse_existing, refuse_input
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.model.weights import LoadReport, PretrainedWeights, load_pretrained, make_weights

# Bands that Segment Anything was trained on: 8-bit red, green and blue.
_SAM_BANDS = (
    Band(name="red", mean=123.675, std=58.395),
    Band(name="green", mean=116.28, std=57.12),
    Band(name="blue", mean=103.53, std=57.375),
)


@dataclass(frozen=True, slots=True)
class UpcycleResult:
    """Result of growing a checkpoint."""

    path: Path
    """The grown checkpoint."""
    parameters: int
    """Number of its parameters."""
    loaded_share: float
    """Share of its values that come from the smaller checkpoint, 0 to 1."""
    relative_change: float
    """‖grown - source‖ / ‖source‖ of the encoder's output on one random image."""


def upcycle(source: str, config: RunConfig, output: Path, *, overwrite: bool = False) -> UpcycleResult:
    """Grow a checkpoint into a configuration's model.

    The output file is allocated first and written tensor by tensor. Besides the system's cache of
    both files, this needs a few times the memory of the largest tensor.

    Args:
        source: path, URL or official name, as in `sam_checkpoint` of a configuration.
        config: configuration of the larger model.
        output: path of the grown checkpoint.
        overwrite: whether to replace an existing file.

    Raises:
        CheckpointError: the checkpoint does not fit the configuration's model.
    """
    path = locate(source)
    refuse_input(output, path)
    refuse_existing(output, overwrite=overwrite)
    opened = open_pretrained(source)
    about = _about(opened, path, config)
    arch = architecture(config.model, num_bands=len(about.bands), num_classes=len(about.taxonomy))
    with torch.device("meta"):
        shapes = ClassWiseSam(arch).state_dict()
    report = LoadReport()
    made = make_weights(
        arch,
        opened,
        report,
        band_names=[band.name for band in about.bands],
        class_names=about.taxonomy.names,
        upcycle=config.model.args.upcycle,
        seed=config.training_settings.seed,
    )
    origin = describe_source(source)
    empty = dataclasses.replace(
        about, architecture=arch, weights=shapes, grown=_grows(opened, arch), started_from=origin
    )
    with reserved_checkpoint(empty, output) as weights:
        for name, tensor in track(made, "growing", total=len(shapes), unit="tensor"):
            weights[name].copy_(tensor)
    log_report(report)
    grown = load_checkpoint(output)
    change = _relative_change(_source_model(opened, arch, about), grown.model())
    count = sum(tensor.numel() for tensor in shapes.values())
    return UpcycleResult(output, count, report.loaded_share, change)


def _grows(opened: PretrainedWeights, arch: Architecture) -> bool:
    """Check whether group 0 of the encoder comes from a smaller model: this one, or one before it."""
    groups_before = opened.architecture.moe_num_expert_groups if opened.architecture else 0
    return opened.grown or groups_before < arch.moe_num_expert_groups


def _about(opened: PretrainedWeights, path: Path, config: RunConfig) -> Checkpoint:
    """Describe the data of the grown checkpoint, as the smaller checkpoint or Segment Anything has it."""
    named = dataset_taxonomy(config.train_dataset.dataset.args)
    if opened.architecture is not None:
        ours = load_checkpoint(path)
        table = named or ours.taxonomy
        return dataclasses.replace(ours, taxonomy=table, metrics={}, epoch=0, provenance=None, calibration=None)
    if named is None:
        raise ConfigError(
            "`train_dataset.dataset.args.classes` is missing, and the checkpoint has no classes",
            hint="--set train_dataset.dataset.args.classes=land_cover_33",
        )
    return Checkpoint(
        weights={},
        architecture=architecture(config.model, num_bands=3, num_classes=len(named)),
        taxonomy=named,
        bands=_SAM_BANDS,
        dtype="uint8",
        gsd_m=None,
        ignore_background=config.train_dataset.dataset.args.ignore_bg,
        epoch=0,
        metrics={},
    )


def _source_model(opened: PretrainedWeights, arch: Architecture, about: Checkpoint) -> ClassWiseSam:
    own = opened.architecture or dataclasses.replace(
        arch, moe_num_expert_groups=0, moe_decoder_experts=0, adaptor="none", input_type="none"
    )
    bands = opened.band_names or [band.name for band in about.bands]
    classes = opened.class_names or about.taxonomy.names
    own = dataclasses.replace(own, inp_size=arch.inp_size)
    return load_pretrained(own, opened, band_names=bands, class_names=classes, upcycle=UpcycleConfig())[0]


def _relative_change(source: ClassWiseSam, grown: ClassWiseSam) -> float:
    """Compute ‖grown - source‖ / ‖source‖ of the encoder's features on one image of noise."""
    generator = torch.Generator().manual_seed(0)
    size = grown.arch.inp_size
    with torch.inference_mode():
        image = torch.randn(1, grown.arch.num_bands, size, size, generator=generator)
        before = source.eval().image_encoder(image[:, : source.arch.num_bands])
        after = grown.eval().image_encoder(image)
    return float((after - before).norm() / before.norm())
