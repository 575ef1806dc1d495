"""Every scene's map has a name of its own, and a scene is told from others by all that is in it."""

import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
from rasterio.windows import Window
from typer.testing import CliRunner

from cwsam_cli.errors import MachineError
from cwsam_cli.main import app
from cwsam_cli.raster import sources as room
from cwsam_cli.raster.network import PATIENCE
from cwsam_cli.raster.sources import fingerprint, gdal_settings, map_names

MakeRaster = Callable[..., Path]


@pytest.mark.parametrize(
    ("scenes", "names"),
    [
        (["x/a.tif", "y/b.jp2"], ["a.tif", "b.tif"]),
        (["x/a.tif", "y/a.vrt"], ["a-1.tif", "a-2.tif"]),
        (["x/a.tif", "y/a.tif", "x/a-1.tif"], ["a-2.tif", "a-3.tif", "a-1.tif"]),
        (["x/A.tif", "y/a.tif"], ["A-1.tif", "a-2.tif"]),
        (["https://example.org/a.tif?key=b/c", "/vsizip/z.zip/d.tif"], ["a.tif", "d.tif"]),
    ],
)
def test_maps_are_called_after_their_scenes_and_numbered_around_names_that_are_taken(
    scenes: list[str], names: list[str]
) -> None:
    assert map_names(scenes) == names


@pytest.fixture
def scene(make_raster: MakeRaster) -> Path:
    """Several megabytes, and nothing compressed."""
    return make_raster("scene.tif", np.random.default_rng(0).integers(0, 255, (3, 1200, 1200)).astype(np.uint8))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read for their hash, in this order."""
    read: list[Path] = []
    sha256 = room.sha256

    def counting(path: Path) -> str:
        read.append(path)
        return sha256(path)

    monkeypatch.setattr(room, "sha256", counting)
    return read


def change_a_byte_in_the_middle(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_one_byte_in_the_middle_makes_another_scene(scene: Path) -> None:
    before = fingerprint(str(scene))
    change_a_byte_in_the_middle(scene)
    assert fingerprint(str(scene), before).contents != before.contents


def test_a_scene_that_was_only_touched_or_copied_is_the_same(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(str(scene))
    os.utime(scene, ns=(0, 0))
    touched = fingerprint(str(scene), before)
    assert touched.sight != before.sight and touched.contents == before.contents
    scene.rename(tmp_path / "moved.tif")
    monkeypatch.chdir(tmp_path)
    assert fingerprint("moved.tif").contents == before.contents


def test_what_looks_as_it_did_is_not_read_again(scene: Path, hashed: list[Path]) -> None:
    before = fingerprint(str(scene))
    assert hashed == [scene]
    assert fingerprint(str(scene), before) == before
    assert hashed == [scene]


@pytest.mark.parametrize("part", ["scene.tif", "scene.tif.msk", "scene.tif.aux.xml"])
def test_the_files_behind_a_scene_belong_to_it(scene: Path, make_raster: MakeRaster, part: str) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as target:
        target.write_mask(np.full((1200, 1200), 255, np.uint8))
    scene.with_name("scene.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    view = scene.with_name("scene.vrt")
    rasterio.shutil.copy(scene, view, driver="VRT")
    before = [fingerprint(str(path)).contents for path in (scene, view)]
    with scene.with_name(part).open("ab") as file:
        file.write(b" ")
    after = [fingerprint(str(path)).contents for path in (scene, view)]
    assert after[0] != before[0]
    assert (after[1] != before[1]) == (part == "scene.tif")  # GDAL names no sidecars of a VRT's sources


def test_scenes_of_one_archive_differ_and_the_archive_is_read_once(
    make_raster: MakeRaster, tmp_path: Path, hashed: list[Path]
) -> None:
    image: Any = np.zeros((3, 20, 20), np.uint8)
    path = tmp_path / "scenes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x/a.tif", "y/a.tif"):
            archive.write(make_raster("a.tif", image), name)
    found = {fingerprint(f"/vsizip/{path}/{folder}/a.tif").contents for folder in "xy"}
    assert len(found) == 2 and hashed == [path]


def test_blocks_that_were_read_stay_in_gdals_cache(tmp_path: Path) -> None:
    path, values = tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 255, (256, 1024), np.uint8)
    profile = {"driver": "GTiff", "width": 1024, "height": 256, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", tiled=True, compress="deflate", crs="EPSG:32612", **profile) as dataset:
        dataset.write(values, 1)
    with rasterio.Env(**gdal_settings()), rasterio.open(path) as dataset:
        dataset.read(1, window=Window(0, 0, 1024, 8))
        os.truncate(path, 0)
        assert np.array_equal(dataset.read(1, window=Window(0, 8, 1024, 8)), values[8:16])


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/scene.tif"


IN_A_PROCESS = """
import sys
import rasterio
from cwsam_cli.errors import CwsamError
from cwsam_cli.raster import network
from cwsam_cli.raster.scene import open_raster, reading
from cwsam_cli.raster.sources import gdal_settings
path = sys.argv[1]
settings = gdal_settings(path)
assert settings.keys() >= network.PATIENCE.keys()
with rasterio.Env(**settings | {"GDAL_HTTP_LOW_SPEED_TIME": "1", "GDAL_HTTP_MAX_RETRY": "0"}):
    try:
        with open_raster(path) as dataset, reading(path):
            dataset.read()
    except CwsamError as error:
        print(error)
