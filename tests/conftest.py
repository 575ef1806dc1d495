"""Rasters are made, not shipped: every test says what its scene looks like."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SHARED = Path(__file__).parents[2] / "shared" / "data"

MakeRaster = Callable[..., Path]


@pytest.fixture
def make_raster(tmp_path: Path) -> MakeRaster:
    """Write an array (C, H, W) or (H, W) as a GeoTIFF; keywords go to rasterio.open."""
    import rasterio  # tests of one GPU run without it
    from rasterio.transform import from_origin

    def make(name: str, values: NDArray[Any], *, mask: NDArray[Any] | None = None, **profile: Any) -> Path:
        bands = values if values.ndim == 3 else values[None]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        defaults = {"crs": "EPSG:32617", "transform": from_origin(600_000, 4_000_000, 30, 30)}
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                width=bands.shape[2],
                height=bands.shape[1],
                count=len(bands),
                dtype=bands.dtype,
                **defaults | profile,
            ) as target,
        ):
            target.write(bands)
            if mask is not None:
                target.write_mask(mask)
        return path

    return make


@pytest.fixture
def object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the test's folder as an object store; see `tests/object_store.py`. Yields host and port.

    In a process of its own: GDAL holds Python's lock while it waits for an answer.
    """
    from cwsam_cli.raster.sources import http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    program = Path(__file__).with_name("object_store.py")
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}  # GDAL resets connections
    with subprocess.Popen([sys.executable, program], cwd=tmp_path, text=True, **pipes) as process:
        assert process.stdout is not None
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        monkeypatch.setenv("AWS_S3_ENDPOINT", address)
        for name, value in (("HTTPS", "NO"), ("VIRTUAL_HOSTING", "FALSE"), ("NO_SIGN_REQUEST", "YES")):
            monkeypatch.setenv(f"AWS_{name}", value)
        yield address
        process.terminate()


@pytest.fixture(scope="session")
def accelerated() -> Iterator[Callable[..., Any]]:
    """Call a function of a test module in a process that has the pretended accelerator; returns its result."""
    from tests.pretended_accelerator import call

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(call, function, arguments).result()


@pytest.fixture(scope="session")
def landcover() -> Path:
    """Real imagery with labels, where the development data lies beside the checkout."""
    folder = SHARED / "landcover"
    if not folder.is_dir():
        pytest.skip("the development data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def awkward() -> Path:
    """Rasters with something odd about each, where the development data lies beside the checkout."""
    folder = SHARED / "awkward_rasters"
    if not folder.is_dir():
        pytest.skip("the development data is not beside this checkout")
    return folder


def stripes(height: int, width: int, classes: int = 3, bands: int = 3, seed: int = 0) -> tuple[Any, Any]:
    """An image (bands, H, W) uint8 and its codes 1..classes (H, W): vertical stripes a model can learn."""
    rng = np.random.default_rng(seed)
    codes = (np.arange(width)[None, :] // 8 % classes + 1).repeat(height, axis=0).astype(np.uint8)
    colors = np.linspace(40, 200, classes * bands).reshape(classes, bands).round()
    image = colors[codes - 1].transpose(2, 0, 1) + rng.normal(0, 6, (bands, height, width))
    return image.clip(1, 254).astype(np.uint8), codes
