"""Save the complete state of a run on disk, so that it resumes as if it had never stopped.

Tensors are in torch's distributed checkpoint format. Each process writes its own shards, and
another number of processes can read them. Everything else is in `state.json`. Reading a state
never runs code from it. Random numbers need no state, because those of a step follow from the
seed, the step and the process.
"""

import dataclasses
import json
import logging
import math
import os
import pickle
import shutil
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
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
from cwsam_cli.errors import CheckpointError, ConfigError, MachineError, one_line

VERSION = 1
_RECORD = "state.json"
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
"""Keys of the state of torch's GradScaler."""
_NOTABLE_S = 5.0
"""Saves that take longer than this are logged at level INFO."""

Tensors = dict[str, Tensor]
"""Tensors by name."""
Shapes = dict[str, tuple[torch.Size, torch.dtype]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRecord:
    """State of an optimizer that is not a tensor, by name of the weight."""

    steps: dict[str, int]
    """Number of steps taken."""
    cut: dict[str, int]
    """Dimension along which the weight is sharded."""
    expert_parallel: dict[str, int] = field(default_factory=dict)
    """Number of processes over which the weight's experts are distributed, if more than 1."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("cut", 0), ("expert_parallel", 1)):
            for weight, number in getattr(self, name).items():
                if number < least:
                    raise ValueError(f"{name} of `{weight[:80]}` is {number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRecord:
    """Content of `state.json`: everything of a state except its tensors."""

    version: int = VERSION
    processes: int
    """Number of processes that wrote the state."""
    identity: dict[str, Any]
    """Settings that must not change when the run resumes."""
    progress: dict[str, Any]
    """How far the run is; fields of `train.run.Progress`."""
    optimizer: OptimizerRecord
    average: list[str]
    """Names of the tensors that are moving averages of weights."""
    averaged_steps: int
    scaler: dict[str, int | float] | None
    """State of the loss scaler with fp16, otherwise None."""

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version}")
        if self.processes < 1:
            raise ValueError(f"processes is {self.processes}")
        if self.averaged_steps < 0:
            raise ValueError(f"averaged_steps is {self.averaged_steps}")
        if self.scaler and self.scaler.keys() != _SCALER:
            raise ValueError(f"scaler has the keys {', '.join(sorted(self.scaler))[:200]}")
        if self.scaler and not all(0 <= number < math.inf for number in self.scaler.values()):
            raise ValueError("scaler has values that are negative or not finite")


class StateWriter:
    """Writer that saves a run's state in the background; the older state stays until the new one is complete.

    Tensors are first copied to host memory. Each process therefore needs free host memory for its
    own part of the state.

    Args:
        folder: folder of the state.
        world: the processes of the run. Each of them makes a writer, and all call its methods together.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self._folder, self._world = folder, world
        self._part = folder.with_name(f"{folder.name}.part")
        self._group = new_group(backend="gloo") if world.size > 1 else None  # training uses the default group meanwhile
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._latest: Future[None] | None = None
        self.longest_s = 0.0
        """Duration of the slowest save so far, in seconds."""

    def write(self, tensors: Tensors, record: StateRecord) -> None:
        """Wait for the previous state, then start to write a new one.

        Args:
            tensors: tensors by name. All processes write their shards.
            record: everything else.

        Raises:
            MachineError: the previous state could not be written completely.
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
        """Wait until the latest state is complete.

        Raises:
            MachineError: it could not be written completely.
        """
        if self._latest is None:
            return
        latest, self._latest = self._latest, None
        try:
            with self._world.pause_watchdog():
                latest.result()
        except (Exception, CheckpointException) as error:
            if self._world.is_main:
                shutil.rmtree(self._part, ignore_errors=True)
            raise MachineError(
                f"`{self._folder}` could not be written completely: {_first_line(error)}", hint="is the disk full?"
            ) from None
        self._world.barrier()

    def finish_alone(self) -> None:
        """Finish writing the state after a failure, if there is only one process."""
        if self._latest is not None and self._world.size == 1:
            wait([self._latest])

    def _save(self, tensors: Tensors, text: str, began: float, *, waited: float) -> None:
        with warnings.catch_warnings():  # torch warns that there is only one process
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
            "state saved in %.1f s; training waited for %.1f s of it",
            took,
            waited,
        )

    def _put_in_place(self, text: str) -> None:
        with (self._part / _RECORD).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # must be on disk before the older state is removed
        old = self._folder.with_name(f"{self._folder.name}.old")
        if self._folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self._folder, old)
        os.replace(self._part, self._folder)
        shutil.rmtree(old, ignore_errors=True)


def find_state(folder: Path) -> Path | None:
    """Find the folder of a saved state. It is `<folder>.old` if the run stopped while replacing the state."""
    for place in (folder, folder.with_name(f"{folder.name}.old")):
        if (place / _RECORD).is_file():
            return place
    return None


def read_record(folder: Path) -> StateRecord:
    """Read `state.json`.

    Raises:
        CheckpointError: it is damaged, or has another version.
    """
    path = folder / _RECORD
    try:
        return validate(StateRecord, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"`{path}` cannot be read: {one_line(error)}", hint="continue from the best checkpoint: --set resume=best"
        ) from None


def read_index(folder: Path) -> Metadata:
    """Read the names, shapes and places of a state's tensors. For a large model this takes seconds.

    Raises:
        CheckpointError: the index is damaged.
    """
    try:
        with (folder / ".metadata").open("rb") as file:
            index: Metadata = _Unpickler(file).load()
        _check_index(index)
    except Exception as error:  # unpickling can raise any exception
        raise _damaged(folder, error) from None
    return index


def _check_index(index: object) -> None:
    """Check every field of an index that `read_tensors` uses. Unpickling sets fields without checks.

    Raises:
        ValueError: a field is wrong, or names a file outside the state's folder.
    """
    if not isinstance(index, Metadata):
        raise ValueError(f"its index is a {type(index).__name__}")
    for name, entry in index.state_dict_metadata.items():
        if (
            not isinstance(entry, TensorStorageMetadata)
            or not isinstance(entry.properties.dtype, torch.dtype)
            or not all(
                map(_is_shape, (entry.size, *(p for piece in entry.chunks for p in (piece.offsets, piece.sizes))))
            )
        ):
            raise ValueError(f"the entry of `{str(name)[:80]}` in its index is wrong")
    for place, where in index.storage_data.items():
        file = where.relative_path
        if not isinstance(file, str) or PurePosixPath(file).name != file or PureWindowsPath(file).name != file:
            raise ValueError(f"its index names the file `{str(file)[:80]}`, which is not in its folder")
        if not _is_shape((where.offset, where.length)) or getattr(where, "transform_descriptors", None):
            raise ValueError(f"the place of `{str(place.fqn)[:80]}` in its index is wrong")


def _is_shape(numbers: Any) -> bool:
    return isinstance(numbers, tuple) and all(type(number) is int and number >= 0 for number in numbers)


def read_tensors(folder: Path, tensors: Tensors, index: Metadata) -> None:
    """Read tensors from a state in place. Each process reads its own shards.

    Args:
        folder: folder of the state.
        tensors: tensors to overwrite, by name; sharded or plain.
        index: result of `read_index`.

    Raises:
        CheckpointError: the state is damaged, or a tensor is missing or has another shape.
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
        f"`{folder}` is damaged or belongs to another model: {_first_line(error)}",
        hint="continue from the best checkpoint: --set resume=best",
    )


def _first_line(error: BaseException) -> str:
    """Return the first line of an error. torch wraps the errors of all processes in one.

    Raises:
        KeyboardInterrupt: the wrapped error is a KeyboardInterrupt.
    """
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, KeyboardInterrupt):
        raise error from None
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def model_tensors(model: nn.Module) -> Tensors:
    """Collect a model's weights and buffers under their names in a state."""
    own = (*model.named_parameters(), *model.named_buffers())
    return {f"model/{name}": tensor.detach() for name, tensor in own}


def shapes(index: Metadata) -> Shapes:
    """Return the shape and dtype of every tensor of a state."""
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in index.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


class _Reader(FileSystemReader):
    """Reader that uses an index read before. torch's own reader unpickles it at every call, and may run its code."""

    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index read before."""
        if self._index.storage_meta is not None:
            self._index.storage_meta.load_id = self.load_id
        return self._index


class _Unpickler(pickle.Unpickler):
    """Unpickler that allows only the few plain classes of an index."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class, or raise UnpicklingError."""
        if module.startswith("pathlib") and name.endswith("Path"):
            return PurePath  # the state may come from another operating system
        if (module, name) in _ALLOWED or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its index names {module}.{name}, which a state never contains")


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
