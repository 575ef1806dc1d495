"""Maps and polygons in real QGIS: colours, class names, legend, places and attributes."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from cwsam_cli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from cwsam_cli.main import app
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from tests.checkpoints import save_network
from tests.small import small

PYTHON = "/usr/bin/python3"
"""Debian's Python, for which its package python3-qgis is made."""
READER = Path(__file__).with_name("qgis_reader.py")
CLASSES = {
    3: ("水体", "#005adc"),
    7: ("Forêt, mixte", "#006e28"),
    8: ('town & "road"', "#d23c3c"),
    200: ("ice", "#c8f0ff"),
}
TAXONOMY = Taxonomy(classes=tuple(LandCoverClass(code=c, name=n, color=k) for c, (n, k) in CLASSES.items()))


def has_qgis() -> bool:
    try:
        return subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed (Debian: qgis, python3-qgis)"),
]


def ask_qgis(layers: list[Path], pictures: list[tuple[list[Path], Any]]) -> dict[str, Any]:
    task = {
        "layers": [str(path) for path in layers],
        "pictures": [{"layers": [str(path) for path in paths], "places": places} for paths, places in pictures],
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GDAL", "PROJ"))}
    done = subprocess.run(
        [PYTHON, str(READER)],
        input=json.dumps(task),
        env=environment | {"QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def run(*arguments: object) -> None:
    result = CliRunner().invoke(app, ["-q", *map(str, arguments)])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def folder(landcover: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of a real scene by a model that was not trained, and their polygons."""
    folder = tmp_path_factory.mktemp("qgis")
    torch.manual_seed(1)  # with this seed each class covers at least 8 % of the map
    model = save_network(ClassWiseSam(small(num_bands=7)), folder / "model.pth")
    save_checkpoint(dataclasses.replace(load_checkpoint(model), taxonomy=TAXONOMY), model)
    scene = landcover / "nc_landsat7_2002" / "image.tif"
    run("predict", scene, "-c", model, "-o", folder / "map.tif", "--probabilities", "--confidence")
    run("predict", scene, "-c", model, "-o", folder / "cog.tif", "--format", "COG")
    for name in ("polygons.gpkg", "shapes.shp", "flat.fgb"):
        run("vectorize", folder / "map.tif", folder / name)
    return folder


@pytest.fixture(scope="module")
def places(folder: Path) -> tuple[list[list[float]], list[str]]:
    """Centres of 400 pixels in a part of the map, and the colours of their classes."""
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(150, 300, (2, 400))
    with rasterio.open(folder / "map.tif") as dataset:
        codes = dataset.read(1)[rows, columns]
        xy = [list(dataset.xy(row, column)) for row, column in zip(rows, columns, strict=True)]
    assert len(np.unique(codes)) == len(CLASSES)
    return xy, [CLASSES[int(code)][1] for code in codes]


@pytest.fixture(scope="module")
def shown(folder: Path, places: tuple[list[list[float]], list[str]]) -> Callable[[str], dict[str, Any]]:
    """What QGIS says of a file, by its name; `colors` are those of its picture at the places."""
    names = (
        "map.tif",
        "cog.tif",
        "map.probabilities.tif",
        "map.confidence.tif",
        "polygons.gpkg",
        "shapes.shp",
        "flat.fgb",
    )
    pictured = [name for name in names if not name.startswith("map.")] + ["map.tif"]
    answer = ask_qgis([folder / name for name in names], [([folder / name], places[0]) for name in pictured])
    colors = dict(zip(pictured, answer["pictures"], strict=True))
    return lambda name: answer["layers"][str(folder / name)] | {"colors": colors.get(name)}


@pytest.mark.parametrize("name", ["map.tif", "cog.tif"])
def test_a_map_has_the_names_and_colours_of_its_classes(shown: Callable[[str], dict[str, Any]], name: str) -> None:
    layer = shown(name)
    assert layer["renderer"] == "paletted"
    assert layer["legend"] == [list(pair) for pair in CLASSES.values()]


@pytest.mark.parametrize("name", ["map.tif", "cog.tif", "polygons.gpkg", "shapes.shp", "flat.fgb"])
def test_every_pixel_has_the_colour_of_its_class_at_its_place(
    shown: Callable[[str], dict[str, Any]], places: tuple[list[list[float]], list[str]], name: str
) -> None:
    assert shown(name)["colors"] == places[1]


@pytest.mark.parametrize("name", ["polygons.gpkg", "shapes.shp", "flat.fgb"])
def test_polygons_have_a_legend_and_their_attributes(shown: Callable[[str], dict[str, Any]], name: str) -> None:
    layer = shown(name)
    assert layer["renderer"] == "categorizedSymbol"
    assert layer["legend"][: len(CLASSES)] == [list(pair) for pair in CLASSES.values()]
    fields = [field for field, _ in layer["fields"] if field != "fid"]
    assert fields == ["code", "name", "area_m2", "area_ha", "perim_m", "pixels"]
    row = dict(zip([field for field, _ in layer["fields"]], layer["first"], strict=True))
    assert row["name"] == CLASSES[int(row["code"])][0]
    assert float(row["area_m2"]) == pytest.approx(int(row["pixels"]) * 28.5**2, rel=1e-3)


def test_probabilities_name_their_classes_by_band(shown: Callable[[str], dict[str, Any]]) -> None:
    bands = [shown(name)["bands"] for name in ("map.probabilities.tif", "map.confidence.tif")]
    names = [[band.split(": ")[1] for band in each] for each in bands]
    assert names == [[name for name, _ in CLASSES.values()], ["confidence"]]


def test_all_layers_lie_in_the_crs_of_the_scene(shown: Callable[[str], dict[str, Any]]) -> None:
    names = ("map.tif", "cog.tif", "map.probabilities.tif", "polygons.gpkg", "shapes.shp", "flat.fgb")
    assert {shown(name)["crs"] for name in names} == {"EPSG:3358"}
