"""Notice that a run's processes stand still, and find out whose fault it is.

When one process stops, all the others soon wait for it in a collective operation that never
ends, so every one of them looks equally stuck. Each therefore publishes how far it got: one
that no longer publishes has stopped; else the one that got least far is to find_culprits. While one
says that it does something that may take long, the others wait for it.
"""

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from torch.distributed import PrefixStore, Store

from cwsam_cli.errors import MachineError

_NAME, _FAILED = "watch", "failed"
_GRACE_S = 4.0


class Heartbeat(NamedTuple):
    """What a process publishes of itself."""

    beats: int
    """How far it got."""
    serial: int
    """Grows as long as its watchdog runs."""
    pid: int
    host: str
    paused: bool = False
    """It does what may take as long as it takes."""
    started: int = 0
    """When the process began, in the system's own ticks; 0 where the system does not tell."""


class Watchdog(threading.Thread):
    """Publishes this process's heartbeats of life; ends it when the run stands still.

    Args:
        store: shared by the processes.
        rank: of this process.
        size: how many there are.
        timeout_s: how long this process may wait.
        hint: what to do after a standstill.
        on_error: is given the error before the process ends.
    """

    def __init__(
        self, store: Store, *, rank: int, size: int, timeout_s: float, hint: str, on_error: Callable[[Exception], None]
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._store = PrefixStore(_NAME, store)
        self._rank, self._size, self._timeout, self._on_error, self._hint = rank, size, timeout_s, on_error, hint
        self._parent, self._started = os.getppid(), start_ticks(os.getpid())
        self._over = threading.Event()
        self._beats = self._serial = 0
        self._last = math.inf  # until the first beat nothing is measured: a download may take long
        self._paused = False
        self._publish()

    def beat(self) -> None:
        """This process got on."""
        self._beats += 1
        self._last, self._paused = time.monotonic(), False

    def pause(self) -> None:
        """Measure nothing until the next beat, here and in the other processes."""
        self._last, self._paused = math.inf, True

    def fail(self, why: str) -> None:
        """Let the watchdogs of all processes, on all machines, know that the run is over."""
        with suppress(RuntimeError):
            announce_failure(self._store.underlying_store, why)

    def stop(self) -> None:
        """The run is over."""
        self._over.set()

    def run(self) -> None:
        """Publish, and look at the others once nothing moves here."""
        earlier: list[Heartbeat] = []
        while not self._over.wait(min(1.0, self._timeout / 10)):
            if os.getppid() != self._parent:
                os._exit(MachineError.exit_code)  # the launcher is gone; nobody would end this process
            try:
                self._publish()
                if self._store.check([_FAILED]):
                    why = self._store.get(_FAILED).decode()
                    self._over.wait(_GRACE_S)  # this machine's launcher knows it too, and is told more
                    self._end(why)
                waited = time.monotonic() - self._last
                if waited < self._timeout / 2:
                    earlier = []
                    continue
                heartbeats = self._heartbeats()
                if not earlier:
                    earlier = heartbeats
                if any(new.paused and new.serial != old.serial for old, new in zip(earlier, heartbeats, strict=True)):
                    self._last, earlier = time.monotonic(), []
                elif waited > self._timeout and heartbeats is not earlier:
                    self._end_standstill(find_culprits(earlier, heartbeats))
            except RuntimeError:  # the store is gone, and with it the process that kept it
                if not self._over.wait(self._timeout / 2):
                    self._end_standstill([])

    def _publish(self) -> None:
        self._serial += 1
        heartbeat = (self._beats, self._serial, os.getpid(), int(self._paused), self._started, socket.gethostname())
        self._store.set(str(self._rank), " ".join(map(str, heartbeat)))

    def _heartbeats(self) -> list[Heartbeat]:
        heartbeats = []
        for raw in self._store.multi_get([str(rank) for rank in range(self._size)]):
            *numbers, host = raw.decode().split(" ", 5)
            beats, serial, pid, paused, started = map(int, numbers)
            heartbeats.append(Heartbeat(beats, serial, pid, host, bool(paused), started))
        return heartbeats

    def _end_standstill(self, culprits: list[tuple[int, Heartbeat]]) -> None:
        if culprits:
            who = ", ".join(
                f"rank {rank} (process {heartbeat.pid} on {heartbeat.host})" for rank, heartbeat in culprits
            )
            message = f"{who} stopped answering, and the run stood still for {self._timeout:g} s"
        else:
            message = f"the run stood still for {self._timeout:g} s, and no process can be told to be the cause"
        here = [
            heartbeat for rank, heartbeat in culprits if rank != self._rank and heartbeat.host == socket.gethostname()
        ]
        self._end(message, kill=here)

    def _end(self, message: str, *, kill: Sequence[Heartbeat] = ()) -> None:
        if self._over.is_set():
            return
        try:
            self._on_error(MachineError(message, hint=self._hint))
            for heartbeat in kill:
                if (
                    heartbeat.started and start_ticks(heartbeat.pid) == heartbeat.started
                ):  # else its number may be another program's by now
                    with suppress(OSError):
                        os.kill(heartbeat.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            sys.stderr.flush()
        finally:
            os._exit(MachineError.exit_code)


def start_ticks(pid: int) -> int:
    """Tell when a process began, in ticks since the system's start; 0 where there is none, or no /proc."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def announce_failure(store: Store, why: str) -> None:
    """Let the watchdogs of all processes know that the run is over; the first to say so is heard."""
    PrefixStore(_NAME, store).compare_set(_FAILED, "", why)


def find_culprits(earlier: list[Heartbeat], later: list[Heartbeat]) -> list[tuple[int, Heartbeat]]:
    """Which ranks are to find_culprits, by their heartbeats at two times; none where that cannot be told."""
    stopped = [rank for rank, (old, new) in enumerate(zip(earlier, later, strict=True)) if old.serial == new.serial]
    least = min(heartbeat.beats for heartbeat in later)
    behind = [rank for rank, heartbeat in enumerate(later) if heartbeat.beats == least]
    culprits = stopped or (behind if len(behind) < len(later) else [])
    return [(rank, later[rank]) for rank in culprits]
