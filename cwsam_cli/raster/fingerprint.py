"""Tell a raster from others, and from itself after a change, without reading it twice.

By default a file on this disk is known by its size, its time of change and a hash of a sample: its head, its tail
and blocks between them. Paths do not count, so a moved file is still the same. An edit that keeps the size and misses
the sample is noticed by its time. A copy with a new time counts as another file, unless the whole content is compared.
A file on a server or in an object store is known by its length, ETag and time of change, as the server reports them.
"""

import ctypes
import hashlib
import re
import time
from collections.abc import Mapping
from functools import cache
from http.client import HTTPException
from itertools import count, takewhile
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import rasterio
import rasterio._base

from cwsam_cli.errors import MachineError
from cwsam_cli.files import sha256
from cwsam_cli.raster.bands import band_descriptions
from cwsam_cli.raster.network import ARCHIVES, CLOUDS, VIEW, gdal_settings
from cwsam_cli.raster.views import View

_BLOCK = 32 << 10
_BLOCKS = 16
"""Bytes of a block and blocks of a sample: together half a megabyte per file, whatever its size."""
_TRIES = 3


def fingerprint(scene: str, dataset: rasterio.DatasetReader, *, whole: bool = False) -> str:
    """Return hexadecimal digits that change when a scene, or a file that it consists of, changes.

    Args:
        scene: the name by which the raster was opened.
        dataset: the open raster.
        whole: hash every byte of files on this disk (0.64 CPU seconds per GB), and ignore their times.

    Raises:
        MachineError: a server does not describe its file.
    """
    header = repr((dataset.profile, dataset.transform, band_descriptions(dataset)))
    files = [name for name in dataset.files if not name.startswith("<VRTDataset")]  # parts of a view
    members = [path for _, path in View.from_text(scene).members] if scene.startswith(VIEW) else [scene]
    names = dict.fromkeys([*members, *files])
    return _digest(header, *(_describe(name, whole=whole) for name in names))


def fingerprint_of_file(path: Path, *, whole: bool = False) -> str:
    """Return the same for any file on this disk."""
    return _digest(_describe(str(path), whole=whole))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _describe(name: str, *, whole: bool) -> str:
    path = _find_on_disk(name)
    if path is None:
        if "http://" in name or "https://" in name:
            return f"{name} {_ask_server(_extract_url(name))}"
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


def _extract_url(name: str) -> str:
    """The URL in one of GDAL's virtual paths; for a file in an archive, the archive's URL."""
    url = name[name.index("http") :].partition("!")[0]
    archive = re.match(r".*?\.(?:zip|tar|tgz|gz)(?=/)", url) if "/vsi" in name else None
    return archive[0] if archive else url


def _ask_server(url: str) -> str:
    """Ask a server about a file by HEAD, or by GET of its first byte where a signed URL allows no HEAD.

    Raises:
        MachineError: the server does not answer.
    """
    reason: Exception | None = None
    for number in range(_TRIES):
        if number:
            time.sleep(number)
        try:
            try:
                return _read_headers(Request(url, method="HEAD"))
            except HTTPError:
                return _read_headers(Request(url, headers={"Range": "bytes=0-0"}))
        except (HTTPException, OSError, ValueError) as error:
            reason = error
    raise _unanswered(url, str(reason))


def _read_headers(request: Request) -> str:
    with urlopen(request, timeout=30) as answer:
        return _describe_headers(dict(answer.headers.items()))


def _describe_headers(told: Mapping[str, str]) -> str:
    length = told.get("Content-Range", "").rpartition("/")[2] or told.get("Content-Length")
    return " ".join(map(str, (length, told.get("ETag"), told.get("Last-Modified"))))


def _ask_store(name: str) -> str:
    """Ask an object store about an object, through GDAL, which holds the credentials.

    Raises:
        MachineError: the store does not answer.
    """
    try:
        ask = ctypes.CDLL(rasterio._base.__file__).VSIGetFileMetadata  # rasterio does not show it
    except (OSError, AttributeError):  # Windows finds no symbols of a library through one that uses it
        return ""
    ask.restype = ctypes.POINTER(ctypes.c_char_p)
    ask.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    with rasterio.Env(**gdal_settings(name)):
        answer = ask(name.encode(), b"HEADERS", None)
    lines = takewhile(bool, (answer[number] for number in count())) if answer else ()  # ends with a null pointer
    told = dict(line.decode().split("=", 1) for line in lines)
    if not told:
        raise _unanswered(name, "it does not answer")
    return _describe_headers(told)


def _unanswered(name: str, reason: str) -> MachineError:
    return MachineError(
        f"the server does not say whether `{name.partition('?')[0]}` has changed: {reason}",
        hint="call again when it answers; the finished pieces of a map are kept",
    )
