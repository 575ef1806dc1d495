"""What GDAL calls an unreadable block is often a server, and is named so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from cwsam_cli.errors import DataError, MachineError
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.raster.sources.network import gdal_settings
from cwsam_cli.raster.sources.views import View

KINDS = ("url", "store", "view")


@pytest.fixture
def names(object_store: str, make_raster: Any, request: pytest.FixtureRequest) -> dict[str, str]:
    noise = np.random.default_rng(0).integers(1, 255, (3, 600, 600)).astype(np.uint8)
    name = request.node.name.replace("[", "").replace("]", "")  # GDAL remembers files of a server
    make_raster(f"bucket/{name}.tif", noise, tiled=True, blockxsize=64, blockysize=64)
    url = f"http://{object_store}/bucket/{name}.tif?sig=SECRET"
    view = View(name="x", members=(("a", url),)).to_text()
    return {"url": url, "store": f"/vsis3/bucket/{name}.tif", "view": view}


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_expires_while_pixels_are_read_is_named(names: Any, tmp_path: Path, kind: str) -> None:
    with rasterio.Env(**gdal_settings(names[kind])), open_scene(names[kind]) as scene:
        (tmp_path / "refuse").write_text("999")
        with pytest.raises(MachineError, match=r"the (server|object store) (refuses to|does not) send `.*`") as caught:
            scene.read(scene.whole)
    assert "expired" in caught.value.hint and "SECRET" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_stays_busy_is_named(names: Any, tmp_path: Path, kind: str) -> None:
    with rasterio.Env(**gdal_settings(names[kind])), open_scene(names[kind]) as scene:
        (tmp_path / "busy").write_text("999")
        with pytest.raises(MachineError, match=r"the (server|object store) does not send `.*`") as caught:
            scene.read(scene.whole)
    assert "call again" in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_a_server_that_is_busy_for_a_moment_are_read(names: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "busy").write_text("2")
    with rasterio.Env(**gdal_settings(names[kind])), open_scene(names[kind]) as scene:
        (tmp_path / "busy").write_text("2")
        assert scene.read(scene.whole)[0].all()


def test_an_object_that_is_missing_is_no_fault_of_the_network(names: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none"), open_scene("/vsis3/bucket/none.tif"):
        pass
