"""GDAL reads with settings that keep blocks and give up silent servers."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from typer.testing import CliRunner

from cwsam_cli.main import app
from cwsam_cli.raster.sources.network import PATIENCE, gdal_settings, url_of


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
from cwsam_cli.raster.sources import network
from cwsam_cli.raster.scene import open_raster, reading
from cwsam_cli.raster.sources.network import gdal_settings
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


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("/vsicurl/https://example.org/a.tif", "https://example.org/a.tif"),
        ("/vsicurl?pc_url_signing=yes&url=https%3A%2F%2Fexample.org%2Fa.tif", "https://example.org/a.tif"),
        ("https://example.org/a.gz/b.tif", "https://example.org/a.gz/b.tif"),
        ("/vsizip//vsicurl/https://example.org/a.zip/b/c.tif", "https://example.org/a.zip"),
        ("zip+https://example.org/a.zip!c.tif", "https://example.org/a.zip"),
    ],
)
def test_a_file_in_an_archive_on_a_server_is_known_by_the_archive(name: str, url: str) -> None:
    assert url_of(name) == url
