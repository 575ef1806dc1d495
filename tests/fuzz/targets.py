"""Readers of files from strangers, each with a good file to change and the errors that it may raise."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window

from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.config.load import load_config, load_label_table
from cwsam_cli.dataset.manifest import Band, Manifest, read_manifest, write_manifest
from cwsam_cli.errors import CwsamError
from cwsam_cli.journal import Journal, _read_description
from cwsam_cli.metrics.history import read_history
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.raster.scene import open_scene
from cwsam_cli.raster.sources.external import refuse_external
from cwsam_cli.raster.style import read_taxonomy
from cwsam_cli.survey.design import Design, MapClass, Stratum
from cwsam_cli.taxonomy import from_names
from cwsam_cli.train.state import read_index, read_record, read_tensors
from tests.checkpoints import save_network
from tests.small import small
from tests.states import save_state

TAXONOMY = from_names(["water", "林地"], first=1)


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under test."""

    make: Callable[[Path], Path]
    """Writes a good file into a folder and returns its path."""
    read: Callable[[Path], object]
    """Reads the file; it may raise a `CwsamError` and nothing else."""


def _raster(folder: Path) -> Path:
    path, values = folder / "scene.tif", np.arange(1024, dtype=np.uint8).reshape(1, 32, 32)
    with rasterio.open(
        *(path, "w", "GTiff", 32, 32, 1, "EPSG:32617", from_origin(600_000, 4_000_000, 30, 30), "uint8"), compress="lzw"
    ) as target:
        target.write(values)
        target.update_tags(CWSAM_CLASSES='{"classes": [{"code": 1, "name": "a", "color": "#000000"}]}')
    return path


def _read_raster(path: Path) -> None:
    with open_scene(path) as scene:
        if scene.grid.width * scene.grid.height < 10**7:
            scene.read(Window(0, 0, min(64, scene.grid.width), min(64, scene.grid.height)))
        read_taxonomy(scene.dataset, ())


def _virtual(folder: Path) -> Path:
    _raster(folder)
    path = folder / "scene.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">scene.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    return path


def _dataset(folder: Path) -> Path:
    bands = (Band(name="red", mean=1.0, std=2.0),)
    manifest = Manifest(taxonomy=TAXONOMY, bands=bands, dtype="uint8", gsd_m=30.0, pixels={"train": [3, 4]})
    write_manifest(folder, manifest)
    return folder / "dataset.yaml"


def _classes(folder: Path) -> Path:
    path = folder / "classes.yaml"
    path.write_text("classes:\n  - {code: 1, name: water, color: '#0000ff', from: [41, '#00ff00']}\nunlabelled: [0]\n")
    return path


def _config(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text((Path(__file__).parents[2] / "configs" / "tiny.yaml").read_text("utf-8"), "utf-8")
    return path


def _model(folder: Path) -> Path:
    return save_network(ClassWiseSam(small()), folder / "model.pth")


def _state(folder: Path) -> Path:
    save_state(folder / "last", {"model/weight": torch.arange(6.0).view(2, 3)})
    return folder / "last" / "state.json"


def _index(folder: Path) -> Path:
    return _state(folder).with_name(".metadata")


def _read_state(path: Path) -> None:
    read_tensors(path.parent, {"model/weight": torch.zeros(2, 3)}, read_index(path.parent))


def _journal(folder: Path) -> Path:
    kept = Journal(folder, {})
    with kept.appending() as append:
        append(0, 0, b"first piece")
        append(0, 1, b"second piece")
    return folder / "0.pieces"


def _read_journal(path: Path) -> None:
    kept = Journal(path.parent, {})
    kept.scan()
    for place in kept.pieces:
        kept.read(*place)


def _description(folder: Path) -> Path:
    path = folder / "journal.json"
    path.write_text(json.dumps({"key": {"scene": "a"}, "plan": {"batch": 4}}))
    return path


def _history(folder: Path) -> Path:
    path = folder / "history.jsonl"
    path.write_text('{"epoch": 1, "train/loss": 0.5}\n{"epoch": 2, "train/loss": 0.4}\n')
    return path


def _design(folder: Path) -> Path:
    classes = (MapClass(code=1, name="water", color="#0000ff"),)
    strata = (Stratum(number=1, name="water", code=1, pixels=9, area_m2=8.1, points=3),)
    named = {"map": "map.tif", "map_sha256": "0", "strata_from": "", "allocation": "equal", "seed": 0}
    path = folder / "design.json"
    path.write_text(Design(**named, classes=classes, strata=strata).as_json(), "utf-8")
    return path


def _read_design(path: Path) -> None:
    try:
        Design.from_json(path.read_bytes().decode("utf-8", errors="replace"))
    except ValueError as error:  # what its caller turns into a DataError
        raise CwsamError(str(error)) from None


TARGETS = {
    "raster": Target(_raster, _read_raster),
    "virtual raster": Target(_virtual, lambda path: refuse_external(str(path))),
    "dataset.yaml": Target(_dataset, lambda path: read_manifest(path.parent)),
    "class table": Target(_classes, lambda path: load_label_table(str(path))),
    "configuration": Target(_config, lambda path: load_config(str(path))),
    "checkpoint": Target(_model, lambda path: load_checkpoint(path).model()),
    "state.json": Target(_state, lambda path: read_record(path.parent)),
    "index of a state": Target(_index, _read_state),
    "pieces": Target(_journal, _read_journal),
    "journal.json": Target(_description, lambda path: _read_description(path.parent)),
    "history": Target(_history, read_history),
    "design": Target(_design, _read_design),
}


def try_bytes(name: str, path: Path, content: bytes) -> None:
    """Let a reader read changed bytes.

    Args:
        name: the reader's name in `TARGETS`.
        path: the good file, beside the files that belong to it.
        content: the bytes.

    Raises:
        Exception: any error that is not meant for users, which is a bug.
    """
    path.write_bytes(content)
    try:
        TARGETS[name].read(path)
    except CwsamError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
