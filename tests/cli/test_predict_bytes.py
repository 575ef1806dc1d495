"""A scene's bytes are read once."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cwsam_cli.config.load import load_config
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.predict.planning import make_plan
from cwsam_cli.predict.request import MapRequest
from cwsam_cli.predict.scoring.network import Model
from cwsam_cli.predict.work import predict
from tests.checkpoints import save_network

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

_MODE = (
    "model.args.encoder_mode={embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [0], patch_size: 16, "
    "prompt_embed_dim: 16, decoder_mlp_dim: 32, window_size: 4, moe_num_expert_groups: 0}"
)


def bytes_read() -> int:
    """What this process has read so far, by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.partition(": ")[2] for line in lines if line.startswith("rchar")))


@pytest.fixture
def one_class_model(tmp_path: Path) -> Path:
    """A model of zeros: its map is one class, so that reading the map itself costs almost nothing."""
    arch = architecture(load_config("tiny", ["model.args.inp_size=256", _MODE]).model, num_bands=5, num_classes=3)
    with torch.no_grad():
        network = ClassWiseSam(arch)
        for parameter in network.parameters():
            parameter.zero_()
    return save_network(network, tmp_path / "model.pth")


@pytest.mark.parametrize(
    "layout",
    [{"tiled": True, "blockxsize": 256, "blockysize": 256}, {"blockysize": 1}],
    ids=["tiles", "strips"],
)
def test_a_scenes_bytes_are_read_once(
    one_class_model: Path, make_raster: Any, tmp_path: Path, layout: dict[str, Any]
) -> None:
    """By the difference between two heights: what a process reads besides is the same for both."""
    sizes, read = [], []
    for height in (300, 1024, 2048):  # the first run also loads modules
        values = np.random.default_rng(0).integers(1, 255, (5, height, 512), np.uint8)
        scene = make_raster(f"{height}.tif", values, nodata=0, **layout)
        request = MapRequest(
            scene=str(scene), checkpoint=one_class_model, output=tmp_path / f"{height}_map.tif", device="cpu"
        )
        before = bytes_read()
        predict(request)
        read.append(bytes_read() - before)
        sizes.append(scene.stat().st_size)
    assert sizes[2] - sizes[1] > 2 * 10**6
    assert 0.95 < (read[2] - read[1]) / (sizes[2] - sizes[1]) < 1.1


def test_a_fingerprint_and_a_sample_are_a_small_part_of_what_is_read(
    one_class_model: Path, make_raster: Any, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(1, 255, (5, 4000, 4000), np.uint8)
    scene = make_raster("scene.tif", values, nodata=0, tiled=True, blockxsize=256, blockysize=256)
    request = MapRequest(scene=str(scene), checkpoint=one_class_model, device="cpu")
    model = Model.open(request)
    before = bytes_read()
    make_plan(request, model)
    assert 0 < bytes_read() - before < 0.08 * scene.stat().st_size
