"""The complete state of a run on disk, from which it goes on as if it had not been interrupted.

Tensors lie in torch's distributed checkpoint format, each process writing its own shards, so
that another number of processes can read them. Everything else stands in `state.json`:
nothing that is read here can run code. Random numbers need no state: those of a step follow
from the seed, the step and the process.
"""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, Metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from cwsam_cli.errors import CheckpointError, MachineError
from cwsam_cli.train.world import World

VERSION = 1
_PLAIN = "state.json"

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[torch.Size, torch.dtype]]


def save_state(folder: Path, tensors: Tensors, plain: Mapping[str, Any], world: World) -> None:
    """Write a state; an older one stands until the new one is whole.

    Args:
        folder: of the state.
        tensors: by name; sharded ones are written by all processes.
        plain: whatever JSON can hold.
        world: all processes call this.

    Raises:
        MachineError: it could not be written whole.
    """
    part = folder.with_name(f"{folder.name}.part")
    if world.is_main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    world.barrier()
    try:
        with warnings.catch_warnings():  # torch says that one process is one process
            warnings.simplefilter("ignore", UserWarning)
            with world.unwatched():
                dcp.save(tensors, storage_writer=FileSystemWriter(part), no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:
        raise MachineError(f"`{folder}` could not be written whole: {_told(error)}", hint="is the disk full?") from None
    if world.is_main:
        with (part / _PLAIN).open("w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "processes": world.size, **plain}, file)
            file.flush()
            os.fsync(file.fileno())  # before the older state goes
        old = folder.with_name(f"{folder.name}.old")
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    world.barrier()


def find_state(folder: Path) -> Path | None:
    """Where a state is, if there is one: an older one too, if the run ended while it was replaced."""
    for place in (folder, folder.with_name(f"{folder.name}.old")):
        if (place / _PLAIN).is_file():
            return place
    return None


def read_plain(folder: Path) -> dict[str, Any]:
    """What `state.json` says.

    Raises:
        CheckpointError: it is damaged, or of another version.
    """
    try:
        plain: dict[str, Any] = json.loads((folder / _PLAIN).read_text(encoding="utf-8"))
        if plain["version"] != VERSION:
            raise ValueError(f"version {plain['version']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"`{folder / _PLAIN}` cannot be read: {error}", hint="go on from a checkpoint: --set resume=best"
        ) from None
    return plain


def read_tensors(folder: Path, tensors: Tensors) -> None:
    """Fill tensors, sharded or not, from a state; each process reads its own.

    Raises:
        CheckpointError: the state is damaged, or a tensor is missing or of another shape.
    """
    if not tensors:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            dcp.load(tensors, storage_reader=_Reader(folder), no_dist=True)
    except (Exception, CheckpointException) as error:
        raise CheckpointError(
            f"`{folder}` is damaged or of another model: {_told(error)}",
            hint="go on from a checkpoint: --set resume=best",
        ) from None


def _told(error: BaseException) -> str:
    """What went wrong, in a line; torch wraps what did in each process.

    Raises:
        KeyboardInterrupt: that did.
    """
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, KeyboardInterrupt):
        raise error from None
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def model_tensors(model: nn.Module) -> Tensors:
    """A model's weights and buffers, as they are named in a state."""
    own = (*model.named_parameters(), *model.named_buffers())
    return {f"model/{name}": tensor.detach() for name, tensor in own}


def shapes(folder: Path) -> Shapes:
    """Shape and number format of every tensor of a state."""
    index = _Reader(folder).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in index.items()
        if isinstance(entry, TensorStorageMetadata)
    }


class _Reader(FileSystemReader):
    """Reads a state's index without running what somebody may have put there."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index of the tensors."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    """Knows the few plain classes that an index is made of."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the allowed classes."""
        if module.startswith("pathlib") and name.endswith("Path"):
            return PurePath  # where the state was written, perhaps on another system
        if (module, name) in _ALLOWED or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its index names {module}.{name}, which no state needs")


_ALLOWED = {
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}
