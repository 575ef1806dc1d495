"""Detect that a run makes no progress, and find the process that causes it.

When one process stops, all others soon wait for it in a collective operation that never ends,
so all look equally stuck. Each process therefore publishes its progress. A process that no
longer publishes has stopped; if all publish, those with the least progress are the cause.
A process can pause the check while it does something slow.
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
    """Progress report that a process publishes."""

    beats: int
    """Progress count of the process."""
    serial: int
    """Counter that grows while the watchdog of the process runs."""
    pid: int
    host: str
    is_paused: bool = False
    """The process has paused the check, for example while it writes to a slow disk."""
    start_ticks: int = 0
    """Start time of the process in clock ticks since boot; 0 if unknown."""


class Watchdog(threading.Thread):
    """Thread that publishes this process's heartbeats, and ends the process if the run makes no progress.

    Args:
        store: store that all processes share.
        rank: rank of this process.
        size: number of processes.
        timeout_s: seconds without progress after which the run is ended.
        hint: hint of the error after such an end.
        on_error: function that receives the error before the process ends.
    """

    def __init__(
        self, store: Store, *, rank: int, size: int, timeout_s: float, hint: str, on_error: Callable[[Exception], None]
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._store = PrefixStore(_NAME, store)
        self._rank, self._size, self._timeout, self._on_error, self._hint = rank, size, timeout_s, on_error, hint
        self._parent, self._start_ticks = os.getppid(), read_start_ticks(os.getpid())
        self._over = threading.Event()
        self._beats = self._serial = 0
        self._last = math.inf  # no limit before the first beat, because a download may be slow
        self._is_paused = False
        self._publish()

    def beat(self) -> None:
        """Count one unit of progress."""
        self._beats += 1
        self._last, self._is_paused = time.monotonic(), False

    def pause(self) -> None:
        """Suspend the time limit until the next beat, in all processes."""
        self._last, self._is_paused = math.inf, True

    def fail(self, why: str) -> None:
        """Tell the watchdogs of all processes, on all machines, that the run has failed."""
        with suppress(RuntimeError):
            announce_failure(self._store.underlying_store, why)

    def stop(self) -> None:
        """Stop the watchdog at the end of the run."""
        self._over.set()

    def run(self) -> None:
        """Publish heartbeats, and compare those of all processes when this one makes no progress."""
        earlier: list[Heartbeat] = []
        while not self._over.wait(min(1.0, self._timeout / 10)):
            if os.getppid() != self._parent:
                os._exit(MachineError.exit_code)  # the launcher is gone, so no other process would end this one
            try:
                self._publish()
                if self._store.check([_FAILED]):
                    why = self._store.get(_FAILED).decode()
                    self._over.wait(_GRACE_S)  # this machine's launcher may have a more detailed error
                    self._end(why)
                waited = time.monotonic() - self._last
                if waited < self._timeout / 2:
                    earlier = []
                    continue
                heartbeats = self._heartbeats()
                if not earlier:
                    earlier = heartbeats
                if any(
                    new.is_paused and new.serial != old.serial for old, new in zip(earlier, heartbeats, strict=True)
                ):
                    self._last, earlier = time.monotonic(), []
                elif waited > self._timeout and heartbeats is not earlier:
                    self._end_standstill(find_culprits(earlier, heartbeats))
            except RuntimeError:  # the store is gone because the process that hosts it has ended
                if not self._over.wait(self._timeout / 2):
                    self._end_standstill([])

    def _publish(self) -> None:
        self._serial += 1
        heartbeat = (
            self._beats,
            self._serial,
            os.getpid(),
            int(self._is_paused),
            self._start_ticks,
            socket.gethostname(),
        )
        self._store.set(str(self._rank), " ".join(map(str, heartbeat)))

    def _heartbeats(self) -> list[Heartbeat]:
        heartbeats = []
        for raw in self._store.multi_get([str(rank) for rank in range(self._size)]):
            *numbers, host = raw.decode().split(" ", 5)
            beats, serial, pid, paused, start_ticks = map(int, numbers)
            heartbeats.append(Heartbeat(beats, serial, pid, host, bool(paused), start_ticks))
        return heartbeats

    def _end_standstill(self, culprits: list[tuple[int, Heartbeat]]) -> None:
        if culprits:
            who = ", ".join(
                f"rank {rank} (process {heartbeat.pid} on {heartbeat.host})" for rank, heartbeat in culprits
            )
            message = f"{who} stopped answering, so the run made no progress for {self._timeout:g} s"
        else:
            message = f"the run made no progress for {self._timeout:g} s; the cause is not known"
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
                    heartbeat.start_ticks and read_start_ticks(heartbeat.pid) == heartbeat.start_ticks
                ):  # otherwise another program may have this pid by now
                    with suppress(OSError):
                        os.kill(heartbeat.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            sys.stderr.flush()
        finally:
            os._exit(MachineError.exit_code)


def read_start_ticks(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot; 0 if it does not exist or there is no /proc."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def announce_failure(store: Store, why: str) -> None:
    """Tell the watchdogs of all processes that the run has failed. The first message wins."""
    PrefixStore(_NAME, store).compare_set(_FAILED, "", why)


def find_culprits(earlier: list[Heartbeat], later: list[Heartbeat]) -> list[tuple[int, Heartbeat]]:
    """Find the processes that hold up the run.

    Args:
        earlier: heartbeats of all ranks.
        later: heartbeats of all ranks some time later.

    Returns:
        Ranks and later heartbeats of those that stopped publishing, or else of those with the least
        progress. Empty if all have the same progress.
    """
    stopped = [rank for rank, (old, new) in enumerate(zip(earlier, later, strict=True)) if old.serial == new.serial]
    least = min(heartbeat.beats for heartbeat in later)
    behind = [rank for rank, heartbeat in enumerate(later) if heartbeat.beats == least]
    culprits = stopped or (behind if len(behind) < len(later) else [])
    return [(rank, later[rank]) for rank in culprits]
