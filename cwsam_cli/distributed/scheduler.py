"""Run functions on a Dask cluster, or on worker processes of this machine that are started here.

`distributed` is imported in this module only, when a cluster is used. Dask unpickles everything that its network
sends, so all that is started here listens on 127.0.0.1 only.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from cwsam_cli import __version__
from cwsam_cli.console import log
from cwsam_cli.errors import CwsamError, MachineError, UsageError, as_user_error, restore_error

if TYPE_CHECKING:
    from distributed import Client

P = TypeVar("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

LOCAL = "local"
_AHEAD = 2  # calls per slot that are with the cluster: one runs, one waits there
_LOOK_S = 2.0  # between looks at the workers
_RESTART_S = 180.0  # in which a worker of this machine starts again
_FETCH_S = 60.0  # to fetch a result that a worker has
_MOST_INPUTS = 256  # inputs of a command that are worked on at the same time


class LostScheduler(MachineError):
    """The connection to the scheduler is lost, so no further call can succeed."""

    def __init__(self) -> None:
        super().__init__("the connection to the scheduler is lost", hint="the same command continues where it was")


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error without its causes, because not all exceptions of libraries can be sent."""

    kind: type[CwsamError]
    message: str
    hint: str


def _guarded(version: str, function: Callable[..., T], *arguments: Any) -> T | _Failure:
    """Call a function in a worker.

    Args:
        version: of the process that asks.
        function: to call.
        arguments: of the function.
    """
    try:
        if version != __version__:
            raise MachineError(
                f"a worker has cwsam {__version__}, and this process {version}", hint="install one version everywhere"
            )
        return function(*arguments)
    except Exception as error:
        told = as_user_error(error)
        if told is None:
            raise
        return _Failure(type(told), str(told), told.hint)


def _numbered(function: Callable[[S, P], R], number: int, shared: S, part: P) -> tuple[int, R]:
    return number, function(shared, part)


def _same(value: T) -> T:
    return value


