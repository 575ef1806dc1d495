"""Write outputs beside their target and rename them at the end, so a file at its final name is complete."""

import csv
import errno
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from cwsam_cli.errors import MachineError, OutputExists, UsageError
from cwsam_cli.locking import is_held, locked

_SIDECARS = (".ovr", ".msk", ".aux.xml", "-wal", "-shm", "-journal")
_STORE = re.compile(r"(s3|gs|az):/")
_SHAPEFILE_INDEXES = (".qix", ".sbn", ".sbx")


def refuse_existing(target: Path, *, overwrite: bool, marker: str = "") -> None:
    """Raise an error if the target exists and must not be replaced, or cannot be written.

    Args:
        target: the output file or folder.
        overwrite: whether an existing output may be replaced.
        marker: name of a file that only folders of this program contain. A folder is replaced only
            if it contains this file or is empty.

    Raises:
        UsageError: the target exists, is a folder that this program did not write, is in an object store, or has no
            name.
        OSError: its path is too long, or leads through a file or a folder in which nothing can be written.
    """
    if _STORE.match(target.as_posix()):
        raise UsageError(
            f"`{target}` is in an object store, and only `cwsam predict` writes maps there",
            hint="write to this disk, and upload the result with another program",
        )
    refuse_unnamed(target)
    _refuse_unwritable(target)
    if not os.path.lexists(target):
        return
    if target.is_dir():
        if not any(target.iterdir()):
            return
        if not marker or not (target / marker).exists():
            raise UsageError(
                f"`{target}` is a folder with other files in it",
                hint="choose an output that does not exist yet",
            )
    if not overwrite:
        raise OutputExists(target)


def refuse_unnamed(target: Path) -> None:
    """Raise an error if the output is the working folder or the root, beside which nothing can be written.

    Raises:
        UsageError: the path has no name.
    """
    if not target.name:
        raise UsageError("the output has no name of its own", hint="name a file or a folder: -o out")


def _refuse_unwritable(target: Path) -> None:
    try:
        with suppress(FileNotFoundError):
            os.lstat(target.with_name(f".{target.name}.12345678.part"))  # its draft, see `_staged`
        around = next(folder for folder in target.absolute().parents if folder.exists())
        if not os.access(around, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None


def refuse_foreign(target: Path, made: Collection[str]) -> None:
    """Raise an error if a folder contains files that this program does not write there.

    Args:
        target: the folder; it need not exist.
        made: names of the files and folders that the program writes, without suffixes and leading dots.

    Raises:
        UsageError: the folder contains another file or folder.
    """
    for entry in sorted(target.iterdir()) if target.is_dir() else ():
        if entry.name.lstrip(".").split(".")[0] not in made:
            raise UsageError(
                f"`{target}` contains `{entry.name}`, which this command did not write",
                hint="move it to another folder, or choose another output",
            )


def refuse_input(target: Path, *inputs: Path) -> None:
    """Raise an error if the output would replace an input.

    Raises:
        UsageError: the target is one of the inputs.
    """
    for path in inputs:
        if target.resolve() == path.resolve():
            raise UsageError(f"`{target}` is an input", hint="choose another output")


def refuse_unseen(folder: Path) -> None:
    """Stop a worker that does not see a folder which the process that gives it work has made.

    Raises:
        MachineError: there is no such folder here.
    """
    if not folder.is_dir():
        raise MachineError(
            f"a worker does not see the folder `{folder}`",
            hint="choose an output on a disk that all workers can reach at the same path",
        )


@contextmanager
def staged(target: Path, *, overwrite: bool, marker: str = "") -> Iterator[Path]:
    """Yield a path to write to, and move the written file or folder to `target` if the block succeeds.

    Files beside the yielded path (a GeoTIFF's `.aux.xml`, parts of a shapefile) move first and the
    main file last, so the main file's presence means that all are complete. If the block fails, its
    files are removed and an older output is untouched. The target is reserved meanwhile, unless this
    process has reserved it, or a folder around it, before.

    Args:
        target: the final file or folder.
        overwrite: whether an existing output may be replaced.
        marker: see `refuse_existing`.

    Raises:
        UsageError: see `refuse_existing`.
        MachineError: the block wrote nothing at the path, or another process is writing the target.
    """
    if target.is_symlink() and target.is_dir():  # keep the link and replace the folder that it points to
        target = target.resolve()
    refuse_existing(target, overwrite=overwrite, marker=marker)
    with nullcontext() if _is_ours(target) else reserved(target), _staged(target) as stage:
        yield stage


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
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
                _replace_folder(entry, final, stage / f"{final.name}.old")
            else:
                os.replace(entry, final)
        brought = {target.name, *(entry.name for entry in sidecars)}
        stale = {name + suffix for name in brought for suffix in _SIDECARS}  # of an older file
        if target.suffix.lower() == ".shp":
            stale |= {target.stem + suffix for suffix in _SHAPEFILE_INDEXES}
        for name in stale - brought:
            target.with_name(name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace_folder(new: Path, final: Path, old: Path) -> None:
    """Move a folder to the place of another one, which comes back if that fails."""
    os.replace(final, old)
    try:
        os.replace(new, final)
    except BaseException:
        if not final.exists():
            os.replace(old, final)
        raise


def was_killed(target: Path) -> bool:
    """Return whether a process that was writing a target has been killed, or is still writing it."""
    return any(map(_staged_name(re.escape(target.name)).fullmatch, _entries(target.parent)))


def sweep(target: Path) -> None:
    """Remove staging folders of killed processes; call it only while no other process can write the target."""
    _remove_staged(target.parent, re.escape(target.name))


def sweep_inside(folder: Path) -> None:
    """Remove staging folders for any file of a folder; call it only while no other process can write there."""
    _remove_staged(folder, ".+")


def _remove_staged(folder: Path, name: str) -> None:
    for entry in filter(_staged_name(name).fullmatch, _entries(folder)):
        shutil.rmtree(folder / entry, ignore_errors=True)


def _staged_name(name: str) -> re.Pattern[str]:
    return re.compile(rf"\.{name}\.[a-z0-9_]{{8}}\.part")  # the names that mkdtemp gives


def _entries(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


@contextmanager
def reserved(target: Path, *, wait_s: float = 0) -> Iterator[None]:
    """Lock a target against other processes, and remove staging folders of killed ones.

    Args:
        target: the output, a file or folder.
        wait_s: seconds to wait for another process.

    Raises:
        MachineError: another process is writing it.
        UsageError: the path has no name.
    """
    refuse_unnamed(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    with locked(path, f"`{target}` is being written by another process", wait_s=wait_s):
        try:
            sweep(target)
            yield
        finally:
            with suppress(OSError):  # Windows cannot remove an open file, so the empty lock file stays there
                path.unlink()


def _is_ours(target: Path) -> bool:
    """Return whether this process has reserved a target or a folder around it."""
    place = target.absolute()
    return any(is_held(around.parent / f".{around.name}.lock") for around in (place, *place.parents))


def write_text(target: Path, text: str) -> None:
    """Write a small text file (UTF-8); an existing one is replaced in one step.

    The draft has the same name each time, so what a killed process left of it is replaced, too.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Format rows as CSV. A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(plain_cell, row) for row in rows)
    return text.getvalue()


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # spreadsheets of East Asia also take the wide forms
"""First characters of formulas."""


def plain_cell(value: Any) -> Any:
    """Return a value for a CSV; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(FORMULA) else value


def sha256(path: Path) -> str:
    """Return the file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
