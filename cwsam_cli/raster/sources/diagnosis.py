"""Why a raster on a server or in an object store could not be read: GDAL often says only that a block is missing."""

import re
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request

from cwsam_cli.errors import MachineError
from cwsam_cli.raster.sources.http import BUSY, REFUSED, ask, refusal
from cwsam_cli.raster.sources.network import CLOUDS, SIGNING, VIEW, is_on_server, url_of
from cwsam_cli.raster.sources.views import View
from cwsam_cli.raster.sources.vsi import read_headers

_REFUSED = re.compile(r"AccessDenied|ExpiredToken|InvalidAccessKey|SignatureDoesNotMatch|InvalidCredentials|\b40[13]\b")
_MISSING = re.compile(r"NoSuchKey|NoSuchBucket|does not exist|\b404\b")


def network_error(scene: str, detail: str) -> MachineError | None:
    """Return the error if the network, the server or the credentials are the cause; else None.

    Args:
        scene: a path, a URL, one of GDAL's virtual paths or a view.
        detail: GDAL's message.
    """
    members = [path for _, path in View.from_text(scene).members] if scene.startswith(VIEW) else [scene]
    for name in members:
        if is_on_server(name):
            error = _of_server(url_of(name))
        elif name.startswith((*CLOUDS.values(), SIGNING)):
            error = _of_store(name, detail)
        else:
            continue
        if error is not None:
            return error
    return None


def _of_server(url: str) -> MachineError | None:
    try:
        ask(Request(url, headers={"Range": "bytes=0-0"}), read=False, tries=1)
    except HTTPError as error:
        if error.code in REFUSED:
            return refusal(url, error.code)
        return _not_sent(url, str(error.code)) if error.code in BUSY else None
    except (HTTPException, OSError, ValueError) as error:
        return _not_sent(url, str(error))
    return None


def _of_store(name: str, detail: str) -> MachineError | None:
    if _REFUSED.search(detail):
        return refusal(name, "access denied")
    if _MISSING.search(detail) or read_headers(name) != {}:
        return None
    return MachineError(
        f"the object store does not send `{name}`",
        hint="check that the credentials have not expired, and call again; finished pieces of a map are kept",
    )


def _not_sent(url: str, reason: str) -> MachineError:
    return MachineError(
        f"the server does not send `{url}`: {reason}",
        hint="call again later; finished pieces of a map are kept",
    )
