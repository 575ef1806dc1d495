"""Start the processes of a run, or join those that torchrun or SLURM started.

A single process needs no process group. torch's elastic launcher starts several, unless
torchrun or SLURM has started them already. If one process fails, all end, and one message says
which one failed and why.
"""

import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist

from cwsam_cli import console, errors
from cwsam_cli.distributed.cluster import Cluster, launcher_environment
from cwsam_cli.distributed.watchdog import Watchdog, announce_failure
from cwsam_cli.distributed.world import (
    Interruption,
    World,
    catch_signals,
    choose_device,
    choose_local_device,
    refuse_missing_gpus,
)
from cwsam_cli.errors import CwsamError, MachineError, UsageError, as_user_error

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

T = TypeVar("T")

_FAILURE, _LOSS = "failure.json", "loss.json"
_ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT") if os.name == "posix" else ("SIGTERM",)
_GRACE_S = 5  # between SIGTERM and SIGKILL
_PATIENCE_S = 10  # longer than _GRACE_S, so that another machine's launcher or watchdog can report the cause first
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Socket Timeout",
    "remote process exited",
    "communicator was aborted",
)


def launch(worker: Callable[..., T], *arguments: Any, cluster: Cluster) -> T | None:
    """Run `worker(world, *arguments)` in every process.

    Args:
        worker: function defined at the top level of a module. Its result must be picklable.
        arguments: picklable arguments.
        cluster: number and place of the processes.

    Returns:
        The first process's result. None on machines and in processes that do not have it.

    Raises:
        CwsamError: the error of the process that failed first.
        MachineError: a process died or made no progress.
    """
    environment = launcher_environment()
    if environment:
        os.environ.update(environment)
        wanted, started = cluster.processes * cluster.nodes, int(environment["WORLD_SIZE"])
        if wanted not in (1, started):
            raise UsageError(
                f"the launcher started {started} processes, but --gpus and --nodes ask for {wanted}",
                hint="remove --gpus and --nodes when torchrun or srun starts the processes",
            )
        with _join_group(cluster, failure=None) as world:
            result = worker(world, *arguments)
        return result if world.is_main else None
    if cluster.processes * cluster.nodes == 1:
        with catch_signals(_signals(cluster)) as interruption:
            return worker(World(choose_device(cluster.device), interruption=interruption), *arguments)
    return _launch_processes(worker, arguments, cluster)


