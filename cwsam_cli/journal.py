"""The finished pieces of an output, kept beside it until the output is complete.

A run that was killed continues from its journal. A journal is a folder. Its `journal.json` holds the key, on which the
pieces depend, and the plan, by which they were cut. Each process appends pieces to a file of its own. Every piece has
a checksum; a piece that a kill left half-written is cut off.

One run has a journal alone, or several runs share it as parts, each with a lock of its own in the folder.
"""

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import IO, Any, Protocol

from cwsam_cli.console import log
from cwsam_cli.errors import DataError, MachineError, UsageError
from cwsam_cli.files import reserved, write_text
from cwsam_cli.locking import locked

_HEAD = struct.Struct("<4sIIQI")
_MAGIC = b"cwsm"
_DESCRIPTION = "journal.json"
_WAIT_S = 60  # parts that begin together look at the journal one after the other


class Append(Protocol):
    """Adds a piece to a journal."""

    def __call__(self, row: int, column: int, piece: bytes, *, is_packed: bool = False) -> None:
        """Add a piece, which `pack` may have compressed elsewhere."""


def pack(piece: bytes) -> bytes:
    """Compress a piece as the journal keeps it."""
    return zlib.compress(piece, 1)


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    offset: int
    length: int


@dataclass(slots=True)
class Journal:
    """An open journal."""

    folder: Path
    plan: dict[str, Any]
    """The plan by which the pieces were cut, as JSON values."""
    pieces: dict[tuple[int, int], _Place] = field(default_factory=dict)
    """By row and column."""

    def scan(self) -> None:
        """Find the whole pieces; other processes may be adding further ones."""
        self.pieces.clear()
        for path in sorted(self.folder.glob("*.pieces")):
            with path.open("rb") as file:
                while (found := _next(file, path)) is not None:
                    where, self.pieces[where] = found

    def clear(self) -> None:
        """Forget all pieces."""
        self.pieces.clear()
        for path in self.folder.glob("*.pieces"):
            path.unlink()

    def remove(self) -> None:
        """Remove the journal: its output is complete."""
        (self.folder / _DESCRIPTION).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_empty(self) -> bool:
        """Whether no process has added anything."""
        return not any(path.stat().st_size for path in self.folder.glob("*.pieces"))

    def read(self, row: int, column: int, size: int | None = None) -> bytes:
        """A piece's bytes.

        Args:
            row: row of the piece.
            column: column of the piece.
            size: number of bytes that the piece must have.

        Raises:
            DataError: the piece has another size, or cannot be decompressed.
        """
        place = self.pieces[row, column]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            packed = file.read(place.length)
        try:
            piece = zlib.decompressobj().decompress(packed, 0 if size is None else size + 1)
        except zlib.error:
            raise self.foreign_piece() from None
        if size is not None and len(piece) != size:
            raise self.foreign_piece()
        return piece

    def foreign_piece(self) -> DataError:
        """Return the error for a piece that no run of this output has written."""
        return DataError(
            f"`{self.folder}` holds a piece that is not of this output", hint="remove it, and run the command again"
        )

    @contextmanager
    def appending(self, rank: int = 0) -> Iterator[Append]:
        """A function that adds pieces. A half-written piece of the same rank is cut off."""
        path = self.folder / f"{rank}.pieces"
        path.touch()
        with path.open("r+b") as file:
            end = 0
            while _next(file, path) is not None:
                end = file.tell()
            file.seek(end)
            file.truncate()

            def append(row: int, column: int, piece: bytes, *, is_packed: bool = False) -> None:
                packed = piece if is_packed else pack(piece)
                head = _HEAD.pack(_MAGIC, row, column, len(packed), zlib.crc32(packed))
                offset = file.tell() + len(head)
                file.write(head + packed)
                file.flush()
                self.pieces[row, column] = _Place(path, offset, len(packed))

            yield append


def _next(file: IO[bytes], path: Path) -> tuple[tuple[int, int], _Place] | None:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, row, column, length, checksum = _HEAD.unpack(head)
    offset = file.tell()
    if magic != _MAGIC or length > path.stat().st_size - offset:
        return None
    packed = file.read(length)
    if len(packed) < length or zlib.crc32(packed) != checksum:
        return None
    return (row, column), _Place(path, offset, length)


def folder_of(target: Path) -> Path:
    """Where an output's journal is, while the output is not complete."""
    return target.with_name(f".{target.name}.journal")


