"""Export a checkpoint."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cwsam_cli.checkpoints.calibration import hash_weights
from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint
from cwsam_cli.checkpoints.exported import describe_model
from cwsam_cli.export.card import write_card
from cwsam_cli.export.ground import TrainingGround, find_ground
from cwsam_cli.export.onnx_file import write_onnx
from cwsam_cli.export.pt2_file import write_pt2
from cwsam_cli.export.request import ExportRequest
from cwsam_cli.export.safetensors_file import write_safetensors
from cwsam_cli.export.scores import read_scores
from cwsam_cli.export.stac import Artifact, make_item
from cwsam_cli.files import staged, write_text
from cwsam_cli.raster.sources.catalog import file_fields


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An exported model."""

    path: Path
    bytes: int
    """Size of the file, and of the weights beside it."""
    weights_sha256: str
    """Hash of the checkpoint's weights."""
    difference: float | None
    """Largest difference of a probability from the checkpoint's, on one image of noise. None for weights alone."""
    card: Path | None
    stac: Path | None


_WRITERS: dict[str, Callable[[Checkpoint, str, Path], float | None]] = {
    ".onnx": write_onnx,
    ".pt2": write_pt2,
    ".safetensors": write_safetensors,
}
"""Function for each of `ENDINGS`."""


def export(request: ExportRequest) -> ExportResult:
    """Write a checkpoint as a file for other programs.

    Raises:
        UsageError: an output exists.
        DataError: the report measures another model.
        CheckpointError: the checkpoint cannot be read.
        MachineError: a package is not installed.
    """
    request.refuse_early()
    checkpoint = load_checkpoint(request.checkpoint)
    scores = None if request.report is None else read_scores(request.report, request.checkpoint)
    ground = find_ground(checkpoint) if request.card or request.stac else TrainingGround(tiles={})
    digest = hash_weights(checkpoint.weights)
    with staged(request.output, overwrite=request.overwrite) as target:
        difference = _WRITERS[request.output.suffix.lower()](checkpoint, describe_model(checkpoint, digest), target)
        size = sum(path.stat().st_size for path in target.parent.iterdir())
    if request.card is not None:
        text = write_card(request.name, request.output.name, digest, checkpoint, ground, scores)
        write_text(request.card, text)
    if request.stac is not None:
        item = make_item(request.name, _artifact(request.output, request.stac), checkpoint, ground)
        write_text(request.stac, json.dumps(item, indent=2, ensure_ascii=False) + "\n")
    return ExportResult(request.output, size, digest, difference, request.card, request.stac)


def _artifact(path: Path, item: Path) -> Artifact:
    href = Path(os.path.relpath(path.resolve(), item.resolve().parent)).as_posix()
    return Artifact(href=href, ending=path.suffix.lower(), file=file_fields(path))
