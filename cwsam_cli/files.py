"""Write beside the target and rename at the end, so that nobody ever sees half a file."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cwsam_cli.errors import MachineError, OutputExists, UsageError

_SIDECARS = (".ovr", ".msk", ".aux.xml", "-wal", "-shm", "-journal")
_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx")


def refuse_existing(target: Path, *, overwrite: bool, marker: str = "") -> None:
    """Stop early if the target is there and may not be replaced.

    Args:
        target: the file or folder to be written.
        overwrite: whether an existing one may go.
        marker: a file that tells a folder of ours from anybody else's; only a folder that
            holds it, or an empty one, is ever replaced.

    Raises:
        UsageError: the target exists, or is a folder that this program did not write.
    """
    if not os.path.lexists(target):
        return
    if target.is_dir():
        if not any(target.iterdir()):
            return
        if not marker or not (target / marker).exists():
            raise UsageError(
                f"`{target}` is a folder with other things in it",
                hint="name an output that does not exist yet",
            )
    if not overwrite:
        raise OutputExists(target)


def refuse_foreign(target: Path, made: Collection[str]) -> None:
    """Stop before a folder is replaced that holds more than this program writes there.

    Args:
        target: the folder; one that does not exist is fine.
        made: names of what is written there, without suffixes and leading dots.

    Raises:
        UsageError: something else lies there.
    """
    for entry in sorted(target.iterdir()) if target.is_dir() else ():
        if entry.name.lstrip(".").split(".")[0] not in made:
            raise UsageError(
                f"`{target}` holds `{entry.name}`, which this command has not written",
                hint="move it away, or name another output",
            )


def refuse_input(target: Path, *inputs: Path) -> None:
    """Stop before an input is replaced by its own output.

    Raises:
        UsageError: the target is one of the inputs.
    """
    for path in inputs:
        if target.resolve() == path.resolve():
            raise UsageError(f"`{target}` is an input", hint="name another output")


@contextmanager
def staged(target: Path, *, overwrite: bool, marker: str = "") -> Iterator[Path]:
    """Yield a path to write to; what was written there moves to `target` when the block succeeds.

    Everything that stands beside the yielded path (a GeoTIFF's `.aux.xml`, a shapefile's
    parts) moves too, before the main file: the main file's presence means complete. If the
    block fails, nothing is left behind and an older output is untouched.

    Args:
        target: the final file or folder.
        overwrite: whether an existing one may be replaced.
        marker: see `refuse_existing`.

    Raises:
        UsageError: see `refuse_existing`.
        MachineError: the block wrote nothing at the path.
    """
    refuse_existing(target, overwrite=overwrite, marker=marker)
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield stage / target.name
        if not os.path.lexists(stage / target.name):
            raise MachineError(
                f"nothing was written for `{target}`", hint="an older output is untouched; please report this"
            )
        sidecars = [entry for entry in sorted(stage.iterdir()) if entry.name != target.name]
        for entry in [*sidecars, stage / target.name]:
            final = target.parent / entry.name
            if final.is_dir():
                os.replace(final, stage / f"{final.name}.old")
            os.replace(entry, final)
        brought = {target.name, *(entry.name for entry in sidecars)}
        stale = {name + suffix for name in brought for suffix in _SIDECARS}  # of an older file
        if target.suffix.lower() == ".shp":
            stale |= {target.stem + suffix for suffix in _SHAPEFILE_INDEXES}
        for name in stale - brought:
            target.with_name(name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def sweep(target: Path) -> None:
    """Remove what killed processes left staged for a target; only where no other can be writing it."""
    _remove_staged(target.parent, re.escape(target.name))


def sweep_inside(folder: Path) -> None:
    """Remove what killed processes left staged for the files of a folder; only where no other can be writing them."""
    _remove_staged(folder, ".+")


def _remove_staged(folder: Path, name: str) -> None:
    staged_name = re.compile(rf"\.{name}\.[a-z0-9_]{{8}}\.part")  # as mkdtemp names them
    for entry in folder.iterdir() if folder.is_dir() else ():
        if staged_name.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def reserved(target: Path) -> Iterator[None]:
    """Let no other process write a target, and remove what killed ones left staged for it.

    Args:
        target: the output, a file or folder.

    Raises:
        MachineError: another process is writing it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    with locked(path, f"`{target}` is being written by another process"):
        try:
            sweep(target)
            yield
        finally:
            with suppress(OSError):  # Windows keeps files that are open: there the empty file stays
                path.unlink()


_HELD: set[IO[bytes]] = set()


def _let_go() -> None:
    for file in _HELD:
        file.close()


if hasattr(os, "register_at_fork"):  # else workers that outlive a killed parent would hold its locks
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends.

    Args:
        path: the lock's file, which its holder may remove.
        busy: what to say if another process holds it.

    Raises:
        MachineError: another process holds it.
    """
    while True:
        with path.open("a+b") as file:
            try:
                _lock(file.fileno())
            except OSError:
                raise MachineError(busy, hint="wait for it, or choose another output") from None
            if _is_at(file.fileno(), path):  # else its last holder has removed it meanwhile
                _HELD.add(file)
                try:
                    yield
                finally:
                    _HELD.discard(file)
                return


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


def write_text(target: Path, text: str) -> None:
    """Replace a small text file whole (UTF-8)."""
    with staged(target, overwrite=True) as path:
        path.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """The file's SHA-256, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
