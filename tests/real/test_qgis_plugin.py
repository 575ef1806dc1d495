"""The plugin in real QGIS: `qgis_process` maps a scene, turns the map into polygons, and shows an error."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from shapely import box
from typer.testing import CliRunner

from cwsam_cli.main import app
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.qgis.algorithms import ALGORITHMS
from tests.checkpoints import save_network
from tests.small import small

# Debian's script `qgis_process` adds an option that its own program does not know.
QGIS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QGIS is None, reason="QGIS is not installed (Debian: qgis, python3-qgis)"),
]


class Qgis:
    """A profile of QGIS with the plugin.

    Args:
        folder: a new folder for the profile.
        program: the program that the plugin starts.
    """

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        profile = folder / "profiles" / "default"
        made = CliRunner().invoke(app, ["qgis", "-o", str(folder / "plugin.zip"), "--program", str(program)])
        assert made.exit_code == 0, made.output
        with zipfile.ZipFile(folder / "plugin.zip") as archive:
            archive.extractall(profile / "python" / "plugins")
        (profile / "QGIS").mkdir()
        settings = "[PythonPlugins]\ncwsam_qgis=true\nprocessing=true\n"
        (profile / "QGIS" / "QGIS3.ini").write_text(settings, encoding="utf-8")

    def process(self, *words: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
        foreign = ("PYTHON", "GDAL", "PROJ")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        own = {"QT_QPA_PLATFORM": "offscreen", "QGIS_CUSTOM_CONFIG_PATH": str(self.folder), "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            [str(QGIS), *words, *(f"--{name}={value}" for name, value in parameters.items())],
            env=environment | own,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def qgis(tmp_path_factory: pytest.TempPathFactory) -> Qgis:
    folder = tmp_path_factory.mktemp("profile")
    program = folder / "cwsam"  # the program of this checkout
    root = Path(__file__).parents[2]
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m cwsam_cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return Qgis(folder, program)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene in a folder with a space, and a model beside it."""
    folder = tmp_path_factory.mktemp("my data")
    torch.manual_seed(1)
    save_network(ClassWiseSam(small()), folder / "model.pth")
    image = np.random.default_rng(0).integers(1, 255, (3, 60, 90), dtype=np.uint8)
    transform = rasterio.transform.from_origin(600_000, 4_000_000, 30, 30)
    profile = {"driver": "GTiff", "crs": "EPSG:32617", "transform": transform, "dtype": "uint8", "count": 3}
    with rasterio.open(folder / "scène.tif", "w", width=90, height=60, **profile) as target:
        target.write(image)
    return folder / "scène.tif"


def test_the_toolbox_has_all_algorithms(qgis: Qgis) -> None:
    listed = qgis.process("list").stdout
    assert [each.id for each in ALGORITHMS if f"cwsam:{each.id}\t{each.title}" not in listed] == []


def test_a_scene_becomes_a_map_and_polygons(qgis: Qgis, scene: Path) -> None:
    made, polygons = scene.with_name("map.tif"), scene.with_name("polygons.gpkg")
    model = scene.with_name("model.pth")
    done = qgis.process("run", "cwsam:predict", SCENES=scene, CHECKPOINT=model, OUTPUT=made, CONFIDENCE=1, OVERLAP=0.5)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--overlap=0.5" in done.stdout and f"{made}: 90 × 60 pixels" in done.stdout
    options = {"MIN_AREA": "4px", "DST_CRS": "EPSG:3358", "CHECK": 1}
    done = qgis.process("run", "cwsam:vectorize", MAPS=made, OUTPUT=polygons, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    frame = geopandas.read_file(polygons)
    assert frame.crs.to_epsg() == 3358
    with rasterio.open(made) as dataset:
        assert set(frame["code"]) <= set(np.unique(dataset.read(1)))
    assert frame["pixels"].sum() == 90 * 60 and frame["pixels"].min() >= 4


def test_options_that_are_not_given_have_the_defaults_of_the_dialog(
    qgis: Qgis, landcover: Path, tmp_path: Path
) -> None:
    labels = landcover / "nc_landsat7_2002" / "label.tif"
    done = qgis.process("run", "cwsam:sample", MAP_PATH=labels, OUTPUT=tmp_path / "sample.gpkg")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(geopandas.read_file(tmp_path / "sample.gpkg")) == 500


def test_the_chosen_layer_of_a_geopackage_is_read(tmp_path: Path, qgis: Qgis, scene: Path) -> None:
    layers = tmp_path / "plots.gpkg"
    west, middle, east = 600_000, 600_000 + 40 * 30, 600_000 + 90 * 30
    for name, kind, left, right in (("first", "water", west, middle), ("plots", "forest", middle, east)):
        frame = geopandas.GeoDataFrame(
            {"kind": [kind]}, geometry=[box(left, 4_000_000 - 60 * 30, right, 4_000_000)], crs=32617
        )
        frame.to_file(layers, layer=name)
    labels = f"{layers}|layername=plots"
    tiles = tmp_path / "tiles"
    words = {"SCENES": scene, "LABELS": labels, "CLASS_FIELD": "kind", "SIZE": 16, "OUTPUT": tiles}
    done = qgis.process("run", "cwsam:tile", **words)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tiles / "dataset.yaml").read_text(encoding="utf-8")
    assert "name: forest" in table and "name: water" not in table
    again = qgis.process("run", "cwsam:tile", **words)
    assert again.returncode != 0 and "--overwrite" in again.stderr, "folders are not replaced"


def test_a_program_that_is_not_there_can_be_named_in_the_settings(tmp_path: Path, qgis: Qgis, scene: Path) -> None:
    settings = qgis.folder / "profiles" / "default" / "QGIS" / "QGIS3.ini"
    before = settings.read_text(encoding="utf-8")
    settings.write_text(f"{before}\n[Processing]\nConfiguration\\CWSAM_PROGRAM=/gone/cwsam\n", encoding="utf-8")
    try:
        done = qgis.process("run", "cwsam:sample", MAP_PATH=scene, OUTPUT=tmp_path / "sample.gpkg")
    finally:
        settings.write_text(before, encoding="utf-8")
    assert done.returncode != 0
    assert "the program `/gone/cwsam` does not start" in done.stderr and "Processing > Providers" in done.stderr


def test_an_error_of_the_program_reaches_the_user(qgis: Qgis, scene: Path) -> None:
    made = scene.with_name("none.tif")
    done = qgis.process("run", "cwsam:predict", SCENES=scene, CHECKPOINT=scene, OUTPUT=made)
    assert done.returncode != 0
    assert "is not a readable checkpoint" in done.stderr and "hint: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not made.exists()
