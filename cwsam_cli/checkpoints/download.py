"""Download a file once. Downloads resume, and the file is verified before use."""

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
from cwsam_cli.files import sha256
from cwsam_cli.locking import locked

_CHUNK = 1 << 20
_TIMEOUT_S = 30


def download(url: str, target: Path, *, sha256_prefix: str = "") -> Path:
    """Download a file if it does not exist yet.

    The file is downloaded to `<target>.part`. After an interruption, the next call continues that
    file. If another process is writing it, this one downloads to a file of its own.

    Args:
        url: http or https URL.
        target: path of the file.
        sha256_prefix: first digits of its SHA-256. They are checked before the file gets its name.

    Returns:
        `target`.

    Raises:
        MachineError: the network failed.
        CheckpointError: the SHA-256 of the file does not match.
    """
    if target.exists():
        if sha256_prefix and not sha256(target).startswith(sha256_prefix):
            raise CheckpointError(
                f"the SHA-256 of `{target}` does not match its name", hint="remove the file and run the command again"
            )
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        part = _own_part(target, stack)
        try:
            if not target.exists():  # another process may have finished the download meanwhile
                _fetch(url, target, part, sha256_prefix)
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
    return target


def _own_part(target: Path, stack: ExitStack) -> Path:
    part = target.with_name(target.name + ".part")
    if os.name == "nt":  # Windows cannot rename a locked file
        return part
    try:
        stack.enter_context(locked(part, f"`{part}` is being written by another process", is_data=True))
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
            hint=f"run the command again to continue the download, or copy the file to {target} yourself",
        ) from None
    if sha256_prefix and not sha256(part).startswith(sha256_prefix):
        part.unlink()
        raise CheckpointError(
            f"the file from `{url}` is wrong (its SHA-256 does not begin with {sha256_prefix})",
            hint="run the command again; if that fails, a proxy or the server may have changed the file",
        )
    os.replace(part, target)


def _chunks(url: str, part: Path) -> Iterator[bytes]:
    """Yield the bytes that `part` does not have yet."""
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416:  # the file is already complete
            return
        raise
    with answer:
        if have and answer.status != 206:  # the server sends the whole file, so start again
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
