"""GDAL's functions for files in object stores, which rasterio does not show. GDAL holds the credentials."""

import ctypes
from itertools import count, takewhile
from typing import Any

import rasterio
import rasterio._base

from cwsam_cli.raster.network import gdal_settings


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


def _find(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(rasterio._base.__file__), name)
    except (OSError, AttributeError):  # Windows finds no symbols of a library through one that uses it
        return None
