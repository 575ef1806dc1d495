"""The finished pieces of an output, kept beside it until the output is complete.

A run that was killed continues from its journal. A journal is a folder. Its `journal.json` holds the key, on which the
pieces depend, and the plan, by which they were cut. Each process appends pieces to a file of its own. Every piece has
a checksum; a piece that a kill left half-written is cut off.
"""

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cwsam_cli.console import log
from cwsam_cli.files import reserved, write_text

_HEAD = struct.Struct("<4sIIQI")
_MAGIC = b"cwsm"
_DESCRIPTION = "journal.json"

Append = Callable[[int, int, bytes], None]


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

    def scan(self, *, repair: bool = True) -> None:
        """Find the whole pieces.

        Args:
            repair: cut off a half-written piece; leave that out while other processes may be writing.
        """
        self.pieces.clear()
        for path in sorted(self.folder.glob("*.pieces")):
            with path.open("r+b" if repair else "rb") as file:
                good = 0
                while (found := _next(file, path)) is not None:
                    where, self.pieces[where] = found
                    good = file.tell()
                if repair:
                    file.truncate(good)

    def clear(self) -> None:
        """Forget all pieces."""
        self.pieces.clear()
        for path in self.folder.glob("*.pieces"):
            path.unlink()

    def read(self, row: int, column: int) -> bytes:
        """A piece's bytes."""
        place = self.pieces[row, column]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            return zlib.decompress(file.read(place.length))

    @contextmanager
    def appending(self, rank: int = 0) -> Iterator[Append]:
        """A function that adds a piece: row, column, bytes."""
        path = self.folder / f"{rank}.pieces"
        with path.open("ab") as file:

            def append(row: int, column: int, piece: bytes) -> None:
                packed = zlib.compress(piece, 1)
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
    if magic != _MAGIC:
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
        folder.mkdir(exist_ok=True)
        opened = Journal(folder, dict(plan))
        finished = False
        try:
            _resume_or_begin(opened, target, json.loads(json.dumps(key)), fits)
            yield opened
            finished = True
        finally:
            if finished or not any(path.stat().st_size for path in folder.glob("*.pieces")):
                (folder / _DESCRIPTION).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                log.info("the finished pieces of `%s` are kept: the same command continues where it was", target)


def _resume_or_begin(
    opened: Journal, target: Path, key: dict[str, Any], fits: Callable[[Mapping[str, Any]], bool]
) -> None:
    description = opened.folder / _DESCRIPTION
    try:
        raw = json.loads(description.read_text("utf-8"))
        older, plan = dict(raw["key"]), dict(raw["plan"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or killed before it was written
        older, plan = {}, {}
    if older:
        differing = sorted(name for name in older.keys() | key.keys() if older.get(name) != key.get(name))
        if not differing and fits(plan):
            opened.plan = plan
            opened.scan()
            log.info("`%s` was begun before: continuing, %d piece(s) are finished", target, len(opened.pieces))
            return
        what = f"another {', '.join(differing)}" if differing else "more memory or larger batches"
        log.warning("`%s` was begun with %s: starting over", target, what)
    opened.clear()
    write_text(description, json.dumps({"key": key, "plan": opened.plan}, indent=1, ensure_ascii=False))
