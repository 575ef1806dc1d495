"""A program of torch.export runs without this package's code and knows its description."""

from pathlib import Path

import pytest
import torch

from cwsam_cli.checkpoints.exported import describe_model
from cwsam_cli.export.pt2_file import write_pt2
from tests.unit.export.test_network import checkpoint, normalized, pixels


@pytest.mark.slow
@torch.no_grad()
def test_a_program_maps_pixels_to_the_probabilities_of_the_checkpoint(tmp_path: Path) -> None:
    about = checkpoint()
    description = describe_model(about, "feed")
    assert write_pt2(about, description, tmp_path / "model.pt2") < 1e-5
    extra = {"cwsam.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    wanted = about.model()(normalized(about)).softmax(dim=1)
    torch.testing.assert_close(program.module()(pixels()), wanted, rtol=0, atol=1e-5)
    assert extra["cwsam.json"] == description
    assert b"cwsam_cli/" not in (tmp_path / "model.pt2").read_bytes()
