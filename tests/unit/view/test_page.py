"""The page in a real browser: what it draws, counts and says, and that nothing leaves the machine."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import box

from cwsam_cli.raster.style import tag_classes
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from cwsam_cli.view.pipeline import export, make_page
from cwsam_cli.view.request import ViewRequest
from cwsam_cli.view.server import PageServer
from tests.browser import needs_chromium
from tests.chromium import Tab, open_tab

pytestmark = [needs_chromium, pytest.mark.slow]

MakeRaster = Callable[..., Path]

WATER, FOREST, TOWN = (0, 90, 220), (0, 110, 40), (210, 60, 60)
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=1, name="水体", color="#005adc"),
        LandCoverClass(code=2, name="<b>forest</b> & wood", color="#006e28"),
        LandCoverClass(code=4, name="town", color="#d23c3c"),
    )
)
LEFT, TOP, GSD = 600_000, 4_000_000, 30
CODES = np.full((40, 60), 2, np.uint8)
CODES[:20, :30] = 1
CODES[:, 55:] = 255


@pytest.fixture
def files(tmp_path: Path, make_raster: MakeRaster) -> dict[str, Path]:
    """A scene, a map with confidence, a reference, and polygons of one ground."""
    reference = np.where(CODES == 2, 4, CODES).astype(np.uint8)
    paths = {
        "scene": make_raster("scene.tif", np.stack([np.tile(np.arange(60) * 3 + 20, (40, 1))] * 3).astype(np.uint8)),
        "map": make_raster("map.tif", CODES, nodata=255),
        "confidence": make_raster("map.confidence.tif", np.where(CODES == 1, 87, 64).astype(np.uint8), nodata=255),
        "reference": make_raster("reference.tif", reference, nodata=255),
        "polygons": tmp_path / "polygons.gpkg",
    }
    for name in ("map", "reference"):
        with rasterio.open(paths[name], "r+") as dataset:
            tag_classes(dataset, TAXONOMY)
    lake = box(LEFT + 150, TOP - 450, LEFT + 450, TOP - 150)
    columns = {"code": [1], "name": ["水体"], "area_ha": [9.0]}
    geopandas.GeoDataFrame(columns, geometry=[lake], crs=32617).to_file(paths["polygons"])
    return paths


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    # A proxy that does not exist: a request to any other server would fail, and be an error on the console.
    proxy = ("--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1")
    with open_tab(tmp_path_factory.mktemp("profile"), *proxy) as tab:
        yield tab


@pytest.fixture
def show(browser: Tab, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Open files in the page. A script error, or a request to another server, fails the test at its end."""
    browser.errors.clear()
    browser.requested.clear()
    servers = []

    def open_page(*paths: Path, compare: bool = False, **size: int) -> Tab:
        folder = tmp_path / f"page{len(servers)}"
        folder.mkdir()
        server = PageServer(make_page(ViewRequest(paths=tuple(map(str, paths)), compare=compare), folder).files)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        browser.open(server.address, **size)
        return browser

    yield open_page
    for server in servers:
        server.shutdown()
        server.server_close()
    assert browser.errors == []
    own = tuple(server.address for server in servers)
    assert [url for url in browser.requested if not url.startswith((*own, "blob:", "data:"))] == []


def place(tab: Tab, column: float, row: float) -> tuple[float, float]:
    """Where a pixel of the rasters is in the window."""
    x, y = LEFT + GSD * column, TOP - GSD * row
    left, top = tab.run(
        f"(() => {{ const [x, y] = viewer.map.getPixelFromCoordinate([{x}, {y}]);"
        "const box = viewer.map.getTargetElement().getBoundingClientRect(); return [x + box.left, y + box.top]; })()"
    )
    return left, top


def color_at(tab: Tab, column: float, row: float) -> tuple[int, ...]:
    x, y = place(tab, column, row)
    return tuple(int(part) for part in tab.picture()[round(y), round(x)])


def text(tab: Tab, selector: str) -> str:
    return str(tab.run(f"document.querySelector({selector!r}).innerText"))


def press(tab: Tab, selector: str) -> None:
    tab.run(f"document.querySelector({selector!r}).click()")
    tab.settle()


def close(one: Any, other: Any) -> bool:
    return bool(np.abs(np.subtract(one, other)).max() <= 3)


