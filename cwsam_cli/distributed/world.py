"""This process among the processes of a run: what they agree on, sum up, and are asked to stop by.

Alone it is the only one, and everything here costs nothing.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cwsam_cli.distributed.watchdog import Watchdog
from cwsam_cli.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process among the processes of a run."""

    device: torch.device
    rank: int = 0
    size: int = 1
    watchdog: Watchdog | None = None
    interruption: "Interruption" = field(default_factory=lambda: Interruption())

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @property
    def shares_model(self) -> bool:
        """Whether each process holds a part of the model only."""
        return self.size > 1

    def beat(self) -> None:
        """Say that this process gets on."""
        if self.watchdog is not None:
            self.watchdog.beat()

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: T) -> T:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    @contextmanager
    def pause_watchdog(self) -> Iterator[None]:
        """Let the block, such as writing to a slow disk, take as long as it takes; the other processes wait."""
        if self.watchdog is not None:
            self.watchdog.pause()
        try:
            yield
        finally:
            self.beat()

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


@dataclass(slots=True)
class Interruption:
    """A signal that asks to end, as a interruption: the running step is finished first. A second one, later, ends at once."""

    is_requested: bool = False
    signal: str = ""
    """Name of the signal."""
    when: float = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        if self.is_requested and time.monotonic() - self.when > 1:  # terminal and launcher may both pass on the first
            raise KeyboardInterrupt
        self.is_requested, self.signal, self.when = True, signal.Signals(number).name, time.monotonic()


def choose_device(name: str) -> torch.device:
    """The device that `--device` means.

    Raises:
        UsageError: it is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.empty(0, device=device)
        elif not 0 <= (device.index or 0) < torch.cuda.device_count():  # asked without taking memory on a GPU
            raise RuntimeError(f"CUDA shows {torch.cuda.device_count()} devices")
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"there is no device `{name}` here: {str(error).splitlines()[0]}", hint="cpu works") from None
    return device


@contextmanager
def catch_signals(signals: Sequence[int] = (signal.SIGINT,)) -> Iterator[Interruption]:
    """Turn signals into a interruption while the block runs."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption) for number in signals}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
