"""The commands that write something, and what they read: made by commands in forked processes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, striped, write
from tests.faults.forks import run_in_fork

MODEL = "../inputs/save/model_epoch_best.pth"
DATA = "../inputs/data"
COMMANDS: dict[str, tuple[str, ...]] = {
    "tile": ("tile", "../inputs/scene.tif", "--labels", "../inputs/labels.tif", "-o", "data", "--size", "32"),
    "train": ("train", *SMALL, "--data", DATA, "-o", "run", "--set", "epoch_max=2"),
    "eval": ("eval", "-c", MODEL, "--data", DATA, "-o", "report"),
    "eval --map": ("eval", "--map", "../inputs/map.tif", "--reference", "../inputs/labels.tif", "-o", "report"),
    "predict": ("predict", "../inputs/scene.tif", "-c", MODEL, "-o", "map.tif", "--confidence", "--preview", "map.png"),
    "vectorize": ("vectorize", "../inputs/map.tif", "map.gpkg"),
    "vectorize to .shp": ("vectorize", "../inputs/map.tif", "map.shp"),
    "sample": ("sample", "../inputs/map.tif", "-n", "40", "-o", "sample.gpkg", "--min-per-class", "2"),
    "mosaic": ("mosaic", "../inputs/map.tif", "-o", "mosaic.tif"),
    "audit": ("audit", DATA, "--suspects", "suspects.gpkg"),
    "export": ("export", MODEL, "-o", "model.safetensors"),
    "upcycle": ("upcycle", MODEL, "-o", "large.pth", *SMALL),
}
"""Commands with their arguments, for a folder beside `inputs`."""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A scene, its labels, a dataset, a model and a map, made by commands in forked processes."""
    root = tmp_path_factory.mktemp("faults")
    folder = root / "inputs"
    folder.mkdir()
    image, codes = striped(96, 128)
    write(folder / "scene.tif", image)
    write(folder / "labels.tif", codes, nodata=255)
    learn = ("--set", "epoch_max=1", "--set", "train_dataset.batch_size=4")
    for words in (
        ("tile", "scene.tif", "--labels", "labels.tif", "-o", "data", "--size", "32"),
        ("train", *SMALL, "--data", "data", "-o", "save", *learn),
        ("predict", "scene.tif", "-c", "save/model_epoch_best.pth", "-o", "map.tif"),
    ):
        code, text = run_in_fork(folder, words)
        assert code == 0, text
    yield folder
    shutil.rmtree(root)
