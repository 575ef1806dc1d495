"""A safetensors file has the checkpoint's weights under their own names."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from cwsam_cli.checkpoints.exported import describe_model
from cwsam_cli.export.safetensors_file import write_safetensors
from tests.unit.export.test_network import checkpoint


def test_weights_come_back_bit_for_bit_with_the_description(tmp_path: Path) -> None:
    about = checkpoint()
    write_safetensors(about, describe_model(about, "feed"), tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(about.weights)
        assert all(torch.equal(file.get_tensor(name), about.weights[name]) for name in about.weights)
        assert json.loads(file.metadata()["cwsam"])["weights_sha256"] == "feed"
