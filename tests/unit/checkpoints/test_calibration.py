"""A calibrated copy is the same model: its weights have the same hash."""

import dataclasses
from pathlib import Path

import pytest
import torch

from cwsam_cli.checkpoints.calibration import Calibration, hash_weights
from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.errors import CheckpointError
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.taxonomy import from_names
from tests.small import small

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}


def checkpoint() -> Checkpoint:
    arch = small(num_bands=1, num_classes=3, detail_stem=True)
    return Checkpoint(
        weights=ClassWiseSam(arch).state_dict(),
        architecture=arch,
        taxonomy=from_names(["a", "b", "c"]),
        bands=(Band(name="red", mean=0.0, std=1.0),),
        dtype="uint8",
        gsd_m=None,
        ignore_background=False,
        epoch=1,
        metrics={},
    )


def calibration(**changes: object) -> Calibration:
    values = {"temperature": 1.5, "coverage": 0.9, "thresholds": (0.1, 0.2, 2.0), "data": "ground", "pixels": 7}
    return Calibration(**values | {"weights_sha256": "0" * 64} | changes)


def test_a_hash_depends_on_names_types_shapes_and_values_only() -> None:
    own = hash_weights(WEIGHTS)
    assert hash_weights(dict(reversed(WEIGHTS.items()))) == own
    assert hash_weights({name: tensor.clone() for name, tensor in WEIGHTS.items()}) == own
    others = [
        WEIGHTS | {"a": WEIGHTS["a"].view(3, 2)},
        WEIGHTS | {"a": WEIGHTS["a"] + 1e-6},
        WEIGHTS | {"c": torch.ones(2, dtype=torch.float16)},
        {name.upper(): tensor for name, tensor in WEIGHTS.items()},
    ]
    assert len({own, *map(hash_weights, others)}) == 5


def test_a_calibrated_copy_keeps_everything_else(tmp_path: Path) -> None:
    plain = checkpoint()
    save_checkpoint(plain, tmp_path / "plain.pth")
    opened = load_checkpoint(tmp_path / "plain.pth")
    assert opened.calibration is None
    save_checkpoint(dataclasses.replace(opened, calibration=calibration()), tmp_path / "copy.pth")
    copy = load_checkpoint(tmp_path / "copy.pth")
    assert copy.calibration == calibration()
    assert hash_weights(copy.weights) == hash_weights(plain.weights)
    assert (copy.architecture, copy.taxonomy, copy.bands) == (plain.architecture, plain.taxonomy, plain.bands)


def test_a_calibration_of_other_classes_is_refused(tmp_path: Path) -> None:
    save_checkpoint(dataclasses.replace(checkpoint(), calibration=calibration(thresholds=(0.1,))), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="1 values for 3 classes") as caught:
        load_checkpoint(tmp_path / "m.pth")
    assert "--calibrate" in caught.value.hint


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_cannot_divide_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        calibration(temperature=temperature)
