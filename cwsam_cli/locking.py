"""Locks between processes, which the system releases when a process ends."""

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cwsam_cli.errors import MachineError

_POLL_S = 0.1
_LONGEST_HOLDER = 300  # bytes
_LOCAL_LOCKS = ("fuse", "9p", "virtiofs")
"""Kinds of disks on which Linux keeps locks to itself."""
_LOCAL_OPTIONS = {"localflock", "nolock", "local_lock=flock", "local_lock=all"}
"""Options of Lustre and NFS that have the same effect."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_HELD: dict[Path, IO[bytes]] = {}


def is_held(path: Path) -> bool:
    """Return whether this process holds a lock file."""
    return path.absolute() in _HELD


def _let_go() -> None:
    for file in _HELD.values():
        file.close()


if hasattr(os, "register_at_fork"):  # else workers that live longer than a killed parent would keep its locks
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(path: Path, busy: str, *, wait_s: float = 0, is_data: bool = False) -> Iterator[None]:
    """Hold a lock that the system releases when this process ends, also if it is killed.

    The lock file holds the host and the number of the process, for the message that another process gets.

    Args:
        path: the lock file; the process that holds the lock may remove it.
        busy: the message if another process holds the lock.
        wait_s: seconds to wait for that process.
        is_data: the file holds data, so nothing is written into it.

    Raises:
        MachineError: another process holds the lock, or the disk has no locks.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with _open_lock(path) as file:
            file.seek(0)  # Windows locks a byte at this place
            try:
                _lock(file.fileno())
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    raise MachineError(
                        f"the disk of `{path.parent}` has no locks: {error.strerror}",
                        hint="choose an output on another disk, or mount Lustre with the option flock",
                    ) from None
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                holder = "" if is_data else f", {_holder(file)}"
                raise MachineError(busy + holder, hint="wait until it ends, or choose another output") from None
            if not _is_at(file.fileno(), path):  # the last holder has removed the file, and this lock protects nothing
                continue
            if not is_data:
                _take(file, path)
            _HELD[path.absolute()] = file
            try:
                yield
            finally:
                del _HELD[path.absolute()]
                if not is_data:
                    with suppress(OSError, ValueError):  # a forked process has closed it
                        file.truncate(0)
            return


def _open_lock(path: Path) -> IO[bytes]:
    try:
        return path.open("a+b")
    except FileNotFoundError:
        raise MachineError(
            f"`{path.parent}` accepts no new file, or was removed", hint="choose an output in another folder"
        ) from None


def _take(file: IO[bytes], path: Path) -> None:
    """Write this process into a lock file that it holds.

    Raises:
        MachineError: a process of another host wrote it last, and locks of this disk do not reach other hosts.
    """
    before = _holder(file)
    if before and not before.endswith(f" on {platform.node()}") and not _reaches_other_hosts(path):
        raise MachineError(
            f"`{path}` is held by {before}, and locks on this disk do not reach other hosts",
            hint=f"if that process has ended, remove the file: rm '{path}'",
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}".encode())
    file.flush()


def _holder(file: IO[bytes]) -> str:
    """Return what a lock file says of its holder."""
    try:
        file.seek(0)
        text = file.read(_LONGEST_HOLDER).decode(errors="replace")
    except OSError:  # Windows does not let others read a locked byte
        return "which cannot be named"
    return "".join(character for character in text if character.isprintable())


def _reaches_other_hosts(path: Path) -> bool:
    """Return whether locks on a disk hold for all hosts that use it. Where that is not known, they are taken to."""
    try:
        mounts = [line.split(" ") for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return True
    own = path.resolve()
    around = [mount for mount in mounts if own.is_relative_to(mount[1].replace("\\040", " "))]
    kind, options = max(around, key=lambda mount: len(mount[1]))[2:4] if around else ("", "")
    return not kind.startswith(_LOCAL_LOCKS) and not _LOCAL_OPTIONS & set(options.split(","))


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