@contextmanager
def journal(
    target: Path,
    key: Mapping[str, Any],
    plan: Mapping[str, Any],
    *,
    fits: Callable[[Mapping[str, Any]], bool] = lambda older: True,
) -> Iterator[Journal]:
    """Open the journal of an output, or begin one; remove it when the block succeeds.

    If the block fails, the journal stays, unless no piece is finished.

    Args:
        target: the output.
        key: everything that the pieces depend on, by names for people. A journal with another key is thrown away.
        plan: how to cut the work into pieces, as JSON values.
        fits: whether an older plan can be followed. If a journal with the same key exists and `fits(its plan)` is
            true, its plan is used instead of `plan`.

    Raises:
        MachineError: another process is writing this output.
    """
    folder = folder_of(target)
    with reserved(target):
        if parts_are_running(target):
            raise MachineError(
                f"other processes are making parts of `{target}`", hint="wait until they end, or choose another output"
            )
        folder.mkdir(exist_ok=True)
        opened = Journal(folder, dict(plan))
        finished = False
        try:
            _resume_or_begin(opened, target, json.loads(json.dumps(key)), fits)
            yield opened
            finished = True
        finally:
            if finished or opened.is_empty:
                opened.remove()
            else:
                log.info("the finished pieces of `%s` are kept: the same command continues where it was", target)


def _resume_or_begin(
    opened: Journal, target: Path, key: dict[str, Any], fits: Callable[[Mapping[str, Any]], bool]
) -> None:
    older, plan = _read_description(opened.folder)
    if older:
        differing = _differing(older, key)
        if not differing and fits(plan):
            opened.plan = plan
            opened.scan()
            log.info("`%s` was begun before: continuing, %d piece(s) are finished", target, len(opened.pieces))
            return
        what = f"another {', '.join(differing)}" if differing else "more memory or larger batches"
        log.warning("`%s` was begun with %s: starting over", target, what)
    _begin(opened, key)


def _begin(opened: Journal, key: dict[str, Any]) -> None:
    opened.clear()
    text = json.dumps({"key": key, "plan": opened.plan}, indent=1, ensure_ascii=False)
    write_text(opened.folder / _DESCRIPTION, text)


def _read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Key and plan; both are empty if there are none yet, or if a process was killed before it wrote them."""
    try:
        raw = json.loads((folder / _DESCRIPTION).read_text("utf-8"))
        return dict(raw["key"]), dict(raw["plan"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}, {}


def _differing(older: Mapping[str, Any], key: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in older.keys() | key.keys() if older.get(name) != key.get(name))


@contextmanager
def part_of_journal(
    target: Path,
    key: Mapping[str, Any],
    plan: Mapping[str, Any],
    *,
    part: int,
    misfit: Callable[[Mapping[str, Any]], str],
) -> Iterator[Journal]:
    """Open the journal of an output that several runs make together, or begin one. It stays when the block ends.

    Args:
        target: the output.
        key: see `journal`. It must be that of the other parts.
        plan: see `journal`. The part that comes first decides for all.
        part: the number of this part; no other run may have it at the same time.
        misfit: what another part's plan has so that it cannot be followed; empty if it can.

    Raises:
        MachineError: another process makes this part, or the whole output.
        UsageError: the other parts have another key, or a plan that does not fit.
    """
    folder = folder_of(target)
    opened = Journal(folder, dict(plan))
    with ExitStack() as stack:
        may_be_ending = any(folder.glob("*.lock"))  # another part may be writing the output, however long that takes
        with reserved(target, wait_s=inf if may_be_ending else _WAIT_S):
            is_first = not parts_are_running(target)
            folder.mkdir(exist_ok=True)
            busy = f"part {part} of `{target}` is being made by another process"
            _join(opened, target, json.loads(json.dumps(key)), misfit, may_begin=is_first and opened.is_empty)
            stack.enter_context(locked(folder / f"{part}.lock", busy))
        opened.scan()
        yield opened


def _join(
    opened: Journal,
    target: Path,
    key: dict[str, Any],
    misfit: Callable[[Mapping[str, Any]], str],
    *,
    may_begin: bool,
) -> None:
    older, plan = _read_description(opened.folder)
    differing = _differing(older, key)
    what = f"another {', '.join(differing)}" if differing else misfit(plan)
    if not what:
        opened.plan = plan
    elif may_begin or not older:
        _begin(opened, key)
    else:
        raise UsageError(
            f"other parts of `{target}` have {what}",
            hint=f"give all parts the same options; to begin anew, remove `{opened.folder}`",
        )


def parts_are_running(target: Path) -> bool:
    """Whether other processes are making parts of an output; call it only while the target is reserved."""
    for path in folder_of(target).glob("*.lock"):
        try:
            with locked(path, ""):
                pass
        except MachineError:
            return True
    return False
