"""Fetch a checkpoint once: resumable, verified before use, with a way out when there is no network."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from cwsam_cli.console import track
from cwsam_cli.errors import CheckpointError, MachineError
from cwsam_cli.files import locked, sha256

_CHUNK = 1 << 20
_TIMEOUT_S = 30


def download(url: str, target: Path, *, sha256_prefix: str = "") -> Path:
    """Download a file, unless it is there already.

    What arrived stays beside the target as `.part`; the next call goes on from there. While
    another process writes that file, this one fetches all into a file of its own.

    Args:
        url: http or https.
        target: where the file goes.
        sha256_prefix: the first digits of its SHA-256, checked before the file gets its name.

    Raises:
        MachineError: the network failed.
        CheckpointError: the file is not what it should be.
    """
    if target.exists():
        if sha256_prefix and not sha256(target).startswith(sha256_prefix):
            raise CheckpointError(f"`{target}` is not the file that it is named after", hint="remove it and call again")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        part = _own_part(target, stack)
        try:
            if not target.exists():  # else another process was faster
                _fetch(url, target, part, sha256_prefix)
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
    return target


def _own_part(target: Path, stack: ExitStack) -> Path:
    part = target.with_name(target.name + ".part")
    if os.name == "nt":  # a locked file cannot be renamed there
        return part
    try:
        stack.enter_context(locked(part, f"`{part}` is being written by another process"))
    except MachineError:
        folder = stack.enter_context(TemporaryDirectory(prefix=f".{part.name}.", dir=target.parent))
        return Path(folder) / part.name
    return part


def _fetch(url: str, target: Path, part: Path, sha256_prefix: str) -> None:
    try:
        for chunk in _chunks(url, part):
            with part.open("ab") as file:
                file.write(chunk)
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise MachineError(
            f"`{url}` could not be downloaded: {reason}",
            hint=f"call again to go on where it stopped; or bring the file by other means to {target}",
        ) from None
    if sha256_prefix and not sha256(part).startswith(sha256_prefix):
        part.unlink()
        raise CheckpointError(
            f"what came from `{url}` is not the file it should be (SHA-256 does not begin with {sha256_prefix})",
            hint="call again; if it stays so, something on the way changes the file",
        )
    os.replace(part, target)


def _chunks(url: str, part: Path) -> Iterator[bytes]:
    """The bytes that are still missing from `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with answer:
        if have and answer.status != 206:  # the server does not go on, so begin again
            os.truncate(part, 0)
            have = 0
        announced = answer.headers.get("Content-Length")
        total = int(announced) if announced else None
        received = 0
        for chunk in track(iter(lambda: answer.read(_CHUNK), b""), part.stem, total=total and -(-total // _CHUNK)):
            received += len(chunk)
            yield chunk
        if total is not None and received < total:
            raise ConnectionError(f"the connection broke after {have + received:,} bytes")
