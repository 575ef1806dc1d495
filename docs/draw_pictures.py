"""Draw pictures from the demo: the report of its map from a sample of 300 points, and the page of `cwsam view`.

    $ make pictures

Chromium must be installed. The points are "interpreted" from the demo's label raster.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from typer.testing import CliRunner

from cwsam_cli.demo.pipeline import find_example
from cwsam_cli.main import app
from cwsam_cli.survey.samplefile import read_sample, write_sample
from cwsam_cli.view.pipeline import make_page
from cwsam_cli.view.request import ViewRequest
from cwsam_cli.view.server import PageServer
from tests.chromium import open_tab

PICTURES = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 1100, 930
"""Size of the browser's window in pixels."""
VIEW_HEIGHT = 720
SHOWN = 880
"""Width of the picture in pixels."""
LARGEST_BYTES = 200_000


def main(demo: Path) -> None:
    """Draw the pictures.

    Args:
        demo: the folder that `cwsam demo` wrote.
    """
    map_path, pictures = (demo / "map.tif").resolve(), PICTURES.resolve()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):  # the report shows paths as they are given
        for file in (map_path, map_path.with_name("map.tif.aux.xml")):
            shutil.copy(file, name)
        assess()
        draw(Path("report/report.html"), pictures / "report.png")
        run("vectorize", "map.tif", "polygons.gpkg", "--min-area", "2ha")
        draw_view([str(find_example()[0]), "map.tif", "polygons.gpkg"], pictures / "view.png")


def assess() -> None:
    """Draw 300 points on `map.tif`, interpret them from the labels, and write `report/`."""
    run("sample", "map.tif", "-n", "300", "-o", "sample.gpkg")
    points = read_sample(Path("sample.gpkg"))
    assert points.design is not None
    with rasterio.open(find_example()[1]) as labels:
        places = zip(points.frame.geometry.x, points.frame.geometry.y, strict=True)
        seen = np.ma.stack(list(labels.sample(places, masked=True)))[:, 0]
    points.frame["reference"] = [None if value is np.ma.masked else int(value) for value in seen]
    write_sample(points.path, points.frame, points.design, overwrite=True)
    run("eval", "--sample", "sample.gpkg", "--map", "map.tif", "-o", "report")


def run(*arguments: str) -> None:
    """Run a command of cwsam."""
    result = CliRunner().invoke(app, ["-q", *arguments])
    if result.exit_code:
        sys.exit(result.output)


def draw(page: Path, picture: Path) -> None:
    """Write the top of a page as a PNG."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("Chromium is not installed")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={Path('profile').resolve()}", f"--window-size={WIDTH},{HEIGHT}"]
    command += ["--virtual-time-budget=5000", f"--screenshot={Path('shot.png').resolve()}", page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    save(Path("shot.png"), picture)


def draw_view(files: list[str], picture: Path) -> None:
    """Write a picture of the page of `cwsam view` with a swipe between the first two files."""
    page = make_page(ViewRequest(paths=tuple(files)), Path(tempfile.mkdtemp(dir=".")))
    with PageServer(page.files) as server, open_tab(Path("view-profile").resolve()) as tab:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.open(server.address, width=WIDTH, height=VIEW_HEIGHT)
        tab.press("s")
        tab.move(WIDTH * 0.8, VIEW_HEIGHT * 0.6)
        tab.wait("document.querySelector('#values').innerText !== ''")
        tab.settle()
        tab.picture(Path("view.png"))
        server.shutdown()
    save(Path("view.png"), picture)


def save(shot: Path, picture: Path) -> None:
    """Write a smaller copy of a picture, with 256 colours if it would be too large with all of them."""
    picture.parent.mkdir(exist_ok=True)
    with Image.open(shot) as whole:
        small = whole.convert("RGB").resize((SHOWN, SHOWN * whole.height // whole.width), Image.Resampling.LANCZOS)
    small.save(picture, optimize=True)
    if picture.stat().st_size > LARGEST_BYTES:
        small.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(picture, optimize=True)
    if picture.stat().st_size > LARGEST_BYTES:
        sys.exit(f"{picture} has {picture.stat().st_size:,} bytes, more than {LARGEST_BYTES:,}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
