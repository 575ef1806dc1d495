"""Serve a page and its files to browsers on this machine.

The server listens on 127.0.0.1 only. Every path begins with a random token, so other users and other web pages
cannot guess it. Users who can list the processes of this machine see it in the command line of a browser that
`cwsam view` starts. The server gives files that are named, and nothing else.
"""

import re
import secrets
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
_CHUNK = 1 << 20


class PageServer(ThreadingHTTPServer):
    """A server of named files.

    Args:
        files: the files by the part of the address behind the token; `""` is the page itself.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.token = secrets.token_urlsafe(16)

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: browsers close connections whenever they need no more of a file."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        prefix = f"/{self.server.token}/"
        file = self.server.files.get(path.removeprefix(prefix)) if path.startswith(prefix) else None
        if file is None:
            self._head(404, 0)
            return
        try:
            opened = file.open("rb")
        except OSError:
            self._head(404, 0)
            return
        with opened:
            size = opened.seek(0, 2)
            part = parse_range(self.headers.get("Range"), size)
            headers = {"Content-Type": _TYPES.get(file.suffix, "application/octet-stream"), "Accept-Ranges": "bytes"}
            if part is None:
                self._head(416, 0, headers | {"Content-Range": f"bytes */{size}"})
                return
            first, end = part
            if self.headers.get("Range"):
                headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
            self._head(206 if self.headers.get("Range") else 200, end - first, headers)
            opened.seek(first)
            while with_body and first < end:
                sent = opened.read(min(_CHUNK, end - first))
                if not sent:  # the file has become shorter
                    self.close_connection = True
                    return
                self.wfile.write(sent)
                first += len(sent)

    def _head(self, status: int, length: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing for each request."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the end of what a `Range` header asks for; None if it cannot be given.

    A header that asks for several parts, or in other units, means the whole file.

    Args:
        header: value of the header, None without one.
        size: bytes of the file.
    """
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").replace(" ", ""))
    if asked is None or asked[1] == asked[2] == "":
        return 0, size
    if asked[1] == "":
        return (max(0, size - int(asked[2])), size) if int(asked[2]) and size else None
    first, end = int(asked[1]), min(size, int(asked[2] or size) + 1)
    return (first, end) if first < end else None
