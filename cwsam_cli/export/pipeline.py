"""Export a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch

from cwsam_cli.checkpoints.calibration import hash_weights
from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint
from cwsam_cli.checkpoints.exported import DIVISOR, KEY, describe_model
from cwsam_cli.console import log
from cwsam_cli.dataset.transforms import band_statistics
from cwsam_cli.export.deepness import deepness_metadata
from cwsam_cli.export.network import PortableNetwork
from cwsam_cli.export.onnx_file import write_onnx
from cwsam_cli.export.request import ExportRequest
from cwsam_cli.files import staged


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An exported model."""

    path: Path
    bytes: int
    """Size of the file, and of the weights beside it."""
    weights_sha256: str
    """Hash of the checkpoint's weights."""
    difference: float
    """Largest difference of a probability from the checkpoint's, on one image of noise."""


def export(request: ExportRequest) -> ExportResult:
    """Write a checkpoint as a file for other programs.

    Raises:
        UsageError: the output exists.
        CheckpointError: the checkpoint cannot be read.
        MachineError: a package is not installed.
    """
    request.refuse_early()
    checkpoint = load_checkpoint(request.checkpoint)
    _warn(checkpoint)
    digest = hash_weights(checkpoint.weights)
    image = _noise(checkpoint)
    with staged(request.output, overwrite=request.overwrite) as target:
        metadata = deepness_metadata(checkpoint) | {KEY: describe_model(checkpoint, digest)}
        difference = write_onnx(PortableNetwork(checkpoint, DIVISOR), image, metadata, target)
        size = sum(path.stat().st_size for path in target.parent.iterdir())
    return ExportResult(request.output, size, digest, difference)


def _warn(checkpoint: Checkpoint) -> None:
    if checkpoint.dtype != "uint8":
        log.warning(
            "the model was trained on %s scenes, but Deepness documents uint8 only: "
            "in QGIS the map may be wrong, in `cwsam predict` it is right",
            checkpoint.dtype,
        )
    if checkpoint.gsd_m is None:
        log.warning("the model does not know its pixel size, so Deepness will ask for it")


def _noise(checkpoint: Checkpoint) -> torch.Tensor:
    """Make one window (1, C, S, S) with the mean and the standard deviation of the training ground."""
    size = checkpoint.architecture.inp_size
    mean, std = band_statistics(checkpoint.bands)
    return mean + std * torch.randn(1, len(checkpoint.bands), size, size, generator=torch.Generator().manual_seed(0))
