"""Several files become one scene, on one grid, and the text that names it says all about it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from cwsam_cli.errors import CwsamError, DataError, UsageError
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.raster.sources.fingerprint import fingerprint
from cwsam_cli.raster.sources.network import is_remote
from cwsam_cli.raster.sources.views import View, make_views

MakeRaster = Callable[..., Path]

WEST, NORTH = 600_000, 4_000_000


def values(height: int, width: int, seed: int = 0, bands: int = 1, dtype: str = "uint16") -> Any:
    return np.random.default_rng(seed).integers(1, 5000, (bands, height, width)).astype(dtype)


def read(text: str, **options: Any) -> tuple[Any, Any, tuple[str, ...]]:
    with open_scene(text, **options) as scene:
        image, valid = scene.read(scene.whole)
        return image, valid, scene.band_names


def test_a_view_survives_its_text() -> None:
    view = View(
        name="地块 1.tif",
        members=(("B02", "/data/a&b=c.tif"), ("VV", "https://x.org/d.tif?key=1")),
        crs="EPSG:32632",
        pixel_m=10.0,
        unscale=True,
    )
    assert View.from_text(view.to_text()) == view
    assert is_remote(view.to_text())
    assert not is_remote(View(name="a.tif", members=(("", "/data/a.tif"),)).to_text())


def test_files_are_grouped_by_name_and_their_bands_count_as_people_do() -> None:
    files = [f"/d/{place}_{band}_20m.jp2" for place in ("T32_0601", "T33_0601") for band in ("B11", "B2", "B8A")]
    views = [View.from_text(text) for text in make_views(files, stack="{scene}_{band}_*.jp2")]
    assert [view.name for view in views] == ["T32_0601.jp2", "T33_0601.jp2"]
    assert [band for band, _ in views[0].members] == ["B2", "B8A", "B11"]
    assert views[1].members[2] == ("B11", "/d/T33_0601_B11_20m.jp2")
    assert make_views(files) == files


@pytest.mark.parametrize(
    ("files", "stack", "error", "named"),
    [
        (["a_B1.tif"], "{scene}.tif", UsageError, "once each"),
        (["a_B1.tif", "notes.tif"], "{scene}_{band}.tif", DataError, "notes.tif"),
        (["a_B1_x.tif", "a_B1_y.tif"], "{scene}_{band}_*.tif", UsageError, "same band"),
        (["a_B1.tif", "a_B2.tif", "b_B1.tif"], "{scene}_{band}.tif", DataError, "stack `b.tif`"),
    ],
)
def test_what_is_no_stack_is_refused(files: list[str], stack: str, error: type[CwsamError], named: str) -> None:
    with pytest.raises(error, match=named):
        make_views(files, stack=stack)


def test_files_on_one_grid_are_stacked_bit_for_bit(make_raster: MakeRaster) -> None:
    one, two = values(40, 50), values(40, 50, 1, bands=2)
    files = [make_raster("s_B2.tif", one), make_raster("s_B10.tif", two)]
    (text,) = make_views([str(path) for path in files], stack="{scene}_{band}.tif")
    image, valid, names = read(text)
    assert (image == np.concatenate([one, two])).all() and valid.all()
    assert names == ("B2", "B10_band_1", "B10_band_2")
    image, _, names = read(text, chosen_bands=("B10_band_2", "B2"))
    assert (image == np.stack([two[1], one[0]])).all()


def test_coarse_files_and_other_crs_are_brought_to_the_finest_grid(make_raster: MakeRaster) -> None:
    fine, coarse = values(60, 60), values(20, 20, 1, dtype="float32")
    a = make_raster("s_a.tif", fine, transform=from_origin(WEST, NORTH, 10, 10))
    b = make_raster("s_b.tif", coarse, transform=from_origin(WEST + 100, NORTH, 20, 20))
    with rasterio.open(b) as source, WarpedVRT(source, crs="EPSG:32618", resampling=Resampling.nearest) as other:
        moved = make_raster("s_c.tif", other.read(), crs="EPSG:32618", transform=other.transform, nodata=0)
    (text,) = make_views([str(a), str(b), str(moved)], stack="{scene}_{band}.tif")
    with open_scene(text) as scene:
        transform = scene.grid.transform
        assert (transform.a, transform.c) == (10, WEST + 100)
        assert scene.grid.crs.to_epsg() == 32617
        image, _ = scene.read(scene.whole)
        shape = scene.grid.height, scene.grid.width
    assert (image[0] == fine[0, : shape[0], 10 : 10 + shape[1]]).all()
    with rasterio.open(b) as source:
        grid = {"crs": source.crs, "transform": transform, "height": shape[0], "width": shape[1]}
        with WarpedVRT(source, resampling=Resampling.bilinear, **grid) as bilinear:
            assert np.allclose(image[1], bilinear.read(1))
    inner = image[2, 5:-5, 5:-5]
    assert np.abs(inner / image[1, 5:-5, 5:-5] - 1).mean() < 0.35, "the same ground, resampled twice"


def test_windows_of_a_stack_are_parts_of_the_whole(make_raster: MakeRaster) -> None:
    make_raster("s_a.tif", values(300, 300), transform=from_origin(WEST, NORTH, 10, 10))
    make_raster("s_b.tif", values(150, 150, 1), transform=from_origin(WEST, NORTH, 20, 20))
    folder = make_raster("x.tif", values(1, 1)).parent
    (text,) = make_views([str(folder / "s_a.tif"), str(folder / "s_b.tif")], stack="{scene}_{band}.tif")
    with open_scene(text) as scene:
        whole, _ = scene.read(scene.whole)
        for window in (rasterio.windows.Window(101, 37, 64, 64), rasterio.windows.Window(236, 236, 64, 64)):
            part, _ = scene.read(window)
            rows, cols = window.toslices()
            assert (part == whole[:, rows, cols]).all()


def test_a_scene_is_brought_to_another_pixel_size_and_crs(make_raster: MakeRaster) -> None:
    image = values(40, 60, dtype="float32")
    path = str(make_raster("a.tif", image, transform=from_origin(WEST, NORTH, 10, 10)))
    (text,) = make_views([path], pixel_m=20)
    halved, _, _ = read(text)
    assert np.allclose(halved[0], image[0].reshape(20, 2, 30, 2).mean(axis=(1, 3)), rtol=1e-5)
    (text,) = make_views([path], crs="EPSG:3857")
    with open_scene(text) as scene:
        assert scene.grid.crs.to_epsg() == 3857
    (text,) = make_views([path], crs="EPSG:4326", pixel_m=20)
    with pytest.raises(DataError, match="degrees"):
        read(text)
    (text,) = make_views([path], crs="somewhere")
    with pytest.raises(DataError, match="--crs `somewhere`"):
        read(text)


def test_scale_and_offset_are_applied_on_request_and_nodata_stays(make_raster: MakeRaster) -> None:
    image = values(20, 20)
    image[0, 3, 4] = 0
    path = make_raster("a.tif", image, nodata=0)
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = (0.0001,), (-0.1,)
    (text,) = make_views([str(path)], unscale=True)
    found, valid, _ = read(text)
    assert found.dtype == np.float32
    assert (~valid).sum() == 1 and not valid[3, 4]
    assert np.allclose(found[0][valid], (image[0] * 0.0001 - 0.1)[valid], atol=1e-6)


@pytest.mark.parametrize("pixel_m", [0.0, 10.0])
@pytest.mark.parametrize("how", ["value", "mask", "alpha"])
def test_views_hide_the_pixels_that_their_files_hide(make_raster: MakeRaster, how: str, pixel_m: float) -> None:
    image, hidden = values(30, 30, bands=3, dtype="uint8"), np.zeros((30, 30), bool)
    hidden[4:10, 8:20] = True
    if how == "value":
        path = make_raster("a.tif", np.where(hidden, 0, image.clip(1)).astype(np.uint8), nodata=0)
    elif how == "mask":
        path = make_raster("a.tif", image, mask=(~hidden * 255).astype(np.uint8))
    else:
        bands = np.concatenate([image, (~hidden * 255).astype(np.uint8)[None]])
        path = make_raster("a.tif", bands, photometric="RGB", alpha="YES")
    (text,) = make_views([str(path)], pixel_m=pixel_m, unscale=not pixel_m)
    found, valid, _ = read(text)
    step = 3 if pixel_m else 1
    assert len(found) == 3
    assert valid.shape == (30 * step, 30 * step)
    inner = (slice(5 * step, 9 * step), slice(10 * step, 18 * step))
    assert not valid[inner].any() and valid[12 * step :].all()


def test_a_view_is_another_one_when_a_file_of_it_changes(make_raster: MakeRaster) -> None:
    a = make_raster("s_a.tif", values(30, 30))
    b = make_raster("s_b.tif", values(10, 10, 1), transform=from_origin(WEST, NORTH, 90, 90))
    (text,) = make_views([str(a), str(b)], stack="{scene}_{band}.tif")

    def known_by() -> str:
        with open_scene(text) as scene:
            return fingerprint(text, scene.dataset)

    before = known_by()
    assert known_by() == before
    make_raster("s_b.tif", values(10, 10, 2), transform=from_origin(WEST, NORTH, 90, 90))
    assert known_by() != before


def test_ground_beside_a_scene_in_another_crs_has_no_data(make_raster: MakeRaster) -> None:
    scene = make_raster("scene.tif", values(100, 100, bands=2))
    (view,) = make_views([str(scene)], crs="EPSG:32618")
    image, valid, names = read(view)
    assert names == ("band_1", "band_2")
    assert 0.02 < (~valid).mean() < 0.3, "the corners"
    assert (image[:, valid] > 0).all()


def test_a_view_names_its_file_from_any_folder(make_raster: MakeRaster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_raster("scene.tif", values(40, 40)).parent)
    (view,) = make_views(["scene.tif"], crs="EPSG:32618")
    monkeypatch.chdir("/")
    assert read(view)[0].any()


def test_a_stack_can_lie_in_several_folders() -> None:
    folders = [f"/d/R{band}/T32_{band}.jp2" for band in ("10m", "20m")]
    (view,) = make_views(folders, stack="{scene}_{band}.jp2")
    assert [path for _, path in View.from_text(view).members] == folders
    dates = [f"/d/{date}/T32_{band}.jp2" for date in ("june", "july") for band in ("B2", "B3")]
    assert len(make_views(dates, stack="{scene}_{band}.jp2")) == 2


@pytest.mark.parametrize("first", ["alpha", "mask", "value", "nothing"])
@pytest.mark.parametrize("second", ["alpha", "mask", "value", "turned"])
def test_every_file_of_a_stack_hides_its_pixels(make_raster: MakeRaster, first: str, second: str) -> None:
    rng, valid = np.random.default_rng(0), np.ones((2, 40, 50), bool)
    valid[0, :7], valid[1, :, 40:] = False, False
    paths = []
    for name, how, shown in zip("AB", (first, second), valid, strict=True):
        pixels = rng.integers(1, 255, (3, 40, 50)).astype(np.uint8)
        if how == "alpha":
            alpha = np.concatenate([pixels, shown[None] * np.uint8(255)])
            paths.append(make_raster(f"s_{name}.tif", alpha, photometric="RGB", alpha="YES"))
        elif how == "mask":
            paths.append(make_raster(f"s_{name}.tif", pixels, mask=shown * np.uint8(255)))
        elif how == "value":
            paths.append(make_raster(f"s_{name}.tif", np.where(shown, pixels, 0), nodata=0))
        elif how == "turned":
            turned = Affine(30, 0, 600_000, 0, -30, 4_000_000) @ Affine.rotation(8)
            paths.append(make_raster(f"s_{name}.tif", pixels, transform=turned))
        else:
            paths.append(make_raster(f"s_{name}.tif", pixels))
    (view,) = make_views(list(map(str, paths)), stack="{scene}_{band}.tif")
    with open_scene(view) as scene:
        assert len(scene.band_names) == 6
        assert scene.hides_pixels
        found = scene.read(scene.whole)[1]
    if first == "nothing":
        valid[0] = True
    if first == second == "value":  # 0 in some bands of bytes is brightness, see `raster.pixels`
        valid[:] = valid.any(axis=0)
    if second == "turned":
        height, width = found.shape
        assert 0 < found.mean() < 1 and (first == "nothing" or (valid[0][:height, :width] >= found).mean() > 0.95)
    else:
        assert (found == valid.all(axis=0)).all()