class Workers:
    """The workers of a cluster. Several threads may use them together."""

    def __init__(self, client: "Client", *, is_local: bool = False) -> None:
        self._client = client
        self._is_local = is_local
        self._places = threading.Condition()
        self._taken = 0
        self._looked = 0.0
        self._alive = time.monotonic()
        self._slots = 0
        self._resources: dict[str, float] = {}
        self._is_stopped = False

    def stop(self) -> None:
        """Let the calls of all threads end with `LostScheduler`."""
        self._is_stopped = True
        self._client.close()

    @property
    def slots(self) -> int:
        """Number of calls that can run at the same time. Waits for the first worker.

        Where workers offer the resource GPU, each unit of it is a slot; elsewhere each thread of a worker is one.
        """
        while not self._count_slots():
            time.sleep(_LOOK_S)
        return self._slots

    def _count_slots(self) -> int:
        """Return the number of slots, which may be none at the moment; look at the workers now and then."""
        if self._is_stopped or self._client.status in ("closing", "closed"):
            raise LostScheduler
        if time.monotonic() - self._looked > _LOOK_S or not self._slots:
            try:
                workers = list(self._client.scheduler_info(n_workers=-1)["workers"].values())
            except (OSError, RuntimeError):
                raise LostScheduler from None
            gpus = sum(worker["resources"].get("GPU", 0) for worker in workers)
            self._resources = {"GPU": 1} if gpus else {}
            self._slots = int(gpus) or sum(worker["nthreads"] for worker in workers)
            self._looked = time.monotonic()
            if self._slots:
                self._alive = self._looked
                return self._slots
            log.info("waiting for workers of the scheduler", extra={"once": "text"})
            if self._is_local and self._looked - self._alive > _RESTART_S:
                raise MachineError("all workers have ended", hint="they may need more memory: use fewer with --gpus")
        return self._slots

    def in_threads(self, function: Callable[[int, T], object], inputs: Sequence[T]) -> None:
        """Apply a function that uses the workers to the number, from 1, and value of each input of a command.

        It runs in as many threads as keep the workers busy. After an exception, the calls of all threads end.
        """
        most = min(len(inputs), _MOST_INPUTS, max(8, 2 * self.slots))
        pool = ThreadPoolExecutor(most)
        try:
            for future in [pool.submit(function, *each) for each in enumerate(inputs, start=1)]:
                future.result()
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def in_order(self, function: Callable[[S, P], R], shared: S, parts: Sequence[P]) -> Iterator[R]:
        """Yield the results of a function for parts of a work, in the order of the parts.

        Args:
            function: of the top level of a module that workers have, too.
            shared: its first argument, which may be large: each worker gets it once.
            parts: its second arguments.

        Raises:
            CwsamError: see `each`.
        """
        # As the result of a call, it is made again if all workers that have it die.
        sent = self._client.submit(_same, shared, pure=False)
        held: dict[int, R] = {}
        due = 0
        calls = ((function, number, sent, part) for number, part in enumerate(parts))
        for number, result in self.each(_numbered, calls):
            held[number] = result
            while due in held:
                yield held.pop(due)
                due += 1

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return a function's result; see `each`."""
        return next(self.each(function, [arguments]))

    def each(self, function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Yield the results of calls as they finish.

        A cluster gets few more calls than it can run, so neither its memory nor ours grows with their number.

        Args:
            function: of the top level of a module that workers have, too.
            calls: picklable arguments of each call.

        Raises:
            CwsamError: what a call raised.
            MachineError: each worker that made the call died, or no worker of this machine starts again.
            LostScheduler: the scheduler does not answer any more.
        """
        from distributed import as_completed

        waiting = iter(calls)
        finished: Any = as_completed(loop=self._client.loop)
        running: dict[Any, tuple[Any, ...]] = {}
        try:
            following = next(waiting, None)
            while following is not None or running:
                while following is not None and self._take_place(wait=not running):
                    future = self._submit(function, following)
                    running[future] = following
                    finished.add(future)
                    following = next(waiting, None)
                future = self._await_next(finished)
                arguments = running.pop(future)
                try:
                    result = self._result(future)
                except TimeoutError:
                    if future.status == "error":  # the call itself raised it
                        self._free_places(1)
                        raise
                    future.release()  # the worker died before its result was fetched
                    future = self._submit(function, arguments)
                    running[future] = arguments
                    finished.add(future)
                    continue
                except BaseException:
                    self._free_places(1)
                    raise
                self._free_places(1)
                yield result
                future.release()
        finally:
            for future in running:
                future.release()
            self._free_places(len(running))

    def _await_next(self, finished: Any) -> Any:
        """Return the next finished call. Dask would wait forever for workers of this machine that cannot start."""
        while not finished.has_ready():
            self._count_slots()
            with finished.thread_condition:
                if not finished.has_ready():
                    finished.thread_condition.wait(_LOOK_S)
        return next(finished)

    def _submit(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> Any:
        try:
            return self._client.submit(
                _guarded, __version__, function, *arguments, resources=self._resources, pure=False
            )
        except RuntimeError:  # the client is closed
            self._free_places(1)
            raise LostScheduler from None

    def _result(self, future: Any) -> Any:
        from concurrent.futures import CancelledError

        from distributed.scheduler import KilledWorker

        try:
            result = future.result(timeout=_FETCH_S)
        except KilledWorker as error:
            raise MachineError(
                f"a part of the work ended each worker that tried it; the last was {error.last_worker.address}",
                hint="read the log of that worker; it may need more memory",
            ) from None
        except CancelledError:
            self._is_stopped = True
            raise LostScheduler from None
        except RuntimeError as error:
            if "deserialization" not in str(error):
                raise
            raise MachineError(
                "the scheduler cannot read what this process sends",
                hint="install this version of cwsam where the scheduler runs, too",
            ) from None
        if isinstance(result, _Failure):
            raise restore_error(result.kind, result.message, result.hint)
        return result

    def _take_place(self, *, wait: bool) -> bool:
        """Take one of the places in the cluster's queue; return whether there was one."""
        while True:
            most = _AHEAD * (self.slots if wait else self._count_slots())
            with self._places:
                if self._taken < most:
                    self._taken += 1
                    return True
                if not wait:
                    return False
                self._places.wait(_LOOK_S)

    def _free_places(self, count: int) -> None:
        with self._places:
            self._taken -= count
            self._places.notify_all()


@contextmanager
def connect(scheduler: str, *, processes: int = 1, on_gpu: bool = False, timeout_s: float = 30) -> Iterator[Workers]:
    """Connect to a Dask cluster, or start one.

    Args:
        scheduler: an address such as `tcp://host:8786`, the path of a scheduler file, or `local`.
        processes: number of workers that `local` starts.
        on_gpu: whether each of them has a GPU.
        timeout_s: seconds in which the scheduler has to answer.

    Raises:
        UsageError: the scheduler is neither an address nor a file.
        MachineError: it does not answer.
    """
    import dask
    from distributed import Client, LocalCluster

    is_file = Path(scheduler).is_file()
    if scheduler != LOCAL and not is_file and ":" not in scheduler:
        raise UsageError(
            f"--scheduler `{scheduler}` is neither an address nor a file", hint="say: --scheduler tcp://HOST:8786"
        )
    ending = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    own = {
        "logging": {"distributed": "critical"},
        "distributed.scheduler.worker-ttl": None,  # a long computation must not look like death
        # Dask makes workers return freed memory at once. Then each block of a tensor is mapped and cleared again.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
        # A worker that dies while it starts is not started again, so a call that kills gets few workers.
        "distributed.scheduler.allowed-failures": 1,
    }
    with ExitStack() as stack:
        stack.enter_context(_raise_at(ending))
        if scheduler == LOCAL:
            stack.enter_context(dask.config.set(own))
            cluster = LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any free port for its page of figures
                memory_limit=0,  # else a worker is killed at 95 % of its share
                silence_logs=logging.CRITICAL,
                resources={"GPU": 1} if on_gpu else {},
                env={} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(_threads(processes))},
            )
            stack.enter_context(cluster)
            target: dict[str, Any] = {"address": cluster}
        else:
            target = {"scheduler_file": scheduler} if is_file else {"address": scheduler}
        try:
            client = stack.enter_context(Client(**target, set_as_default=False, timeout=timeout_s))
        except (OSError, ValueError) as error:
            raise MachineError(
                f"the scheduler `{scheduler}` does not answer: {str(error).splitlines()[0]}",
                hint="check that it runs, and that this machine reaches it",
            ) from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # our own messages say what it would
        yield Workers(client, is_local=scheduler == LOCAL)


@contextmanager
def _raise_at(signals: list[int]) -> Iterator[None]:
    """Turn signals that end this process into an error, so that journals are closed and workers end."""

    def end(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise MachineError(f"the run was ended by {name}", hint="the same command continues where it was")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _threads(processes: int) -> int:
    return max(1, count_cores() // processes)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_index() -> int:
    """Return the number of the worker that runs this call among those of a local cluster; 0 on others."""
    from distributed import get_worker

    name = get_worker().name
    return name if isinstance(name, int) else 0
