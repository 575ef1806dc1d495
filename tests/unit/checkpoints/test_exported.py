"""An exported model says what its checkpoint said, and foreign files are told apart."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.checkpoints.exported import describe_model, open_model
from cwsam_cli.errors import CheckpointError, MachineError
from tests.onnx_models import save_pixel_model
from tests.unit.export.test_network import checkpoint

WEIGHT = np.eye(4, 3)


def test_everything_but_the_values_of_the_weights_comes_back(tmp_path: Path) -> None:
    about = checkpoint()
    found, digest = open_model(save_pixel_model(tmp_path / "model.onnx", about, WEIGHT))
    assert digest == "feed"
    for field in dataclasses.fields(about):
        if field.name != "weights":
            assert getattr(found, field.name) == getattr(about, field.name), field.name
    assert {name: tensor.shape for name, tensor in found.weights.items()} == {
        name: tensor.shape for name, tensor in about.weights.items()
    }
    assert all(tensor.is_meta for tensor in found.weights.values())


def _metadata(text: str) -> dict[str, str]:
    return {"cwsam": text}


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({}, "is not a model that `cwsam export` wrote"),
        (_metadata("{"), "is not a model that `cwsam export` wrote"),
        (_metadata("[]"), "is not a model that `cwsam export` wrote"),
        (_metadata('{"weights_sha256": "1"}'), "architecture"),
        (_metadata(json.dumps(json.loads(describe_model(checkpoint(), "1")) | {"gsd_m": -1})), "gsd_m"),
    ],
)
def test_a_foreign_or_changed_file_is_refused(tmp_path: Path, metadata: dict[str, str], names: str) -> None:
    path = save_pixel_model(tmp_path / "model.onnx", checkpoint(), WEIGHT, metadata)
    with pytest.raises(CheckpointError, match=names):
        open_model(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no onnx")
    with pytest.raises(CheckpointError, match="onnxruntime cannot read"):
        open_model(tmp_path / "model.onnx")


def test_without_onnxruntime_the_hint_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_pixel_model(tmp_path / "model.onnx", checkpoint(), WEIGHT)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MachineError, match="needs onnxruntime") as caught:
        open_model(path)
    assert "pip install 'cwsam[export]'" in caught.value.hint


def test_commands_that_need_weights_refuse_an_exported_model(tmp_path: Path) -> None:
    path = save_pixel_model(tmp_path / "model.onnx", checkpoint(), WEIGHT)
    with pytest.raises(CheckpointError, match="only `predict` and `info` read") as caught:
        load_checkpoint(path)
    assert "exported from" in caught.value.hint
