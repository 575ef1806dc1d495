"""`cwsam view` as a user starts and ends it."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

MakeRaster = Callable[..., Path]

CODES = np.repeat(np.array([[1, 2]], np.uint8), 20, axis=0).repeat(10, axis=1)


def test_an_exported_folder_is_replaced_only_if_that_is_asked(
    cwsam: Callable[..., Result], refused: Callable[..., str], tmp_path: Path, make_raster: MakeRaster
) -> None:
    map_, folder = make_raster("map.tif", CODES), tmp_path / "page"
    assert "page: put this folder on a web server" in cwsam("view", map_, "--export", folder).stdout
    assert (folder / "index.html").is_file()
    assert "exists already" in refused(2, "view", map_, "--export", folder, names="page")
    cwsam("view", map_, "--export", folder, "--overwrite")


def test_a_file_that_is_no_layer_ends_with_the_code_of_data_errors(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "neither a raster nor a vector file" in refused(
        4, "view", tmp_path / "notes.txt", "--no-browser", names="notes.txt"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_the_server_and_removes_its_files(tmp_path: Path, make_raster: MakeRaster) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "cwsam_cli", "view", str(make_raster("map.tif", CODES)), "--no-browser"]
    with subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(temporary)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:") and address.endswith("/")
        with urllib.request.urlopen(address) as answer:
            assert b"<title>cwsam view</title>" in answer.read()
        assert len(list(temporary.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    assert list(temporary.iterdir()) == []
