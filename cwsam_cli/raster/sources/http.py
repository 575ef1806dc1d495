"""Ask servers by HTTP, with patience for servers that are busy. GDAL asks for pixels itself."""

import base64
import os
import re
import time
from collections.abc import Mapping
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from cwsam_cli.errors import MachineError

BUSY = (408, 429, 500, 502, 503, 504)
"""Status codes of answers that may differ a moment later."""
REFUSED = (401, 403)
"""Status codes of missing, wrong and expired credentials."""

_TIMEOUT_S = 30
_LONGEST_WAIT_S = 60.0


def ask(request: Request, *, read: bool, tries: int = 4) -> tuple[Mapping[str, str], bytes]:
    """Return the headers and the body of a server's answer. A busy server is asked again after 1, 2 and 4 seconds.

    Args:
        request: the question; a login in its URL becomes a header. A header `Retry-After` of a busy server sets the
            pause, up to a minute.
        read: whether to read the body; else it is empty.
        tries: number of times to ask.

    Raises:
        HTTPError: the server refuses, or stays busy.
        OSError, HTTPException: it does not answer.
        ValueError: the address is no URL.
    """
    for name, value in (_credentials() | _take_login(request)).items():
        request.add_unredirected_header(name, value)  # a redirect can lead to another server
    for number in range(tries):
        pause = 2.0**number
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:
                return dict(answer.headers.items()), answer.read() if read else b""
        except HTTPError as error:
            if error.code not in BUSY or number == tries - 1:
                raise
            told = error.headers.get("Retry-After", "")
            pause = min(float(told), _LONGEST_WAIT_S) if told.isdecimal() else pause
        except (HTTPException, OSError):
            if number == tries - 1:
                raise
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _credentials() -> dict[str, str]:
    """Return the headers that GDAL sends, too, by its own variables of the environment."""
    headers = {}
    for line in re.split(r"[\r\n,]+", os.environ.get("GDAL_HTTP_HEADERS", "")):
        name, _, value = line.partition(":")
        if value:
            headers[name.strip()] = value.strip()
    if bearer := os.environ.get("GDAL_HTTP_BEARER"):
        headers["Authorization"] = f"Bearer {bearer}"
    elif login := os.environ.get("GDAL_HTTP_USERPWD"):
        headers |= _basic(login)
    return headers


def _take_login(request: Request) -> dict[str, str]:
    """Remove the login from a request's URL and return it as a header: urllib takes it for a part of the host."""
    parts = urlsplit(request.full_url)
    login, _, host = parts.netloc.rpartition("@")
    if not login:
        return {}
    request.full_url = urlunsplit(parts._replace(netloc=host))
    return _basic(unquote(login))


def _basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def refusal(name: str, code: int | str) -> MachineError:
    """Return the error for an object that the server refuses to send."""
    return MachineError(
        f"the server refuses to send `{name}` ({code})",
        hint="a token or signed URL may have expired: renew it and call again; finished pieces of a map are kept",
    )
