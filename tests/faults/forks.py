"""Run commands in forked processes, so that a fault can be injected and the libraries are loaded only once."""

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import sys
import traceback
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

Fault = Callable[[], None]
"""Prepares a fault in the forked process, before the command begins."""

_REPLACE = os.replace
_TIMES = ("last_change", "update_time", "timestamp")
"""Columns of a GeoPackage that tell when it was written."""
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "cwsam_cli.main",
        "cwsam_cli.commands",
        *(
            f"cwsam_cli.{name}.pipeline"
            for name in (
                *("assess", "audit", "doctor", "export", "mosaic", "sample", "tile", "train", "upcycle", "vectorize"),
                "view",
            )
        ),
        "cwsam_cli.predict.many",
        "cwsam_cli.verify.files",
    ]
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command that runs in a forked process."""

    process: ForkServerProcess
    printed: Path
    """The file that receives what it prints."""

    def finish(self) -> tuple[int, str]:
        """Wait for the command; returns its exit code, negative for a signal, and what it printed."""
        self.process.join()
        text = self.printed.read_text("utf-8", errors="replace")
        self.printed.unlink()
        assert self.process.exitcode is not None
        return self.process.exitcode, text

    def kill(self) -> None:
        """Kill the command, also if it is stopped or has ended."""
        self.process.kill()
        self.process.join()


def run_in_fork(folder: Path, words: Sequence[Any], fault: Fault | None = None) -> tuple[int, str]:
    """Run `cwsam` in a process that is forked from one which has loaded the libraries.

    That process is a server that runs nothing else: its only threads are idle ones of libraries. Tests themselves have
    busy threads, and a process forked from one with busy threads can wait for their locks forever.

    Args:
        folder: the working folder.
        words: the arguments.
        fault: see `Fault`; can be pickled.

    Returns:
        The exit code, negative for a signal, and what was printed.
    """
    return start_in_fork(folder, words, fault, folder.with_name(f"{folder.name}.out")).finish()


def start_in_fork(folder: Path, words: Sequence[Any], fault: Fault | None, printed: Path) -> Command:
    """Start what `run_in_fork` runs; `printed` receives what it prints."""
    child = _FORKS.Process(target=_run, args=(folder, [str(word) for word in words], fault, printed))
    child.start()
    return Command(child, printed)


def run_again(folder: Path, words: Sequence[Any]) -> tuple[int, str]:
    """Run a command that was killed once more. Training resumes, unless the killed run saved nothing."""
    if words[0] == "train":
        code, text = run_in_fork(folder, (*words, "--resume"))
        if "holds no run" not in text:
            return code, text
        assert "Traceback" not in text, text
    return run_in_fork(folder, words)


def make_fresh(inputs: Path, name: str) -> Path:
    """Return an empty folder beside the inputs."""
    folder = inputs.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _run(folder: Path, words: list[str], fault: Fault | None, out: Path) -> None:
    code = 1
    try:
        os.chdir(folder)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = ["cwsam", *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from cwsam_cli.main import app

        if fault:
            fault()
        app(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _is_of_numba(path: Any) -> bool:
    """Return whether a file is of numba's cache, which only the first run on a machine fills."""
    return str(path).endswith((".nbi", ".nbc"))


def count_renames(path: Path) -> Fault:
    """Write the number of renames into a file, one character per rename."""
    return partial(_count_renames, path)


def _count_renames(path: Path) -> None:
    def replace(source: Any, target: Any, **options: Any) -> None:
        if not _is_of_numba(target):
            with path.open("a") as file:
                file.write(".")
        _REPLACE(source, target, **options)

    os.replace = replace  # type: ignore[assignment]


def signal_at_rename(number: int, which: signal.Signals) -> Fault:
    """Send a signal to the process before its n-th rename, counted from 0."""
    return partial(_signal_at_rename, number, which)


def _signal_at_rename(number: int, which: signal.Signals) -> None:
    left = [number]

    def replace(source: Any, target: Any, **options: Any) -> None:
        if not _is_of_numba(target):
            if left[0] == 0:
                os.kill(os.getpid(), which)
            left[0] -= 1
        _REPLACE(source, target, **options)

    os.replace = replace  # type: ignore[assignment]


def kill_after(seconds: float) -> Fault:
    """Kill the process with SIGALRM after some time, wherever it is."""
    return partial(_kill_after, seconds)


def _kill_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler in Python would wait for calls in C
    signal.setitimer(signal.ITIMER_REAL, seconds)


def limit_files(size: int) -> Fault:
    """Let no file grow beyond a size in bytes, as on a full disk."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def contents(folder: Path) -> dict[str, Any]:
    """Return every file below a folder with what it says, without times and the numbers of processes."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tfevents" not in path.name
    }


def _content(path: Path) -> Any:
    if path.parent.name.startswith("last"):  # a saved state; its tensors are those of the checkpoint beside it
        return b""
    if path.suffix == ".gpkg":
        return _rows(path)
    if path.suffix == ".pth":
        raw = torch.load(path, weights_only=True)
        return raw["epoch"], {name: tensor.numpy().tobytes() for name, tensor in raw["weights"].items()}
    if zipfile.is_zipfile(path):
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    if path.name == "history.jsonl":
        return len(path.read_text("utf-8").splitlines())
    return path.read_bytes()


def _rows(path: Path) -> dict[str, list[Any]]:
    """Return the rows of a GeoPackage by table, without times of change and the index of geometries."""
    with closing(sqlite3.connect(path)) as package:
        names = [name for (name,) in package.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {}
        for name in (own for own in names if not own.startswith(("rtree", "sqlite"))):
            cursor = package.execute(f'SELECT * FROM "{name}"')
            kept = [i for i, column in enumerate(cursor.description) if column[0] not in _TIMES]
            tables[name] = [tuple(row[i] for i in kept) for row in cursor]
    return tables


def obey_permissions() -> None:
    """Take from root the right to read and write what permissions forbid. Its fault is this function itself."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3: two sets of three words
    assert libc.capget(header, sets) == 0, ctypes.get_errno()
    for word in range(3):
        sets[word] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0, ctypes.get_errno()
