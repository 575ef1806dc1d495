"""Open the weights that `sam_checkpoint` names: of Segment Anything, ClassWise-SAM-Adapter or cwsam."""

import hashlib
from pathlib import Path

import torch

from cwsam_cli.checkpoints.checkpoint import FORMAT, load_checkpoint, read_torch_file
from cwsam_cli.checkpoints.download import download
from cwsam_cli.checkpoints.newest import find_best
from cwsam_cli.console import log
from cwsam_cli.errors import CheckpointError
from cwsam_cli.files import sha256
from cwsam_cli.model.names import is_class_wise, join_no_mask
from cwsam_cli.model.weights import LoadReport, PretrainedWeights

_OFFICIAL = {
    "sam_vit_h": ("sam_vit_h_4b8939.pth", "4b8939"),
    "sam_vit_l": ("sam_vit_l_0b3195.pth", "0b3195"),
    "sam_vit_b": ("sam_vit_b_01ec64.pth", "01ec64"),
}
_OFFICIAL_URL = "https://dl.fbaipublicfiles.com/segment_anything/"


def open_pretrained(name: str) -> PretrainedWeights:
    """Open pretrained weights. They stay on disk until they are used.

    Args:
        name: path, URL, or `sam_vit_b`, `sam_vit_l`, `sam_vit_h` for the official files. Downloads
            are kept in torch's cache.

    Raises:
        CheckpointError: the file does not exist, is a folder, or holds other weights.
        MachineError: the download failed.
    """
    path = locate(name)
    if not path.is_file():
        hint = f"give a file, a URL, or one of {', '.join(_OFFICIAL)}"
        if path.is_dir():
            inside = find_best(path)
            raise CheckpointError(f"`{path}` is a folder, not a checkpoint", hint=f"use {inside}" if inside else hint)
        raise CheckpointError(f"there is no checkpoint `{path}`", hint=hint)
    raw = read_torch_file(path)
    if isinstance(raw, dict) and raw.get("format") == FORMAT:
        ours = load_checkpoint(path)
        return PretrainedWeights(
            ours.weights, [band.name for band in ours.bands], ours.taxonomy.names, ours.architecture, ours.grown
        )
    entries = raw.items() if isinstance(raw, dict) else ()
    weights = {key: value for key, value in entries if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if "image_encoder.patch_embed.proj.weight" not in weights:
        raise CheckpointError(
            f"`{path}` holds neither Segment Anything's weights nor a checkpoint of cwsam",
            hint="Segment Anything's files have keys such as image_encoder.patch_embed.proj.weight",
        )
    return PretrainedWeights(join_no_mask(weights) if is_class_wise(weights) else weights)


def locate(name: str) -> Path:
    """Return the path of pretrained weights, and download them if needed.

    Args:
        name: as in `open_pretrained`.

    Raises:
        MachineError: the download failed.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    if name in _OFFICIAL:
        file, digits = _OFFICIAL[name]
        return download(_OFFICIAL_URL + file, cache / file, sha256_prefix=digits)
    if name.startswith(("http://", "https://")):
        file = name.rpartition("/")[2]
        digits = next((prefix for official, prefix in _OFFICIAL.values() if official == file), "")
        if not digits:  # files from different places may have the same name
            file = f"{hashlib.sha256(name.encode()).hexdigest()[:12]}-{file}"
        return download(name, cache / file, sha256_prefix=digits)
    return Path(name)


def describe_source(name: str) -> str:
    """Name pretrained weights that are on this machine, with the SHA-256 of their file."""
    return f"{name}, SHA-256 {sha256(locate(name))}"


def log_report(report: LoadReport) -> None:
    """Log how a checkpoint was loaded: a summary, and every tensor with --verbose."""
    log.info("%s", report.summary())
    for remark in report.remarks:
        log.warning("%s", remark)
    for row in report.rows:
        log.debug("%-11s %s  %s", row.how, row.name, row.note)
