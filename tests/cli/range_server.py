"""Serves the working folder with range requests, which the standard library's own handler does not know.

In a process of its own: GDAL holds Python's lock while it waits for an answer. `/sent` tells how
many bytes of files were sent.
"""

import http.server
from pathlib import Path


class Ranges(http.server.SimpleHTTPRequestHandler):
    sent = 0

    def do_GET(self) -> None:
        if self.path == "/sent":
            self.answer(200, str(Ranges.sent).encode())
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        whole = path.read_bytes()
        first, last, code = 0, len(whole) - 1, 200
        if self.headers.get("Range"):
            begin, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last, code = int(begin), min(int(end or last), last), 206
        Ranges.sent += last + 1 - first
        self.answer(code, whole[first : last + 1], f"bytes {first}-{last}/{len(whole)}")

    def answer(self, code: int, body: bytes, content_range: str = "") -> None:
        self.send_response(code)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if code == 206:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    print(server.server_address[1], flush=True)
    server.serve_forever()