def test_pixels_of_a_class_have_its_colour_until_the_legend_hides_it(
    files: dict[str, Path], show: Callable[..., Tab]
) -> None:
    tab = show(files["scene"], files["map"])
    assert close(color_at(tab, 10.5, 10.5), WATER) and close(color_at(tab, 40.5, 30.5), FOREST)
    nodata = color_at(tab, 57.5, 30.5)
    assert nodata[0] == nodata[1] == nodata[2] > 200, "the scene is seen where the map has no data"
    press(tab, "[data-code='1'] input")
    assert not close(color_at(tab, 10.5, 10.5), WATER) and close(color_at(tab, 40.5, 30.5), FOREST)
    press(tab, "[data-code='1'] input")
    assert close(color_at(tab, 10.5, 10.5), WATER)
    press(tab, "[data-layer='2']")
    assert not close(color_at(tab, 40.5, 30.5), FOREST), "the layer is off"


@pytest.mark.parametrize("bands", [1, 3])
def test_where_an_image_has_no_data_the_ground_of_the_page_is_seen(
    make_raster: MakeRaster, show: Callable[..., Tab], bands: int
) -> None:
    values = np.tile(np.linspace(10, 20, 60, dtype=np.float32), (bands, 40, 1))
    values[:, :, :20] = -9999
    tab = show(make_raster("scene.tif", values, nodata=-9999))
    assert color_at(tab, 10.5, 20.5) == (238, 240, 242)
    assert all(115 < part < 140 for part in color_at(tab, 40, 20.5)), "the middle of the values is grey"


def test_the_border_between_classes_is_where_the_raster_has_it(
    files: dict[str, Path], show: Callable[..., Tab]
) -> None:
    tab = show(files["map"])
    assert close(color_at(tab, 29.8, 10), WATER) and close(color_at(tab, 30.2, 10), FOREST)
    assert close(color_at(tab, 10, 19.8), WATER) and close(color_at(tab, 10, 20.2), FOREST)


def test_a_swipe_shows_the_map_on_one_side_and_the_reference_on_the_other(
    files: dict[str, Path], show: Callable[..., Tab]
) -> None:
    tab = show(files["scene"], files["map"], files["reference"])
    tab.press("s")
    tab.settle()
    assert close(color_at(tab, 20.5, 30.5), FOREST) and close(color_at(tab, 50.5, 30.5), TOWN)
    tab.run("viewer.swipe.moveTo(100)")
    tab.settle()
    assert close(color_at(tab, 50.5, 30.5), FOREST)
    tab.press("s")
    tab.settle()
    assert close(color_at(tab, 20.5, 30.5), TOWN), "without a swipe the reference lies over the map"


def test_compared_maps_have_one_legend_with_both_areas_and_the_share_that_differs(
    files: dict[str, Path], show: Callable[..., Tab]
) -> None:
    tab = show(files["scene"], files["map"], files["reference"], compare=True)
    assert close(color_at(tab, 20.5, 30.5), FOREST) and close(color_at(tab, 50.5, 30.5), TOWN)
    assert tab.run("document.querySelectorAll('.legend').length") == 1
    assert [text(tab, f"[data-code='{code}'] .amount") for code in (1, 2, 4)] == ["54 ha", "1.44 km²", ""]
    assert [text(tab, f"[data-code='{code}'] .share") for code in (1, 2, 4)] == ["54 ha", "", "1.44 km²"]
    assert text(tab, ".legend .note") == "In view, map.tif and reference.tif. They differ in 72.7 % of the pixels"
    press(tab, "[data-code='2'] input")
    assert not close(color_at(tab, 20.5, 30.5), FOREST) and close(color_at(tab, 50.5, 30.5), TOWN)
    press(tab, "[data-code='4'] input")
    assert not close(color_at(tab, 50.5, 30.5), TOWN)
    tab.press("s")
    tab.settle()
    assert text(tab, "[data-code='4'] .share") == "72.7 %" and text(tab, ".legend .note") == "In view, reference.tif"


def test_maps_on_different_grids_are_compared_without_a_share(
    files: dict[str, Path], make_raster: MakeRaster, show: Callable[..., Tab]
) -> None:
    other = make_raster("other.tif", CODES[1:], nodata=255)
    with rasterio.open(other, "r+") as dataset:
        tag_classes(dataset, TAXONOMY)
    tab = show(files["map"], other, compare=True)
    assert text(tab, ".legend .note") == "In view, map.tif and other.tif"


