"""Tell a raster from others, and from itself after a change, without reading it twice.

By default a file on this disk is known by its size, its time of change and a hash of a sample: its head, its tail
and blocks between them. Paths do not count, so a moved file is still the same. An edit that keeps the size and misses
the sample is noticed by its time. A copy with a new time counts as another file, unless the whole content is compared.
A file on a server or in an object store is known by its length, ETag, version and time of change, as the server
reports them. The query of its URL counts only if the server reports none of them, because a signature changes.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import rasterio

from cwsam_cli.console import without_secrets
from cwsam_cli.errors import DataError, MachineError
from cwsam_cli.files import sha256
from cwsam_cli.raster.bands import band_descriptions
from cwsam_cli.raster.sources.http import BUSY, REFUSED, ask, refusal
from cwsam_cli.raster.sources.network import ARCHIVES, CLOUDS, SIGNING, VIEW, is_on_server, url_of
from cwsam_cli.raster.sources.views import View
from cwsam_cli.raster.sources.vsi import read_headers

_BLOCK = 32 << 10
_BLOCKS = 16
"""Bytes of a block and blocks of a sample: together half a megabyte per file, whatever its size."""
_VERSIONS = ("etag", "last-modified", "x-amz-version-id", "x-goog-generation")


def fingerprint(scene: str, dataset: rasterio.DatasetReader, *, whole: bool = False) -> str:
    """Return hexadecimal digits that change when a scene, or a file that it consists of, changes.

    Args:
        scene: the name by which the raster was opened.
        dataset: the open raster.
        whole: hash every byte of files on this disk (0.64 CPU seconds per GB), and ignore their times.

    Raises:
        MachineError: a server does not describe its file.
    """
    parts = (dataset.profile, dataset.transform, band_descriptions(dataset))
    view = View.from_text(scene) if scene.startswith(VIEW) else None
    header = repr((*parts, view.scales) if view and view.unscale and view.scales else parts)
    files = [name for name in dataset.files if not name.startswith("<VRTDataset")]  # parts of a view
    members = [path for _, path in view.members] if view else [scene]
    on_servers = {url_of(name) for name in members if is_on_server(name)}
    files = [name for name in files if not (is_on_server(name) and url_of(name) in on_servers)]
    names = dict.fromkeys([*members, *files])
    return _digest(header, *(_describe(name, whole=whole) for name in names))


def fingerprint_of_file(path: Path, *, whole: bool = False) -> str:
    """Return the same for any file on this disk."""
    return _digest(_describe(str(path), whole=whole))


@dataclass(frozen=True, slots=True)
class Stamps:
    """When files on this disk were changed last."""

    _found: dict[str, tuple[int, int] | None]

    @classmethod
    def of(cls, files: Iterable[Path | str]) -> "Stamps":
        """Note when files were changed. A view is as its rasters are."""
        return cls({name: _stamp(name) for file in files for name in _parts(str(file))})

    def refuse_changed(self) -> None:
        """Stop if a file was replaced or changed since.

        Raises:
            DataError: it was.
        """
        for name, stamp in self._found.items():
            if _stamp(name) != stamp:
                raise changed(name)


def _parts(name: str) -> list[str]:
    return [path for _, path in View.from_text(name).members] if name.startswith(VIEW) else [name]


def changed(file: Path | str) -> DataError:
    """Return the error for a file that was changed while it was read."""
    return DataError(f"`{file}` was changed while it was read", hint="run the command again when it is complete")


def _stamp(file: Path | str) -> tuple[int, int] | None:
    path = _find_on_disk(str(file))
    if path is None:
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns  # some network disks, such as sshfs, give a file new inode numbers


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _describe(name: str, *, whole: bool) -> str:
    path = _find_on_disk(name)
    if path is None:
        if is_on_server(name):
            url = url_of(name)
            return f"{_ask_server(url)}{name.partition(url)[2]}"  # and its place in an archive
        if name.startswith(SIGNING):
            return f"{url_of(name)} {_ask_store(name)}"
        return f"{name} {_ask_store(name)}" if name.startswith(tuple(CLOUDS.values())) else name
    inside = name.rpartition(str(path))[2]  # of an archive
    status = path.stat()
    identity = (path, status.st_size, status.st_mtime_ns)
    if whole:
        return _hash_whole(*identity) + inside
    return f"{status.st_size} {status.st_mtime_ns} {_hash_sample(*identity)}{inside}"


@cache
def _hash_whole(path: Path, size: int, changed_ns: int) -> str:
    """Hash a file once, however many scenes an archive holds or virtual rasters share it."""
    return sha256(path)


@cache
def _hash_sample(path: Path, size: int, changed_ns: int) -> str:
    """Hash a file's head and tail and blocks at equal distances between them, or a small file whole."""
    if size <= _BLOCK * _BLOCKS:
        return sha256(path)
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _find_on_disk(name: str) -> Path | None:
    """The file itself, or the archive that a virtual path points into."""
    for prefix in ARCHIVES:
        name = name.removeprefix(prefix)
    path = Path(name.partition("!")[0])
    return next((part for part in (path, *path.parents) if part.is_file()), None)


def _ask_server(url: str) -> str:
    """Ask a server about a file by HEAD, or by GET of its first byte where a signed URL allows no HEAD.

    Raises:
        MachineError: the server does not answer, or refuses to.
    """
    try:
        try:
            told, _ = ask(Request(url, method="HEAD"), read=False)
        except HTTPError as error:
            if error.code in BUSY:
                raise
            told, _ = ask(Request(url, headers={"Range": "bytes=0-0"}), read=False)
    except HTTPError as error:
        raise refusal(url, error.code) if error.code in REFUSED else _unanswered(url, str(error)) from None
    except (HTTPException, OSError, ValueError) as error:
        raise _unanswered(url, str(error)) from None
    told = {name.lower(): value for name, value in told.items()}
    name = without_secrets(url) if any(name in told for name in _VERSIONS) else url
    return f"{name} {_describe_headers(told)}"


def _describe_headers(told: Mapping[str, str]) -> str:
    length = told.get("content-range", "").rpartition("/")[2] or told.get("content-length")
    return " ".join(map(str, (length, *(told[name] for name in _VERSIONS if name in told))))


def _ask_store(name: str) -> str:
    """Ask an object store about an object.

    Raises:
        MachineError: the store does not answer.
    """
    told = read_headers(name)
    if told is None:
        return ""
    if not told:
        raise _unanswered(name, "it does not answer")
    return _describe_headers(told)


def _unanswered(name: str, reason: str) -> MachineError:
    return MachineError(
        f"the server does not say whether `{name}` has changed: {reason}",
        hint="call again when it answers; the finished pieces of a map are kept",
    )