@contextmanager
def _join_group(cluster: Cluster, *, failure: Path | None) -> Iterator[World]:
    """Join the process group; leave it at the end."""
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank:
        console.only_errors()
    device = choose_local_device(cluster.device, local, rank)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    else:
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, torch.get_num_threads() // neighbours))
    timeout = timedelta(
        seconds=2 * cluster.timeout_s + 60
    )  # longer than the watchdog's limit, because the watchdog gives the better message
    store, rank, size = next(dist.rendezvous("env://", rank, size, timeout=timeout))
    dist.init_process_group(
        "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}",
        store=dist.PrefixStore("run", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    watchdog = Watchdog(
        store.clone(),
        rank=rank,
        size=size,
        timeout_s=cluster.timeout_s,
        hint=cluster.hint_after_stall,
        on_error=lambda error: _record_failure(failure, error, rank),
    )
    dist.barrier()  # all processes have published a first heartbeat
    watchdog.start()
    interruption = Interruption()
    try:
        with catch_signals(_signals(cluster)) as interruption:
            yield World(device, rank, size, watchdog, interruption)
        dist.barrier()
    except Exception as error:
        lost = any(words in str(error) for words in _LOST) and as_user_error(error) is None
        if not lost:
            watchdog.fail(f"rank {rank} on {socket.gethostname()} failed: {error}")
            raise
        if interruption.signal != "SIGTERM":  # the launcher sends SIGTERM to the others after a failure
            time.sleep(_PATIENCE_S)  # let the launcher or the watchdog report the cause first
        raise _LostContact(
            f"rank {rank} lost contact with another process: {str(error).strip().splitlines()[0]}",
            hint="the message of that process says why; read the logs of the other machines",
        ) from None
    finally:
        watchdog.stop()
    dist.destroy_process_group()


class _LostContact(MachineError):
    """Error of a process whose partner has ended; not the cause itself."""


def _launch_processes(worker: Callable[..., T], arguments: tuple[Any, ...], cluster: Cluster) -> T | None:
    """Start this machine's processes and wait for them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException  # slow to import
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    device = choose_device(cluster.device)
    refuse_missing_gpus(device, cluster.processes)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing.spawn")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the message below reports the failure once
    static: dict[str, Any] = {
        "rdzv_backend": "static",
        "rdzv_endpoint": cluster.endpoint,
        "rdzv_configs": {"rank": cluster.node_rank, "timeout": cluster.timeout_s},
    }
    alone: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0"}
    with tempfile.TemporaryDirectory(prefix="cwsam-") as folder:
        config = LaunchConfig(
            min_nodes=cluster.nodes,
            max_nodes=cluster.nodes,
            nproc_per_node=cluster.processes,
            run_id="cwsam",
            max_restarts=0,
            start_method=_choose_start_method(device),
            signals_to_handle=",".join(name for name in _ENDING if name not in _signal_names(cluster)),
            shutdown_timeout=_GRACE_S,
            local_addr="127.0.0.1" if cluster.nodes == 1 else None,
            **(static if cluster.nodes > 1 else alone),
        )
        store = _open_store(cluster) if cluster.nodes > 1 else None
        with _forward_signals(Path(folder), cluster):
            try:
                with _fork_server(worker) if config.start_method == "forkserver" else nullcontext():
                    start = elastic_launch(config, _run_process)
                    results = start(folder, console.verbosity(), cluster, worker, arguments)
            except ChildFailedError as error:
                cause = _find_cause(Path(folder), error)
            except SignalException as error:
                cause = MachineError(f"the run was ended by {error.sigval.name}", hint=cluster.hint_after_signal)
            else:
                return cast(T, results[0]) if 0 in results else None
            if store is not None and not (Path(folder) / _FAILURE).exists():
                with suppress(SignalException, RuntimeError):  # a second signal, or the first machine is gone
                    announce_failure(store, f"{cause} (on {socket.gethostname()})")
                    if cluster.node_rank == 0:  # this process hosts the store
                        time.sleep(_GRACE_S)
    raise cause from None


def _choose_start_method(device: torch.device) -> str:
    """Return how processes start: on Linux they fork from a server.

    Ranks of accelerators do not fork: a module that looks for devices when it is imported, as bitsandbytes does,
    makes CUDA unusable in forked processes.
    """
    if sys.platform != "linux" or device.type != "cpu":  # Windows cannot fork; macOS' libraries may not survive it
        return "spawn"
    return "forkserver"


@contextmanager
def _fork_server(worker: Callable[..., Any]) -> Iterator[None]:
    """Run the server from which processes fork. It imports the worker's module once.

    The server is `python -c …`, which looks for modules in the current folder first. It must import the launcher's
    modules, so it gets the launcher's `sys.path` instead. It ends with the launch, because processes get its
    environment, and it keeps 225 MB.
    """
    from multiprocessing import forkserver  # not on Windows

    server: Any = forkserver._forkserver  # the module has no public way to stop it
    multiprocessing.set_forkserver_preload(["cwsam_cli.distributed.rank_server", worker.__module__, __name__])
    wanted = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    before = {name: os.environ[name] for name in wanted if name in os.environ}
    try:
        try:
            os.environ.update(wanted)
            server.ensure_running()
        finally:
            for name in wanted:
                os.environ.pop(name, None)
            os.environ.update(before)
        yield
    finally:
        if server._forkserver_pid is not None:
            os.kill(server._forkserver_pid, signal.SIGKILL)  # else it waits for all that inherited its pipe
            server._stop()


def _open_store(cluster: Cluster) -> dist.TCPStore:
    """Open the store through which the machines connect. torch's own handle ends with the processes.

    If a process is killed, processes on other machines wait for it in a collective operation that
    never ends. Its launcher reports the failure to their watchdogs through this store.

    Raises:
        UsageError: the endpoint is not `HOST:PORT`.
        MachineError: the first machine does not answer there.
    """
    from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

    try:
        host, port = parse_rendezvous_endpoint(cluster.endpoint, 0)
    except ValueError:
        port = 0
    if not port:
        raise UsageError(
            f"--nodes needs --rdzv-endpoint HOST:PORT, not `{cluster.endpoint}`",
            hint="give the first machine's name and a free port on it; use the same on all machines",
        )
    timeout = timedelta(seconds=cluster.timeout_s)
    try:
        return dist.TCPStore(host, port, is_master=cluster.node_rank == 0, timeout=timeout, multi_tenant=True)
    except dist.DistError as error:
        raise MachineError(
            f"the machines cannot connect at `{cluster.endpoint}`: {str(error).splitlines()[0]}",
            hint="start --node-rank 0 on that machine; its port must be free, and open to the other machines",
        ) from None


def _run_process(
    folder: str, verbosity: int, cluster: Cluster, worker: Callable[..., T], arguments: tuple[Any, ...]
) -> T | None:
    """Run the worker in a started process. A failure is recorded and ends the process with our exit code."""
    console.setup(verbosity)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server, which forks this process, ignores it
    rank = int(os.environ["RANK"])
    failure = Path(folder) / _FAILURE
    (Path(folder) / f"{rank}.pid").write_text(str(os.getpid()))
    try:
        with _join_group(cluster, failure=failure) as world:
            result = worker(world, *arguments)
        return result if world.is_main else None
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, _LostContact):
            _record_failure(failure.with_name(_LOSS), error, rank)
        else:
            _record_failure(failure, error, rank)
        sys.stderr.flush()
        for reader in multiprocessing.active_children():
            reader.kill()  # it would notice only after seconds, and then miss the launcher's temporary folder
        os._exit(getattr(error, "exit_code", 1))


def _record_failure(path: Path | None, error: BaseException, rank: int) -> None:
    """Record the first failure of all processes in a file. Without our launcher, print it."""
    user_error = as_user_error(error) if isinstance(error, Exception) else None
    record = {
        "kind": "interrupted" if isinstance(error, KeyboardInterrupt) else type(user_error).__name__.lstrip("_"),
        "message": str(user_error),
        "hint": user_error.hint if user_error else "",
        "trace": "" if user_error else f"rank {rank}: " + "".join(traceback.format_exception(error)),
    }
    if path is None:
        print(f"error: {user_error}\n\nhint: {record['hint']}", file=sys.stderr, flush=True)
        return
    draft = path.with_name(f"{rank}.json")
    draft.write_text(json.dumps(record), encoding="utf-8")
    try:
        os.link(draft, path)  # fails if another process was first
    except OSError:
        pass


def _find_cause(folder: Path, error: "ChildFailedError") -> BaseException:
    """Return the exception that ended the run: as the process recorded it, or derived from its exit code."""
    recorded = _read_failure(folder / _FAILURE)
    if recorded is not None:
        return recorded
    # Processes that the launcher ended, or that lost contact, are not the cause: they sort last.
    failures = sorted(
        error.failures.items(), key=lambda item: (item[1].exitcode in (-signal.SIGTERM, MachineError.exit_code), item)
    )
    rank, failure = failures[0]
    code = failure.exitcode
    if code == MachineError.exit_code:  # all failed processes lost contact with another machine
        lost = _read_failure(folder / _LOSS)
        if lost is not None:
            return lost
    outcome = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = "if memory ran out, use smaller batches or fewer workers" if code == -9 else ""
    return MachineError(f"rank {rank} (process {failure.pid}) {outcome}, so the run was ended", hint=hint)


def _read_failure(path: Path) -> BaseException | None:
    """Read the exception that `_record_failure` wrote."""
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["kind"] == "interrupted":
        return KeyboardInterrupt()
    if record["trace"]:
        return RuntimeError(record["trace"])
    kind: type[CwsamError] = getattr(errors, record["kind"], MachineError)
    cause = kind.__new__(kind)  # some error classes build their own message
    CwsamError.__init__(cause, record["message"], hint=record["hint"])
    return cause


def _signal_names(cluster: Cluster) -> tuple[str, ...]:
    """List the signals after which the processes finish their step."""
    names = ("SIGINT", "SIGTERM", "SIGUSR1") if cluster.saves_when_ended else ("SIGINT",)
    return tuple(name for name in names if hasattr(signal, name))  # Windows lacks some


def _signals(cluster: Cluster) -> list[int]:
    return [getattr(signal, name) for name in _signal_names(cluster)]


@contextmanager
def _forward_signals(folder: Path, cluster: Cluster) -> Iterator[None]:
    """Forward Ctrl-C and similar signals to the processes, which then finish their step.

    Before any process has started, there is no step to finish, so the launch ends at once.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException  # slow to import

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interruption = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        interruption(number, frame)
        started = list(folder.glob("*.pid"))
        if not started and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not started:
            raise SignalException(f"no process has started before signal {number}", signal.Signals(number))
        for path in started:
            try:
                os.kill(int(path.read_text()), number)
            except (OSError, ValueError):
                continue

    previous = {number: signal.signal(number, handle) for number in _signals(cluster)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