def test_the_legend_has_names_as_they_are_and_the_areas_in_view(
    files: dict[str, Path], show: Callable[..., Tab]
) -> None:
    tab = show(files["map"])
    assert text(tab, "[data-code='2'] .name") == "<b>forest</b> & wood"
    assert text(tab, "[data-code='1'] .amount") == "54 ha"  # 600 pixels of 900 m²
    assert text(tab, "[data-code='2'] .amount") == "1.44 km²" and text(tab, "[data-code='2'] .share") == "72.7 %"
    assert text(tab, "[data-code='4'] .amount") == ""
    west, north = LEFT + 40 * GSD, TOP - 30 * GSD
    tab.run(f"viewer.map.getView().fit([{west}, {north - 300}, {west + 300}, {north}], {{size: [100, 100]}})")
    tab.run("viewer.map.setSize([100, 100])")
    tab.settle()
    assert text(tab, "[data-code='2'] .amount") == "9 ha" and text(tab, "[data-code='1'] .amount") == ""


def test_class_confidence_and_coordinates_follow_the_cursor(files: dict[str, Path], show: Callable[..., Tab]) -> None:
    tab = show(files["map"])
    tab.move(*place(tab, 10.5, 10.5))
    tab.wait("document.querySelector('#values').innerText.includes('水体')")
    assert "confidence 87 %" in text(tab, "#values")
    x, y = LEFT + 10.5 * GSD, TOP - 10.5 * GSD
    lon, lat = Transformer.from_crs(32617, 4326, always_xy=True).transform(x, y)
    own, degrees = text(tab, "#place").split("·")
    assert [float(part) for part in own.split(",")] == pytest.approx([x, y], abs=2)
    assert float(degrees.split("°")[0]) == pytest.approx(lat, abs=2e-5)
    assert float(degrees.split(",")[1].split("°")[0]) == pytest.approx(-lon, abs=2e-5)


def test_values_that_were_stretched_have_the_digits_of_their_steps_and_marked_ends(
    make_raster: MakeRaster, show: Callable[..., Tab]
) -> None:
    heights = np.tile(np.linspace(2000, 2040, 60, dtype=np.float32), (40, 1))
    tab = show(make_raster("height.tif", heights))
    for column, expected in ((0.5, "≤ 2,0"), (30.5, "height 2,020."), (59.5, "≥ 2,03")):
        tab.move(*place(tab, column, 20.5))
        tab.wait(f"document.querySelector('#values').innerText.includes('{expected}')")


def test_a_map_without_a_pixel_is_shown(make_raster: MakeRaster, show: Callable[..., Tab]) -> None:
    tab = show(make_raster("map.tif", np.full_like(CODES, 255), nodata=255))
    assert tab.run("document.querySelectorAll('.classes li').length") == 0


def test_a_click_shows_the_attributes_of_a_polygon(files: dict[str, Path], show: Callable[..., Tab]) -> None:
    tab = show(files["map"], files["polygons"])
    tab.click(*place(tab, 10.2, 10.2))
    tab.wait("!document.querySelector('#feature').hidden")
    assert "area_ha" in text(tab, "#attributes") and "水体" in text(tab, "#attributes")
    tab.press("Escape")
    tab.wait("document.querySelector('#feature').hidden")


def test_coordinates_in_degrees_and_in_the_maps_crs_lead_to_the_same_place(
    files: dict[str, Path], show: Callable[..., Tab]
) -> None:
    tab = show(files["map"])
    x, y = LEFT + 20.5 * GSD, TOP - 10.5 * GSD
    lon, lat = Transformer.from_crs(32617, 4326, always_xy=True).transform(x, y)
    for typed in (f"{x}, {y}", f"{lat:.7f} N, {-lon:.7f} W", f"{lon:.7f} {lat:.7f}"):
        press(tab, "#fit")
        tab.run(
            f"(() => {{ const field = document.querySelector('#goto'); field.value = '{typed}';"
            "field.form.requestSubmit(); })()"
        )
        tab.run("new Promise((done) => setTimeout(done, 500))")
        assert tab.run("viewer.map.getView().getCenter()") == pytest.approx([x, y], abs=1), typed


def test_a_hidden_class_hides_its_polygons_and_polygons_alone_are_filled(
    files: dict[str, Path], show: Callable[..., Tab]
) -> None:
    tab = show(files["polygons"])
    inside = (10.2, 10.2)
    shown = color_at(tab, *inside)
    assert max(shown) - min(shown) > 50, "it is filled with a colour"
    press(tab, "[data-code='1'] input")
    assert not close(color_at(tab, *inside), shown)


