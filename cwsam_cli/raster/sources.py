"""Which scenes a command line means, and how GDAL reaches those that are not on this disk."""

import ctypes
import glob
import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from itertools import count, takewhile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import rasterio
import rasterio._base

from cwsam_cli.errors import DataError, MachineError, UsageError
from cwsam_cli.files import sha256
from cwsam_cli.raster.bands import band_descriptions
from cwsam_cli.raster.network import READS, REMOTE_SCENES
from cwsam_cli.raster.scene import GDAL_CACHE, open_raster

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Of files in a folder that are taken for scenes."""

_CLOUDS = {"s3://": "/vsis3/", "gs://": "/vsigs/", "az://": "/vsiaz/"}
"""GDAL's own way to them asks the environment for credentials and needs no further package."""


def is_remote(scene: str) -> bool:
    """Whether a scene comes over the network."""
    return "://" in scene or scene.startswith(("/vsicurl", "/vsis3", "/vsigs", "/vsiaz"))


def is_plain_file(scene: str) -> bool:
    """Whether a scene is a path of this machine."""
    return "://" not in scene and not scene.startswith("/vsi")


def gdal_settings(scene: str = "", *, cache: int = GDAL_CACHE) -> dict[str, Any]:
    """GDAL's settings for reading a scene; what the environment says already stands."""
    settings = REMOTE_SCENES if is_remote(scene) else READS
    return {"GDAL_CACHEMAX": cache} | {name: value for name, value in settings.items() if name not in os.environ}


