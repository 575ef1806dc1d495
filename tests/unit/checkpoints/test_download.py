"""A checkpoint comes over a network that breaks, changes files, or is not there. The server is our own."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cwsam_cli.checkpoints.download import download
from cwsam_cli.errors import CheckpointError, MachineError
from cwsam_cli.locking import locked

CONTENT = bytes(range(256)) * 9_000  # 2.3 MB: more than two chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it serves, how it misbehaves, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    """Whether it goes on in the middle of a file."""
    cut_after: int | None = None
    """Bytes of an answer after which the connection breaks."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if not self.path.endswith("model.pth"):
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.end_headers()
            self.wfile.write(body[: state.cut_after])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}/weights/model.pth"
        yield state
        httpd.shutdown()
        thread.join()


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("prefix", ["", DIGEST[:6], DIGEST])
def test_a_file_arrives_whole_in_a_folder_that_was_not_there(server: Server, tmp_path: Path, prefix: str) -> None:
    target = tmp_path / "hub" / "checkpoints" / "model.pth"
    assert download(server.url, target, sha256_prefix=prefix) == target
    assert target.read_bytes() == CONTENT
    assert _left(target.parent) == ["model.pth"]
    assert server.asked == [None]


def test_what_is_there_already_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    target.write_bytes(b"an older download")
    assert download(server.url, target) == target
    assert target.read_bytes() == b"an older download"
    assert server.asked == []


def test_a_file_brought_by_hand_is_verified_and_never_removed(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    target.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        download(server.url, target, sha256_prefix=DIGEST[:6])
    assert target.exists() and server.asked == []


@pytest.mark.parametrize("cut", [0, 1, 1_000_000, 2_000_000])
def test_a_broken_connection_is_an_error_and_the_next_call_fetches_only_the_rest(
    server: Server, tmp_path: Path, cut: int
) -> None:
    target = tmp_path / "model.pth"
    server.cut_after = cut
    with pytest.raises(MachineError, match=r"model\.pth` could not be downloaded") as caught:
        download(server.url, target, sha256_prefix=DIGEST[:6])
    assert caught.value.exit_code == 6
    assert str(target) in caught.value.hint
    assert not target.exists()
    have = (tmp_path / "model.pth.part").stat().st_size if cut else 0
    assert have == cut

    server.cut_after = None
    download(server.url, target, sha256_prefix=DIGEST[:6])
    assert server.asked == [None, f"bytes={cut}-" if cut else None]
    assert target.read_bytes() == CONTENT
    assert _left(tmp_path) == ["model.pth"]


def test_a_connection_that_breaks_twice_goes_on_twice(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    server.cut_after = 900_000
    for _ in range(2):
        with pytest.raises(MachineError):
            download(server.url, target, sha256_prefix=DIGEST[:6])
    download(server.url, target, sha256_prefix=DIGEST[:6])
    assert server.asked == [None, "bytes=900000-", "bytes=1800000-"]
    assert target.read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_is_asked_for_everything_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    server.cut_after, server.ranges = 1_000_000, False
    with pytest.raises(MachineError):
        download(server.url, target)
    server.cut_after = None
    download(server.url, target, sha256_prefix=DIGEST[:6])
    assert server.asked == [None, "bytes=1000000-"]
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_already_only_needs_its_name(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    (tmp_path / "model.pth.part").write_bytes(CONTENT)
    download(server.url, target, sha256_prefix=DIGEST[:6])
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert target.read_bytes() == CONTENT
    assert _left(tmp_path) == ["model.pth"]


def test_a_file_of_another_hash_is_an_error_and_nothing_of_it_stays(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(CheckpointError, match=DIGEST[:6]) as caught:
        download(server.url, tmp_path / "model.pth", sha256_prefix=DIGEST[:6])
    assert caught.value.exit_code == 5
    assert server.url in str(caught.value)
    assert caught.value.hint
    assert _left(tmp_path) == []
    server.content = CONTENT
    download(server.url, tmp_path / "model.pth", sha256_prefix=DIGEST[:6])
    assert server.asked == [None, None]


def test_a_part_of_another_file_is_found_out_by_the_hash(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pth.part").write_bytes(b"?" * 1000)
    with pytest.raises(CheckpointError):
        download(server.url, tmp_path / "model.pth", sha256_prefix=DIGEST[:6])
    assert _left(tmp_path) == []


def test_without_a_network_the_hint_says_where_the_file_may_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/model.pth"
    target = tmp_path / "cache" / "model.pth"
    with pytest.raises(MachineError, match="could not be downloaded") as caught:
        download(url, target)
    assert caught.value.exit_code == 6
    assert url in str(caught.value)
    assert str(target) in caught.value.hint
    assert _left(target.parent) == []


def test_a_file_that_the_server_has_not_is_an_error_that_names_the_url(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("model.pth", "gone.pth")
    with pytest.raises(MachineError, match="Not Found") as caught:
        download(url, tmp_path / "gone.pth")
    assert url in str(caught.value)
    assert _left(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="nothing is locked there")
def test_a_file_that_another_process_is_fetching_is_fetched_apart(server: Server, tmp_path: Path) -> None:
    target, part = tmp_path / "model.pth", tmp_path / "model.pth.part"
    part.write_bytes(CONTENT[:1000])
    with locked(part, "", is_data=True):
        download(server.url, target, sha256_prefix=DIGEST)
        assert part.read_bytes() == CONTENT[:1000]
    assert target.read_bytes() == CONTENT
    assert server.asked == [None]
    assert _left(tmp_path) == ["model.pth", "model.pth.part"]


def test_many_that_fetch_one_file_at_once_all_get_it_whole(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: download(server.url, target, sha256_prefix=DIGEST), range(8)))
    assert found == [target] * 8
    assert target.read_bytes() == CONTENT
    assert _left(tmp_path) == ["model.pth"]
