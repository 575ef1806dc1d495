"""Servers are asked with patience, and with the credentials that GDAL has."""

import base64
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from cwsam_cli.console import without_secrets
from cwsam_cli.raster.sources import http
from cwsam_cli.raster.sources.http import ask


@pytest.fixture
def file(object_store: str, tmp_path: Path) -> str:
    (tmp_path / "file").write_text("content")
    return f"http://{object_store}/file"


def test_a_busy_server_is_asked_again_after_pauses_that_grow(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(http.time, "sleep", pauses.append)
    (tmp_path / "busy").write_text("3")
    headers, body = ask(Request(file), read=True)
    assert body == b"content" and headers["Content-Length"] == "7"
    assert pauses == [1, 2, 4]
    (tmp_path / "busy").write_text("99")
    with pytest.raises(HTTPError, match="503"):
        ask(Request(file), read=True)
    assert (tmp_path / "busy").read_text() == "95"


def test_a_refusal_is_final(file: str, tmp_path: Path) -> None:
    (tmp_path / "refuse").write_text("99")
    with pytest.raises(HTTPError, match="403"):
        ask(Request(file), read=True)
    assert (tmp_path / "refuse").read_text() == "98"


def test_a_server_that_is_not_there_is_an_error_of_the_system(file: str) -> None:
    with pytest.raises(OSError, match="refused"):
        ask(Request("http://127.0.0.1:1/file"), read=True)


@pytest.mark.parametrize(
    ("variable", "value", "sent"),
    [
        ("GDAL_HTTP_BEARER", "abc", "Bearer abc"),
        ("GDAL_HTTP_HEADERS", "X-A: b,Authorization: Bearer abc", "Bearer abc"),
        ("GDAL_HTTP_USERPWD", "me:pw", f"Basic {base64.b64encode(b'me:pw').decode()}"),
    ],
)
def test_credentials_of_gdal_are_sent(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sent: str
) -> None:
    (tmp_path / "token").write_text(sent)
    with pytest.raises(HTTPError, match="401"):
        ask(Request(file), read=True)
    monkeypatch.setenv(variable, value)
    assert ask(Request(file), read=True)[1] == b"content"


@pytest.mark.parametrize("login", ["me:p%40w", "me:p@w"])
def test_a_login_in_a_url_is_sent_and_in_no_message(file: str, tmp_path: Path, login: str) -> None:
    (tmp_path / "token").write_text(f"Basic {base64.b64encode(b'me:p@w').decode()}")
    address = file.replace("://", f"://{login}@")
    assert ask(Request(address), read=True)[1] == b"content"
    assert without_secrets(f"`{address}` is busy") == f"`{file}` is busy"
    with pytest.raises(OSError) as error:
        ask(Request(f"http://{login}@no-host.invalid/file"), read=True, tries=1)
    assert login not in str(error.value)