"""


@pytest.mark.parametrize("through", ["url", "vrt"])
def test_a_server_that_does_not_answer_is_given_up(silent_server: str, tmp_path: Path, through: str) -> None:
    scene = silent_server
    if through == "vrt":
        scene = str(tmp_path / "scene.vrt")
        Path(scene).write_text(
            '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
            f"<SourceFilename>/vsicurl/{silent_server}</SourceFilename><SourceBand>1</SourceBand>"
            "</SimpleSource></VRTRasterBand></VRTDataset>"
        )
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, scene],
        env={name: value for name, value in os.environ.items() if name not in PATIENCE},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith(f"`{scene}` ") and silent_server in done.stdout + scene


def test_every_command_gives_up_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PATIENCE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "7")
    CliRunner().invoke(app, ["vectorize", "none.tif", "none.gpkg"])
    assert {name: os.environ[name] for name in PATIENCE} == PATIENCE | {"GDAL_HTTP_LOW_SPEED_TIME": "7"}
    assert 0 < int(PATIENCE["GDAL_HTTP_LOW_SPEED_TIME"]) <= 60


OBJECTS = """
import http.server
from pathlib import Path

class Objects(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, send):
        path = Path(self.path.lstrip("/").partition("?")[0])
        if Path("down").exists() or (Path("no_head").exists() and not send):
            return self.send_error(503 if send else 403)
        if not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        first, last, total = 0, len(body) - 1, len(body)
        ranged = self.headers.get("Range")
        if ranged:
            begin, _, end = ranged.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", Path("etag").read_text())
        self.end_headers()
        if send:
            self.wfile.write(body[first : last + 1])

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Objects)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def store(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves `scene.tif` by HTTP and as an object of a bucket, with the ETag that a file `etag` holds."""
    (tmp_path / "bucket").mkdir()
    scene.rename(tmp_path / "bucket" / "scene.tif")
    (tmp_path / "etag").write_text("one")
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    line = [sys.executable, "-c", OBJECTS]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        monkeypatch.setenv("AWS_S3_ENDPOINT", address)
        for name, value in (("HTTPS", "NO"), ("VIRTUAL_HOSTING", "FALSE"), ("NO_SIGN_REQUEST", "YES")):
            monkeypatch.setenv(f"AWS_{name}", value)
        yield address
        process.terminate()


def _fingerprint_of_its_own(scene: str) -> str:
    """As another process takes it: GDAL remembers what servers said."""
    program = (
        "import sys\nfrom cwsam_cli.errors import CwsamError\nfrom cwsam_cli.raster import sources as scenes\n"
        "scenes.time.sleep = lambda seconds: None\n"
        "try:\n    print(scenes.fingerprint(sys.argv[1]).contents)\n"
        "except CwsamError as error:\n    print(error.exit_code, error)"
    )
    done = subprocess.run([sys.executable, "-c", program, scene], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_an_object_that_was_replaced_is_another_scene(store: str, tmp_path: Path, kind: str) -> None:
    scene = f"http://{store}/bucket/scene.tif" if kind == "http" else "/vsis3/bucket/scene.tif"
    first = _fingerprint_of_its_own(scene)
    assert _fingerprint_of_its_own(scene) == first
    (tmp_path / "etag").write_text("two")
    assert _fingerprint_of_its_own(scene) != first


def test_a_server_that_refuses_to_answer_head_is_asked_for_a_byte(store: str, tmp_path: Path) -> None:
    url = f"http://{store}/bucket/scene.tif"
    told = room._told_by_server(url)
    (tmp_path / "no_head").touch()
    assert room._told_by_server(url) == told
    assert "one" in told


def test_a_server_that_does_not_answer_makes_no_other_fingerprint(store: str, tmp_path: Path) -> None:
    (tmp_path / "down").touch()
    with pytest.raises(MachineError, match=r"does not say whether `http://.*/bucket/scene.tif` has changed") as caught:
        room._told_by_server(f"http://{store}/bucket/scene.tif?token=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(MachineError, match=r"`/vsis3/bucket/scene\.tif` has changed"):
        room._told_by_store("/vsis3/bucket/scene.tif")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("/vsicurl/https://example.org/a.tif", "https://example.org/a.tif"),
        ("https://example.org/a.gz/b.tif", "https://example.org/a.gz/b.tif"),
        ("/vsizip//vsicurl/https://example.org/a.zip/b/c.tif", "https://example.org/a.zip"),
        ("zip+https://example.org/a.zip!c.tif", "https://example.org/a.zip"),
    ],
)
def test_a_file_in_an_archive_on_a_server_is_known_by_the_archive(name: str, url: str) -> None:
    assert room._address(name) == url
