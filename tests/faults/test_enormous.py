"""Sparse and enormous rasters, and one of Mars: each command answers soon, or refuses before the work."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from tests.faults.forks import kill_after, run_in_fork

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]

HANGS_S = 240.0
"""Commands take a few seconds; only one that hangs is killed."""
SIDE, BLOCK = 8448, 256
ENORMOUS = 2_000_000_000
MODEL = "save/model_epoch_best.pth"


@pytest.fixture
def answer(inputs: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run a command, which may not hang nor end with a traceback nor leave anything if it fails."""

    def run(*words: Any) -> tuple[int, str]:
        before = set(tmp_path.rglob("*"))
        code, text = run_in_fork(tmp_path, words, kill_after(HANGS_S))
        assert code >= 0 and "Traceback" not in text, (code, text)
        if code:
            assert "error: " in text and "hint: " in text and set(tmp_path.rglob("*")) == before, text
        return code, text

    return run


def sparse(path: Path, bands: int, crs: str = "EPSG:32617", side: int = SIDE, **profile: Any) -> Path:
    """A GeoTIFF with values in its first block only."""
    shape: dict[str, Any] = {"width": side, "height": side, "count": bands, "dtype": "uint8"}
    blocks: dict[str, Any] = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "sparse_ok": True}
    place: dict[str, Any] = {"crs": crs, "transform": from_origin(500_000, 4_000_000, 30, 30)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **blocks, **place, **profile) as target:
        codes = (np.arange(BLOCK) // 64 + 1).astype(np.uint8)
        target.write(np.broadcast_to(codes, (bands, BLOCK, BLOCK)), window=Window(0, 0, BLOCK, BLOCK))
    return path


def test_a_sparse_raster_is_read_by_its_blocks(inputs: Path, answer: Any, tmp_path: Path) -> None:
    scene, drawn = sparse(tmp_path / "scene.tif", 3, nodata=0), sparse(tmp_path / "map.tif", 1, nodata=0)
    assert answer("vectorize", drawn, "out.gpkg")[0] == 0
    frame = pyogrio.read_dataframe(tmp_path / "out.gpkg", read_geometry=False)
    assert dict(zip(frame["code"], frame["pixels"], strict=True)) == dict.fromkeys((1, 2, 3, 4), 64 * BLOCK)
    assert answer("sample", drawn, "-n", 40, "-o", "sample.gpkg")[0] == 0
    size = ("--size", 64, "--limit", 8, "--buffer", 0)
    assert answer("tile", scene, "--labels", drawn, "-o", "data", *size)[0] == 0
    assert len(pyogrio.read_dataframe(tmp_path / "data/tiles.gpkg")) <= 8
    code, text = answer("predict", scene, "-c", inputs / MODEL, "-o", "map2.tif", "--dry-run")
    assert code == 0 and "8448" in text.replace(",", ""), text


def test_a_raster_that_no_machine_processes_is_refused(inputs: Path, answer: Any, tmp_path: Path) -> None:
    sparse(tmp_path / "small.tif", 3)
    for name, bands in (("scene.vrt", 3), ("map.vrt", 1)):
        names = "<CategoryNames><Category/><Category>a</Category></CategoryNames>" if bands == 1 else ""
        band = "".join(
            f'<VRTRasterBand dataType="Byte" band="{number}">{names}<SimpleSource><SourceFilename '
            f'relativeToVRT="1">small.tif</SourceFilename><SourceBand>{number}</SourceBand><DstRect '
            f'xOff="0" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/></SimpleSource></VRTRasterBand>'
            for number in range(1, bands + 1)
        )
        (tmp_path / name).write_text(
            f'<VRTDataset rasterXSize="{ENORMOUS}" rasterYSize="{ENORMOUS}"><SRS>EPSG:32617</SRS><GeoTransform>'
            f"500000, 0.001, 0, 4000000, 0, -0.001</GeoTransform>{band}</VRTDataset>"
        )
    for words in (
        ("predict", "scene.vrt", "-c", inputs / MODEL, "-o", "map.tif"),
        ("predict", "scene.vrt", "-c", inputs / MODEL, "-o", "map.tif", "--dry-run"),
        ("tile", "scene.vrt", "--labels", "map.vrt", "-o", "data", "--limit", 8),
        ("vectorize", "map.vrt", "out.gpkg"),
        ("sample", "map.vrt", "-n", 40, "-o", "out.gpkg"),
        ("eval", "--map", "map.vrt", "--reference", "map.vrt"),
        ("view", "map.vrt", "--export", "page"),
        ("mosaic", "map.vrt", "-o", "out.tif"),
    ):
        code, text = answer(*words)
        assert code == 4 and "pixels to process, more than 1e+13" in text, (words, text)
        assert f"export CWSAM_MAX_PIXELS={ENORMOUS**2}" in text
    assert answer("doctor", "scene.vrt")[0] == 0


def test_a_map_of_mars_keeps_its_crs_and_is_not_brought_to_the_earth(inputs: Path, answer: Any, tmp_path: Path) -> None:
    scene, drawn = (sparse(tmp_path / f"mars{bands}.tif", bands, "ESRI:103885", 512, nodata=0) for bands in (3, 1))
    assert answer("predict", scene, "-c", inputs / MODEL, "-o", "map.tif")[0] == 0
    with rasterio.open(tmp_path / "map.tif") as made, rasterio.open(scene) as given:
        assert made.crs == given.crs and made.transform == given.transform and made.shape == given.shape
    assert answer("vectorize", drawn, "out.gpkg")[0] == 0
    assert (
        "Mars" in pyogrio.read_info(tmp_path / "out.gpkg")["crs"]
        or "103885" in pyogrio.read_info(tmp_path / "out.gpkg")["crs"]
    )
    assert answer("sample", drawn, "-n", 40, "-o", "sample.gpkg")[0] == 0
    assert "lon" not in (tmp_path / "sample.csv").read_text("utf-8").splitlines()[0].split(",")
    assert answer("tile", scene, "--labels", drawn, "-o", "data", "--size", 32, "--buffer", 0)[0] == 0
    assert answer("doctor", scene)[0] == 0
    assert answer("vectorize", drawn, "out.geojson")[0] == 4
    assert answer("tile", scene, "--labels", inputs / "labels.tif", "-o", "other", "--size", 32)[0] == 4


def _no_room_for_the_pixels() -> None:
    """Allow less memory than the pixels of the world have, beside what the libraries have."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * resource.getpagesize() + 500 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def test_648_million_pixels_take_no_such_memory(awkward: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    world = awkward / "world_36000x18000.tif"
    code, text = run_in_fork(tmp_path, ("vectorize", "--json", world, "out.gpkg"), _no_room_for_the_pixels)
    assert code == 0, text
    assert json.loads(text[text.index("{") :].splitlines()[0]) and (tmp_path / "out.gpkg").is_file()
