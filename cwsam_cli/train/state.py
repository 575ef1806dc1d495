"""The complete state of a run on disk, from which it goes on as if it had not been interrupted.

Tensors lie in torch's distributed checkpoint format, each process writing its own shards, so
that another number of processes can read them. Everything else stands in `state.json`:
nothing that is read here can run code. Random numbers need no state: those of a step follow
from the seed, the step and the process.
"""

import dataclasses
import json
import logging
import os
import pickle
import shutil
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed import new_group
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, Metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from cwsam_cli.config.load import validate
from cwsam_cli.console import log
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import CheckpointError, ConfigError, MachineError

VERSION = 1
_RECORD = "state.json"
_NOTABLE_S = 5.0
"""A save that takes longer is told."""

Tensors = dict[str, Tensor]
"""By name."""
Shapes = dict[str, tuple[torch.Size, torch.dtype]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRecord:
    """What an optimizer knows beside tensors, by weight."""

    steps: dict[str, int]
    """Steps taken."""
    cut: dict[str, int]
    """Dimension along which processes share the weight out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRecord:
    """What `state.json` says: all of a state but the tensors."""

    version: int = VERSION
    processes: int
    """That wrote the state."""
    identity: dict[str, Any]
    """What must not change when the run goes on."""
    progress: dict[str, Any]
    """How far the run is."""
    optimizer: OptimizerRecord
    average: list[str]
    """Names of the tensors that are averages of weights."""
    averaged_steps: int
    scaler: dict[str, Any] | None
    """Of the loss, with fp16."""

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version}")


class StateWriter:
    """Writes a run's state while the run goes on; an older state stands until the new one is whole.

    Tensors are copied to the host's memory first, so a process needs room there for its own part of the state.

    Args:
        folder: of the state.
        world: all processes make one, and call its methods together.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self._folder, self._world = folder, world
        self._part = folder.with_name(f"{folder.name}.part")
        self._group = new_group(backend="gloo") if world.size > 1 else None  # training's own is busy meanwhile
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._latest: Future[None] | None = None
        self.longest_s = 0.0
        """Seconds that the slowest of the states took."""

    def write(self, tensors: Tensors, record: StateRecord) -> None:
        """Begin to write a state, once the one before is whole.

        Args:
            tensors: by name; sharded ones are written by all processes.
            record: all else.

        Raises:
            MachineError: the state before could not be written whole.
        """
        self.wait()
        began, world = time.monotonic(), self._world
        if world.is_main:
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir(parents=True)
        world.barrier()
        text = json.dumps(dataclasses.asdict(record))
        with world.pause_watchdog():
            staged: Any = DefaultStager(StagingOptions(False, False, False, False)).stage(tensors)
        self._latest = self._thread.submit(self._save, staged, text, began, waited=time.monotonic() - began)

    def wait(self) -> None:
        """Wait until the latest state is whole.

        Raises:
            MachineError: it could not be written whole.
        """
        if self._latest is None:
            return
        latest, self._latest = self._latest, None
        try:
            with self._world.pause_watchdog():
                latest.result()
        except (Exception, CheckpointException) as error:
            raise MachineError(
                f"`{self._folder}` could not be written whole: {_first_line(error)}", hint="is the disk full?"
            ) from None
        self._world.barrier()

    def finish_alone(self) -> None:
        """Let a state that is being written become whole after a failure, where no other process is needed."""
        if self._latest is not None and self._world.size == 1:
            wait([self._latest])

    def _save(self, tensors: Tensors, text: str, began: float, *, waited: float) -> None:
        with warnings.catch_warnings():  # torch says that one process is one process
            warnings.simplefilter("ignore", UserWarning)
            dcp.save(
                tensors,
                storage_writer=FileSystemWriter(self._part),
                process_group=self._group,
                no_dist=self._world.size == 1,
            )
        if self._world.is_main:
            self._put_in_place(text)
        took = time.monotonic() - began
        self.longest_s = max(self.longest_s, took)
        log.log(
            logging.INFO if took > _NOTABLE_S else logging.DEBUG,
            "state saved in %.1f s, for %.1f s of which training stood still",
            took,
            waited,
        )

    def _put_in_place(self, text: str) -> None:
        with (self._part / _RECORD).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the older state goes
        old = self._folder.with_name(f"{self._folder.name}.old")
        if self._folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self._folder, old)
        os.replace(self._part, self._folder)
        shutil.rmtree(old, ignore_errors=True)


def find_state(folder: Path) -> Path | None:
    """Where a state is, if there is one: an older one too, if the run ended while it was replaced."""
    for place in (folder, folder.with_name(f"{folder.name}.old")):
        if (place / _RECORD).is_file():
            return place
    return None


def read_record(folder: Path) -> StateRecord:
    """Read `state.json`.

    Raises:
        CheckpointError: it is damaged, or of another version.
    """
    path = folder / _RECORD
    try:
        return validate(StateRecord, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read: {error}", hint="go on from a checkpoint: --set resume=best"
        ) from None


def read_index(folder: Path) -> Metadata:
    """What tensors a state holds, and where; for a large model this takes seconds.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        with (folder / ".metadata").open("rb") as file:
            index = _Unpickler(file).load()
        if not isinstance(index, Metadata):
            raise pickle.UnpicklingError(f"its index is a {type(index).__name__}")
    except Exception as error:  # unpickling raises whatever it likes
        raise _damaged(folder, error) from None
    return index


def read_tensors(folder: Path, tensors: Tensors, index: Metadata) -> None:
    """Fill tensors, sharded or not, from a state; each process reads its own.

    Raises:
        CheckpointError: the state is damaged, or a tensor is missing or of another shape.
    """
    if not tensors:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            dcp.load(tensors, storage_reader=_Reader(folder, index), no_dist=True)
    except (Exception, CheckpointException) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"`{folder}` is damaged or of another model: {_first_line(error)}",
        hint="go on from a checkpoint: --set resume=best",
    )


def _first_line(error: BaseException) -> str:
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


def shapes(index: Metadata) -> Shapes:
    """Shape and number format of every tensor of a state."""
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in index.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


class _Reader(FileSystemReader):
    """Reads tensors by an index that was read before; torch's own reads it at every call, and runs what it says."""

    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index of the tensors."""
        if self._index.storage_meta is not None:
            self._index.storage_meta.load_id = self.load_id
        return self._index


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
