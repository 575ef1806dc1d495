"""Read and write checkpoints: weights, and everything that `predict` must know about them.

A checkpoint contains only plain values and tensors, so `torch.load(weights_only=True)` reads it.
"""

import dataclasses
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cwsam_cli.checkpoints.calibration import Calibration
from cwsam_cli.checkpoints.newest import refuse_missing
from cwsam_cli.config.load import validate
from cwsam_cli.dataset.manifest import Band, is_number_type
from cwsam_cli.distributed.shards import gather_tensor
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError, ConfigError, MachineError
from cwsam_cli.files import staged
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.taxonomy import Taxonomy

FORMAT = "cwsam checkpoint"
VERSION = 1

_AS_WRITTEN = "use the file as training wrote it, without changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Origin of a trained model."""

    date: str
    """Time at which the run started or resumed, ISO 8601, UTC."""
    versions: dict[str, str]
    """Versions of this program and its libraries, by name."""
    config: str
    """Configuration of the run, as YAML."""
    data: str
    """Folder of the training images."""
    data_sha256: str
    """SHA-256 of the names and sizes of all training and validation tiles, in the order of their names."""
    tiles: dict[str, int]
    """Number of training and validation tiles, by split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A trained model with its class table and bands."""

    __pydantic_config__: ClassVar[Any] = {"arbitrary_types_allowed": True}

    weights: dict[str, torch.Tensor]
    architecture: Architecture
    taxonomy: Taxonomy
    bands: tuple[Band, ...]
    dtype: str
    """Data type of the images it was trained on, as numpy names it."""
    gsd_m: float | None
    """Ground sampling distance in metres per pixel; None if the scenes have no CRS."""
    ignore_background: bool
    """Code 0 counted as unlabelled in training."""
    grown: bool = False
    """Group 0 of the experts comes from a smaller model. `freeze_base_group` then freezes it."""
    epoch: int
    """Number of training epochs."""
    metrics: dict[str, float]
    """`mean_iou` and `accuracy` on the validation split, 0 to 1; may be empty."""
    started_from: str = ""
    """The weights that training or growing started from, with the SHA-256 of their file; empty for random weights."""
    provenance: Provenance | None = None
    """None in a file that an older version of this program wrote."""
    calibration: Calibration | None = None
    """None if the model is as training left it."""

    @property
    def hidden_class(self) -> int | None:
        """Index of code 0 if it counted as unlabelled, otherwise None. This class is never predicted."""
        return self.taxonomy.codes.index(0) if self.ignore_background and 0 in self.taxonomy.codes else None

    def finite_weight(self, name: str) -> torch.Tensor:
        """Return a tensor after checking all its values.

        Raises:
            CheckpointError: a value is NaN or infinite, or the tensor does not exist.
        """
        if name not in self.weights:
            raise CheckpointError(f"the checkpoint has no `weights.{name}`", hint=_AS_WRITTEN)
        tensor = self.weights[name]
        if tensor.is_floating_point() and tensor.numel() and not math.isfinite(_span(tensor)):
            raise CheckpointError(
                f"`weights.{name}` of the checkpoint has NaN or infinite values",
                hint="the training diverged: use an earlier checkpoint, or train with a lower lr",
            )
        return tensor

    def model(self) -> ClassWiseSam:
        """Build the network with these weights, in evaluation mode.

        Raises:
            CheckpointError: the weights do not fit the architecture, or are not finite.
        """
        with torch.device("meta"):
            model = ClassWiseSam(self.architecture)
        try:
            model.load_state_dict({name: self.finite_weight(name) for name in self.weights}, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint's weights do not fit its own architecture: {str(error).splitlines()[-1].strip()}",
                hint=_AS_WRITTEN,
            ) from None
        return model.eval()


def _span(tensor: torch.Tensor) -> float:
    """Return the largest value minus the smallest. The result is not finite if any value is not."""
    least, largest = torch.aminmax(tensor)
    return largest.item() - least.item()


def save_checkpoint(checkpoint: Checkpoint, path: Path, world: World | None = None) -> None:
    """Write a checkpoint. An existing file is replaced only when the new one is complete.

    Sharded weights are gathered one at a time and written straight into the file, so no process
    holds the whole model.

    Args:
        checkpoint: the checkpoint; its weights may be sharded.
        path: the file. The first process writes it.
        world: the processes of the run, which all call this; None for a single process.
    """
    if world is None or world.size == 1:
        weights = {name: tensor.detach().cpu() for name, tensor in checkpoint.weights.items()}
        with staged(path, overwrite=True) as target:
            _save(dataclasses.replace(checkpoint, weights=weights), target)
        return
    with ExitStack() as stack:
        weights = stack.enter_context(reserved_checkpoint(checkpoint, path)) if world.is_main else {}
        for name, tensor in checkpoint.weights.items():
            value = gather_tensor(tensor.detach(), world.device)
            if world.is_main:
                weights[name].copy_(value)
            world.beat()


