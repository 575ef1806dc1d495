"""GDAL's settings for reading rasters, on this disk or from a server.

The command line sets `PATIENCE` before it loads anything else, so this module imports only the standard library.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

PATIENCE = {
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",  # seconds at one byte per second or less; a slow connection is faster than that
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}
"""Without these GDAL waits for a silent server without limit."""

READS = PATIENCE | {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_CURL_CHUNK_SIZE": "262144",
}
"""For every scene: one on this disk may be a VRT of files on a server."""

REMOTE_SCENES = READS | {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",  # no listing of the server's folder; sidecars are asked for by name
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
}

SIGNING = "/vsicurl?"
"""Begins GDAL's path of a URL with options, such as signing by Planetary Computer."""

CLOUDS = {"s3://": "/vsis3/", "gs://": "/vsigs/", "az://": "/vsiaz/"}
"""GDAL's own paths to object stores: they read credentials from the environment and need no further package."""

ARCHIVES = ("zip://", "tar://", "gzip://", "/vsizip/", "/vsitar/", "/vsigzip/")
"""Begin the path of a file in an archive."""

GDAL_CACHE = 16 << 20
"""Bytes, as rasterio takes them. GDAL's default is 5 % of the memory, and 64 MB were no faster."""


NO_EXTERNAL = "CWSAM_NO_EXTERNAL"
"""Variable of the environment that forbids external rasters if it is not empty; see `raster.sources.external`."""

VIEW = "view://"
"""Begins a scene that is made of other rasters; see `raster.sources.views`."""


def is_remote(scene: str) -> bool:
    """Whether a scene comes over the network."""
    if scene.startswith(VIEW):
        pairs = scene.partition("?")[2].split("&")
        members = [unquote(pair) for pair in pairs if pair.startswith("band=")]
        return any("://" in member or "=/vsi" in member for member in members)
    return "://" in scene or scene.startswith(("/vsicurl", *(path.rstrip("/") for path in CLOUDS.values())))


def is_plain_file(scene: str) -> bool:
    """Whether a scene is a path on this machine."""
    return "://" not in scene and not scene.startswith("/vsi")


def path_or_name(scene: str) -> Path | str:
    """Return the path of a plain file; any other name stays as it is, because `Path` joins the slashes of a URL."""
    return Path(scene) if is_plain_file(scene) else scene


def stored_name(address: str) -> str:
    """Return GDAL's path of an object for an address such as `s3://bucket/map.tif`; any other name as it is."""
    scheme = next((scheme for scheme in CLOUDS if address.startswith(scheme)), None)
    return CLOUDS[scheme] + address.removeprefix(scheme) if scheme else address


def is_on_server(name: str) -> bool:
    """Whether a file is read by HTTP, and has no options of GDAL."""
    return ("http://" in name or "https://" in name) and not name.startswith(SIGNING)


def url_of(name: str) -> str:
    """Return the URL in one of GDAL's virtual paths; for a file in an archive, the archive's URL."""
    if name.startswith(SIGNING):
        return dict(parse_qsl(name.partition("?")[2])).get("url", name)
    url = name[name.index("http") :].partition("!")[0]
    archive = re.match(r".*?\.(?:zip|tar|tgz|gz)(?=/)", url) if "/vsi" in name else None
    return archive[0] if archive else url


def gdal_settings(scene: str = "", *, cache: int = GDAL_CACHE) -> dict[str, Any]:
    """GDAL's settings for reading a scene; variables of the environment take precedence.

    Args:
        scene: a path or URL.
        cache: bytes of decoded blocks that GDAL keeps.
    """
    settings = REMOTE_SCENES if is_remote(scene) else READS
    return {"GDAL_CACHEMAX": cache} | {name: value for name, value in settings.items() if name not in os.environ}