def expand(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The scenes that arguments mean, and whether they are many by their form.

    A folder means the rasters in it, a pattern what it matches, a `.txt` file the paths in
    it, one a line (`#` begins a remark; relative to the file); anything else is one scene.

    Raises:
        DataError: a folder, pattern or list means no scene.
        UsageError: a scene is meant twice.
    """
    scenes: list[str] = []
    many = len(arguments) > 1
    for argument in arguments:
        found = _meant(argument)
        if found is None:
            cloud = next((scheme for scheme in _CLOUDS if argument.startswith(scheme)), None)
            scenes.append(_CLOUDS[cloud] + argument.removeprefix(cloud) if cloud else argument)
            continue
        if not found:
            raise DataError(f"`{argument}` means no scene", hint=f"rasters end in {', '.join(SUFFIXES)}")
        scenes += found
        many = True
    twice = [scene for scene, times in Counter(map(_identity, scenes)).items() if times > 1]
    if twice:
        raise UsageError(f"`{twice[0]}` is given twice", hint="name each scene once")
    return scenes, many


def _meant(argument: str) -> list[str] | None:
    if not is_plain_file(argument):
        return None
    path = Path(argument)
    if path.is_dir():
        return sorted(str(entry) for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
        named = [line for line in lines if line and not line.startswith("#")]
        paths = [str(path.parent / line) if is_plain_file(line) else line for line in named]
        if paths and not any(Path(scene).exists() or not is_plain_file(scene) for scene in paths):
            raise DataError(f"`{argument}` is not a list of scenes: there is no `{paths[0]}`", hint="one path a line")
        return paths
    if not path.exists() and glob.has_magic(argument):
        return sorted(glob.glob(argument, recursive=True))
    return None


def _identity(scene: str) -> str:
    return str(Path(scene).resolve()) if is_plain_file(scene) else scene


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Tells a scene from others, and from itself after a change."""

    sight: str
    """Of its files' paths, sizes and times of change."""
    contents: str
    """Of all that is in them."""


def fingerprint(scene: str, known: Fingerprint | None = None) -> Fingerprint:
    """Hash all files of this disk that GDAL needs for a scene, to the last byte.

    That takes 0.64 CPU seconds per GB, so, as git does, files that look as they did when their
    hash was taken are not read again. A URL or an object of a store is not fetched whole for
    this: there it is what the server says of it (length, ETag, time of change), and the header.

    Args:
        scene: any raster that GDAL opens.
        known: an earlier fingerprint, which holds if the files still look the same.

    Raises:
        MachineError: a server does not say what it has.
    """
    with rasterio.Env(**gdal_settings(scene)), open_raster(scene) as dataset:
        header = repr((dataset.profile, dataset.transform, band_descriptions(dataset)))
        names = list(dict.fromkeys([scene, *dataset.files]))
    looks = [_look(name) for name in names]
    sight = _digest(header, *looks)
    if known is not None and known.sight == sight:
        return known
    return Fingerprint(sight, _digest(header, *map(_contents, names, looks)))


def hash_of(path: Path) -> str:
    """A file's SHA-256, read anew only after a change."""
    return _contents(str(path), _look(str(path)))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _look(name: str) -> str:
    if (path := _on_disk(name)) is not None:
        status = path.stat()
        return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
    if "http://" in name or "https://" in name:
        return f"{name} {_told_by_server(_address(name))}"
    return f"{name} {_told_by_store(name)}" if name.startswith(tuple(_CLOUDS.values())) else name


def _address(name: str) -> str:
    """The URL in one of GDAL's virtual paths; of a file in an archive, the archive's."""
    url = name[name.index("http") :].partition("!")[0]
    archive = re.match(r".*?\.(?:zip|tar|tgz|gz)(?=/)", url) if "/vsi" in name else None
    return archive[0] if archive else url


def _contents(name: str, look: str) -> str:
    path = _on_disk(name)
    if path is None:
        return look
    inside = name.rpartition(str(path))[2]  # of an archive
    return _sha256(path, look) + inside


@cache
def _sha256(path: Path, look: str) -> str:
    """Read once, however many scenes an archive holds or virtual rasters share a file."""
    return sha256(path)


def _on_disk(name: str) -> Path | None:
    """The file itself, or the archive that a virtual path looks into."""
    for prefix in ("zip://", "tar://", "gzip://", "/vsizip/", "/vsitar/", "/vsigzip/"):
        name = name.removeprefix(prefix)
    path = Path(name.partition("!")[0])
    return next((part for part in (path, *path.parents) if part.is_file()), None)


_TRIES = 3


def _told_by_server(url: str) -> str:
    """What a server says of a file: by HEAD, or by GET of its first byte where a signed URL allows no HEAD.

    Raises:
        MachineError: it does not answer.
    """
    reason: Exception | None = None
    for number in range(_TRIES):
        if number:
            time.sleep(number)
        try:
            try:
                return _headers(Request(url, method="HEAD"))
            except HTTPError:
                return _headers(Request(url, headers={"Range": "bytes=0-0"}))
        except (HTTPException, OSError, ValueError) as error:
            reason = error
    raise _unanswered(url, str(reason))


def _headers(request: Request) -> str:
    with urlopen(request, timeout=30) as answer:
        return _length_and_version(dict(answer.headers.items()))


def _length_and_version(told: Mapping[str, str]) -> str:
    length = told.get("Content-Range", "").rpartition("/")[2] or told.get("Content-Length")
    return " ".join(map(str, (length, told.get("ETag"), told.get("Last-Modified"))))


def _told_by_store(name: str) -> str:
    """What an object store says of an object, through GDAL, which holds the credentials.

    Raises:
        MachineError: it does not answer.
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
    return _length_and_version(told)


def _unanswered(name: str, reason: str) -> MachineError:
    return MachineError(
        f"the server does not say whether `{name.partition('?')[0]}` has changed: {reason}",
        hint="call again when it answers; what is finished of a map is kept",
    )


def map_names(scenes: Sequence[str]) -> list[str]:
    """A file name for each scene's map: the scene's own stem, numbered where stems repeat.

    Capitals make no other name: on many disks they do not.
    """
    stems = [Path(scene.rstrip("/").split("?")[0]).stem for scene in scenes]
    many = Counter(stem.casefold() for stem in stems)
    taken = {stem for stem, times in many.items() if times == 1}
    names = []
    for stem in stems:
        if many[stem.casefold()] > 1:
            stem = next(name for number in count(1) if (name := f"{stem}-{number}").casefold() not in taken)
            taken.add(stem.casefold())
        names.append(f"{stem}.tif")
    return names
