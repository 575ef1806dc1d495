"""The server gives the named files in ranges, and gives nothing else to anyone."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cwsam_cli.view.server import PageServer, parse_range

DATA = bytes(range(200))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    (tmp_path / "map.tif").write_bytes(DATA)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "index.html").write_text("page")
    with PageServer({"": tmp_path / "index.html", "data/0.tif": tmp_path / "map.tif"}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: PageServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers


def test_a_range_of_a_named_file_is_served(server: PageServer) -> None:
    status, body, headers = ask(server, f"/{server.token}/data/0.tif", Range="bytes=10-19")
    assert (status, body, headers["Content-Range"]) == (206, DATA[10:20], "bytes 10-19/200")


def test_without_a_range_the_whole_file_is_served_and_the_page_at_the_address_itself(server: PageServer) -> None:
    status, body, headers = ask(server, f"/{server.token}/data/0.tif")
    assert (status, body, headers["Accept-Ranges"]) == (200, DATA, "bytes")
    assert ask(server, f"/{server.token}/")[:2] == (200, b"page")


def test_head_answers_as_get_does_but_sends_no_body(server: PageServer) -> None:
    status, body, headers = ask(server, f"/{server.token}/data/0.tif", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "200")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/data/0.tif",
        "/wrong/data/0.tif",
        "/TOKEN",
        "/TOKEN/data/",
        "/TOKEN/secret.txt",
        "/TOKEN/../secret.txt",
        "/TOKEN/data/../secret.txt",
        "/TOKEN/data/%2e%2e/secret.txt",
        "/TOKEN//etc/passwd",
    ],
)
def test_nothing_but_named_files_behind_the_token_is_served(server: PageServer, path: str) -> None:
    status, body, _ = ask(server, path.replace("TOKEN", server.token))
    assert (status, body) == (404, b"")


def test_a_file_that_has_gone_is_not_found(server: PageServer, tmp_path: Path) -> None:
    (tmp_path / "map.tif").unlink()
    assert ask(server, f"/{server.token}/data/0.tif")[0] == 404


def test_a_range_beyond_the_end_is_refused(server: PageServer) -> None:
    status, body, headers = ask(server, f"/{server.token}/data/0.tif", Range="bytes=200-")
    assert (status, body, headers["Content-Range"]) == (416, b"", "bytes */200")


def test_writing_methods_are_refused(server: PageServer) -> None:
    assert ask(server, f"/{server.token}/data/0.tif", "POST")[0] == 501


def test_two_servers_have_different_tokens_and_listen_on_this_machine_only(server: PageServer) -> None:
    with PageServer({}) as other:
        assert other.token != server.token
        assert other.server_address[0] == "127.0.0.1"
        assert len(server.token) >= 20


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=-0", None),
        ("bytes=100-", None),
        ("bytes=20-10", None),
        ("bytes=-", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("lines=0-1", (0, 100)),
    ],
)
def test_ranges_are_read_as_http_defines_them(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == part
