"""Let the processes of a run communicate, and catch the signals that ask them to stop.

With one process, every method returns at once.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from cwsam_cli.config.schema import Precision
from cwsam_cli.distributed.watchdog import Watchdog
from cwsam_cli.errors import UsageError

T = TypeVar("T")

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class World:
    """This process and its place among the processes of a run."""

    device: torch.device
    rank: int = 0
    size: int = 1
    watchdog: Watchdog | None = None
    interruption: "Interruption" = field(default_factory=lambda: Interruption())

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    @property
    def shares_model(self) -> bool:
        """Whether the model is sharded over several processes."""
        return self.size > 1

    def beat(self) -> None:
        """Report progress to the watchdog."""
        if self.watchdog is not None:
            self.watchdog.beat()

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: T) -> T:
        """Return the first process's value in all processes."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank, in all processes. They must be picklable."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def count_per_machine(self) -> int:
        """Return how many consecutive processes share a machine, on every machine; see `largest_block`."""
        return largest_block(self.gather(socket.gethostname()))

    @contextmanager
    def pause_watchdog(self) -> Iterator[None]:
        """Suspend the watchdog's time limit inside the `with` statement, e.g. to write to a slow disk."""
        if self.watchdog is not None:
            self.watchdog.pause()
        try:
            yield
        finally:
            self.beat()

    def barrier(self) -> None:
        """Wait until all processes get here."""
        if self.size > 1:
            dist.barrier()


def largest_block(hosts: Sequence[str]) -> int:
    """Return the largest divisor of the number of ranks whose blocks of consecutive ranks are each on one machine.

    Args:
        hosts: name of each rank's machine.
    """
    return max(
        size
        for size in range(1, len(hosts) + 1)
        if len(hosts) % size == 0
        and all(len({*hosts[start : start + size]}) == 1 for start in range(0, len(hosts), size))
    )


@dataclass(slots=True)
class Interruption:
    """Signal handler that lets the current step finish. A second signal, over 1 s later, interrupts at once."""

    is_requested: bool = False
    signal: str = ""
    """Name of the signal."""
    when: float = 0.0
    """Time of the signal, on the monotonic clock."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.is_requested and time.monotonic() - self.when > 1:  # terminal and launcher may both send the first one
            raise KeyboardInterrupt
        self.is_requested, self.signal, self.when = True, signal.Signals(number).name, time.monotonic()


def choose_device(name: str) -> torch.device:
    """Return the device that `--device` names.

    Raises:
        UsageError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        count = torch.get_device_module(device).device_count()  # this check takes no GPU memory
        if not 0 <= (device.index or 0) < count:
            raise RuntimeError(f"torch shows {count} devices of type {device.type}")
    except RuntimeError as error:
        raise UsageError(
            f"there is no device `{name}` here: {str(error).splitlines()[0]}", hint="use --device cpu"
        ) from None
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """What `--precision` means: `auto` is bf16 where the hardware multiplies in it, else fp32."""
    if name != "auto":
        return cast(Precision, name)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    quick: list[Callable[[], bool]] = [torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported]
    return "bf16" if device.type == "cpu" and any(has() for has in quick) else "fp32"


def refuse_missing_gpus(device: torch.device, processes: int) -> None:
    """Stop if there are fewer accelerators than processes that need one.

    Raises:
        UsageError: there are.
    """
    count = torch.get_device_module(device).device_count()
    if device.type != "cpu" and processes > count:
        raise UsageError(f"--gpus is {processes}, but this machine has {count}", hint="use fewer --gpus")


def choose_local_device(name: str, local: int, rank: int) -> torch.device:
    """Return the device of one of several processes on a machine.

    Args:
        name: what `--device` says.
        local: number of the process on its machine.
        rank: its number among all processes, for the message.

    Raises:
        UsageError: this machine has no such device, or fewer GPUs than processes.
    """
    device = choose_device(name)
    if device.type == "cpu":
        return device
    count = torch.get_device_module(device).device_count()
    if 1 < count <= local:
        raise UsageError(f"there is no GPU for rank {rank}: this machine has {count}", hint="start one process per GPU")
    return torch.device(device.type, local if count > 1 else 0)  # SLURM may show each process only its own


@contextmanager
def catch_signals(signals: Sequence[int] = (signal.SIGINT,)) -> Iterator[Interruption]:
    """Record signals in an `Interruption` inside the `with` statement, instead of stopping at once."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {number: signal.signal(number, interruption) for number in signals}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