@pytest.mark.parametrize("crs", ["EPSG:3358", "EPSG:4326", "EPSG:2264", None])
def test_maps_in_any_crs_are_shown_pixel_by_pixel(
    make_raster: MakeRaster, show: Callable[..., Tab], crs: str | None
) -> None:
    corner = {"EPSG:3358": (630_000, 228_500, 28.5), "EPSG:4326": (10.0, 60.0, 1e-3), "EPSG:2264": (2e6, 7e5, 100.0)}
    west, north, step = corner.get(crs or "", (0, 0, 1))
    path = make_raster("map.tif", CODES, nodata=255, crs=crs, transform=(step, 0, west, 0, -step, north))
    with rasterio.open(path, "r+") as dataset:
        tag_classes(dataset, TAXONOMY)
    tab = show(path)
    drawn = tab.picture()
    x, y = tab.run(f"viewer.map.getPixelFromCoordinate([{west + 29.7 * step}, {north - 10 * step}])")
    offset = tab.run("viewer.map.getTargetElement().getBoundingClientRect().left")
    assert close(drawn[round(y), round(x + offset)], WATER)
    x, y = tab.run(f"viewer.map.getPixelFromCoordinate([{west + 30.3 * step}, {north - 10 * step}])")
    assert close(drawn[round(y), round(x + offset)], FOREST)
    amounts = text(tab, "[data-code='1'] .amount")
    assert amounts == "600 px" if crs is None else amounts.endswith(("ha", "km²"))
    assert tab.run("document.querySelector('.ol-scale-line') !== null") == (crs is not None)


def test_a_narrow_screen_has_the_map_above_the_panel(files: dict[str, Path], show: Callable[..., Tab]) -> None:
    tab = show(files["map"], width=400, height=700)
    box = tab.run("(({top, width}) => [top, width])(document.querySelector('#map').getBoundingClientRect())")
    assert box == [0, 400]
    assert tab.run("document.documentElement.scrollWidth") == 400
    assert close(color_at(tab, 10.5, 10.5), WATER)


def test_keys_buttons_and_themes_make_no_script_error(files: dict[str, Path], show: Callable[..., Tab]) -> None:
    tab = show(files["scene"], files["map"], files["reference"], files["polygons"])
    light = tab.picture()[-2, 5].astype(int)
    tab.press("d")
    assert tab.picture()[-2, 5].astype(int).sum() < light.sum() - 300
    for key in ("1", "2", "3", "3", "+", "-", "f", "s", "s", "?", "Escape"):
        tab.press(key)
    tab.run("document.querySelectorAll('button, input').forEach((each) => each.click())")
    tab.settle()


def test_an_exported_folder_is_shown_by_a_server_with_range_requests(
    files: dict[str, Path], tmp_path: Path, show: Callable[..., Tab]
) -> None:
    tab = show(files["map"])
    folder = tmp_path / "exported"
    export(ViewRequest(paths=(str(files["scene"]), str(files["map"])), export=folder), folder)
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with PageServer(names) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        tab.open(f"{server.address}index.html")
        assert close(color_at(tab, 40.5, 30.5), FOREST)
        tab.requested.clear()
        server.shutdown()


def test_real_data_are_shown_in_their_own_crs(landcover: Path, show: Callable[..., Tab]) -> None:
    folder = landcover / "nc_landsat7_2002"
    tab = show(folder / "image.tif", folder / "label.tif")
    with rasterio.open(folder / "label.tif") as dataset:
        codes = dataset.read(1)
        palette = {code: color[:3] for code, color in dataset.colormap(1).items()}
        places = [(row, column) for row in range(20, 460, 40) for column in range(20, 500, 40)]
        uniform = [(r, c) for r, c in places if len(np.unique(codes[r - 2 : r + 3, c - 2 : c + 3])) == 1]
        xy = [dataset.xy(*each) for each in uniform]
    drawn: NDArray[np.uint8] = tab.picture()
    offset = tab.run("viewer.map.getTargetElement().getBoundingClientRect().left")
    right = 0
    for (row, column), (x, y) in zip(uniform, xy, strict=True):
        left, top = tab.run(f"viewer.map.getPixelFromCoordinate([{x}, {y}])")
        right += close(drawn[round(top), round(left + offset)], palette[int(codes[row, column])])
    assert len(uniform) > 40
    assert right >= len(uniform) - 4  # the buttons and the scale hide a few places