@contextmanager
def reserved_checkpoint(checkpoint: Checkpoint, path: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Create a checkpoint file and map its weights into memory, so that the caller can write them.

    Values copied into the yielded tensors go to disk. A checkpoint larger than memory can thus
    be written tensor by tensor.

    Args:
        checkpoint: the checkpoint. Only names and shapes of its weights are used, so they may be on
            the meta device.
        path: the file. It appears when the `with` statement ends without an error.

    Yields:
        The weights of the file by name.
    """
    with staged(path, overwrite=True) as target:
        with FakeTensorMode():
            empty = {
                name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                for name, tensor in checkpoint.weights.items()
            }
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            _save(dataclasses.replace(checkpoint, weights=empty), target)
        if hasattr(os, "posix_fallocate"):  # otherwise a full disk would cause a bus error later
            with target.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, target.stat().st_size)
        with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
            yield torch.load(target, mmap=True, weights_only=True)["weights"]


def _save(checkpoint: Checkpoint, path: Path) -> None:
    try:
        torch.save({"format": FORMAT, "version": VERSION} | plain_fields(checkpoint), path)
    except RuntimeError as error:  # torch does not mention the disk
        raise MachineError(
            f"`{path.name}` could not be written completely: {error}", hint="is the disk full?"
        ) from None


def read_torch_file(path: Path) -> Any:
    """Read plain values and tensors that torch saved. Tensors stay on disk until they are used.

    Raises:
        CheckpointError: the file is damaged, or holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises many kinds of errors for a damaged file
        raise CheckpointError(
            f"`{path}` is not a readable checkpoint", hint="copy it again; the copy may be incomplete"
        ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Its weights stay on disk until they are used.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint of this program.
    """
    refuse_missing(path)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"`{path}` is an exported model, which only `predict` and `info` read",
            hint="use the checkpoint that it was exported from",
        )
    raw = read_torch_file(path)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or raw.get("version") != VERSION:
        raise CheckpointError(
            f"`{path}` is not a checkpoint of this version of cwsam", hint="use a file named model_epoch_*.pth"
        )
    return check_fields(raw, path)


def check_fields(raw: Mapping[str, Any], path: Path) -> Checkpoint:
    """Convert what a file says of a model. Unknown keys are ignored.

    Args:
        raw: plain values by field of `Checkpoint`.
        path: the file, for messages.

    Raises:
        CheckpointError: a field is missing or wrong, or contradicts another one.
    """
    known = {field.name: raw[field.name] for field in dataclasses.fields(Checkpoint) if field.name in raw}
    try:
        checkpoint = validate(Checkpoint, known, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error), hint=_AS_WRITTEN) from None
    for key, value in _odd_values(checkpoint):
        raise CheckpointError(f"`{key}` in `{path}` is {value}", hint=_AS_WRITTEN)
    for key, there in (("num_bands", len(checkpoint.bands)), ("num_classes", len(checkpoint.taxonomy))):
        if getattr(checkpoint.architecture, key) != there:
            raise CheckpointError(
                f"`architecture.{key}` in `{path}` is {getattr(checkpoint.architecture, key)}, but there are {there}",
                hint=_AS_WRITTEN,
            )
    calibration = checkpoint.calibration
    if calibration is not None and len(calibration.thresholds) not in (0, len(checkpoint.taxonomy)):
        raise CheckpointError(
            f"`calibration.thresholds` in `{path}` has {len(calibration.thresholds)} values for "
            f"{len(checkpoint.taxonomy)} classes",
            hint="calibrate the original again: cwsam eval -c MODEL --data DATASET --calibrate -o calibrated.pth",
        )
    return checkpoint


def _odd_values(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yield fields whose value has the right type, but cannot be, with the value."""
    if not is_number_type(checkpoint.dtype):
        yield "dtype", checkpoint.dtype[:80]
    if checkpoint.gsd_m is not None and not 0 < checkpoint.gsd_m < math.inf:
        yield "gsd_m", str(checkpoint.gsd_m)
    if checkpoint.epoch < 0:
        yield "epoch", str(checkpoint.epoch)
    for name, value in checkpoint.metrics.items():
        if not 0 <= value <= 1:
            yield f"metrics.{name[:80]}", str(value)
    for name, tensor in checkpoint.weights.items():
        # The values of a view that repeats one number may be more than any memory holds.
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.nbytes > tensor.untyped_storage().nbytes():
            yield f"weights.{name[:80]}", "not a plain tensor"
    depth, count = checkpoint.architecture.depth, len(checkpoint.weights)
    if count and depth > count:  # found before a network of that depth is built
        yield "architecture.depth", f"{depth} for {count} tensors"


def plain_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a checkpoint as plain values and tensors; see `check_fields`."""
    return {field.name: _plain(getattr(checkpoint, field.name)) for field in dataclasses.fields(checkpoint)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value
