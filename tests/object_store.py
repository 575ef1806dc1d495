"""A small object store and STAC API over HTTP, for tests. It serves its working folder, a folder per bucket.

It knows HEAD, GET with ranges, PUT, DELETE and multipart uploads. Files in the working folder steer it: `etag` is the
ETag of all objects (else a hash of the content), `refuse` and `busy` hold the number of answers that become 403 or 503
from now on, `no_head` makes HEAD answer 403, and `token` is the header Authorization that all requests need.
`/api/search` answers with the items of `items.json`, one per page. `requests` lists all requests.
"""

import hashlib
import http.server
import json
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_lock = threading.Lock()


def _spend(name: str) -> bool:
    """Whether the file of this name still asks for such an answer; counts down."""
    path = Path(name)
    with _lock:
        left = int(path.read_text() or 0) if path.exists() else 0
        if left:
            path.write_text(str(left - 1))
        return left > 0


class Store(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        parts, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        path = Path(parts.path.strip("/"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with _lock, Path("requests").open("a") as log:
            log.write(f"{self.command} {self.path}\n")
        is_refused = _spend("refuse") or (self.command == "HEAD" and Path("no_head").exists())
        if Path("token").exists() and self.headers.get("Authorization") != Path("token").read_text():
            return self._answer(401, b"")
        if is_refused or _spend("busy"):
            code = b"AccessDenied" if is_refused else b"SlowDown"
            return self._answer(403 if is_refused else 503, b"<Error><Code>%s</Code></Error>" % code)
        if parts.path == "/api/search":
            return self._search(query)
        if self.command == "POST" and "uploads" in query:
            return self._answer(
                200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
        if self.command == "POST":
            pieces = sorted(path.parent.glob(f"{path.name}.piece*"))
            path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
            return self._answer(200, b"<CompleteMultipartUploadResult/>")
        if self.command == "PUT":
            path.parent.mkdir(parents=True, exist_ok=True)
            number = f".piece{int(query['partNumber'][0]):04}" if "partNumber" in query else ""
            path.with_name(path.name + number).write_bytes(body)
            return self._answer(200, b"", ETag='"put"')
        if self.command == "DELETE":
            path.unlink(missing_ok=True)
            return self._answer(204, b"")
        if not path.is_file():
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        whole = path.read_bytes()
        etag = Path("etag").read_text() if Path("etag").exists() else hashlib.md5(whole).hexdigest()
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if self.headers.get("Range"):
            begin, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or len(whole)), len(whole) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
            return self._answer(206, whole[first : last + 1], **headers)
        self._answer(200, whole, **headers)

    def _search(self, query: dict[str, list[str]]) -> None:
        items, page = json.loads(Path("items.json").read_text("utf-8"))["features"], int(query.get("page", ["0"])[0])
        links = [{"rel": "next", "href": f"search?page={page + 1}"}] if page + 1 < len(items) else []
        found = {"type": "FeatureCollection", "features": items[page : page + 1], "links": links}
        self._answer(200, json.dumps(found).encode())

    def _answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    print(server.server_address[1], flush=True)
    server.serve_forever()
