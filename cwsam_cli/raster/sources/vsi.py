"""GDAL's functions for files in object stores, which rasterio does not show. GDAL holds the credentials."""

import ctypes
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import rasterio
import rasterio._base

from cwsam_cli.errors import MachineError
from cwsam_cli.raster.sources.network import gdal_settings, stored_name

_UNKNOWN_SIZE = 2**64 - 1


def read_headers(name: str) -> dict[str, str] | None:
    """Return the headers of an object, in lower case; nothing if the store does not describe it.

    None on systems where GDAL's functions cannot be found, such as Windows.
    """
    ask = _find("VSIGetFileMetadata")
    if ask is None:
        return None
    ask.restype = ctypes.POINTER(ctypes.c_char_p)
    ask.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    with rasterio.Env(**gdal_settings(name)):
        answer = ask(name.encode(), b"HEADERS", None)
    lines = takewhile(bool, (answer[number] for number in count())) if answer else ()  # ends with a null pointer
    return {name.lower(): value for name, _, value in (line.decode().partition("=") for line in lines)}


def upload(path: Path, address: str) -> None:
    """Copy a file to an object store, in parts if it is large. GDAL tries again where the store is busy.

    Args:
        path: the file.
        address: of the object, such as `s3://bucket/maps/map.tif`.

    Raises:
        MachineError: the object is not there afterwards, or has another length.
    """
    name, copy = stored_name(address), _find("VSICopyFile")
    if copy is None:
        raise MachineError(
            f"`{path}` cannot be uploaded, because GDAL's functions for it are not found on this system",
            hint=f"upload it with another program, to `{address}`",
        )
    copy.restype = ctypes.c_int
    copy.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_void_p] * 3]
    message = _find("CPLGetLastErrorMsg")
    message.restype = ctypes.c_char_p
    with rasterio.Env(**gdal_settings(name)):
        failed = copy(str(path).encode(), name.encode(), None, _UNKNOWN_SIZE, None, None, None)
        reason = message().decode(errors="replace") if failed else ""
    told = {} if failed else read_headers(name) or {}
    length = told.get("content-range", "").rpartition("/")[2] or told.get("content-length", "")
    if length != str(path.stat().st_size):
        raise MachineError(
            f"`{path}` could not be uploaded to `{address}`: {reason or 'the object there has another length'}",
            hint="the file stays here; check the credentials, and call again: only the upload is repeated",
        )


def remove(address: str) -> None:
    """Remove an object from a store, if it is there."""
    name, unlink = stored_name(address), _find("VSIUnlink")
    if unlink is not None:
        with rasterio.Env(**gdal_settings(name)):
            unlink(name.encode())


def _find(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(rasterio._base.__file__), name)
    except (OSError, AttributeError):  # Windows finds no symbols of a library through one that uses it
        return None
