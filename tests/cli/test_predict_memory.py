"""How much memory a map takes, by the whole process's own peak."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cwsam_cli.config.load import load_config
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from tests.checkpoints import save_network

PEAK = """
import re, sys
from pathlib import Path
from cwsam_cli.main import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
print(re.search("VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1])
"""
"""Runs `cwsam` and tells its own peak; getrusage would tell that of the test, if it is larger."""


def peak_of(folder: Path, *arguments: Any) -> int:
    """Run `cwsam` in a process of its own; returns its peak in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1]) * 1024


def noise(height: int, width: int, bands: int) -> Any:
    return np.random.default_rng(0).integers(1, 255, (bands, height, width), np.uint8)


def shipped(folder: Path, bands: int) -> Path:
    """The model that ships, with random weights."""
    torch.manual_seed(0)
    arch = architecture(load_config("tiny", []).model, num_bands=bands, num_classes=7)
    return save_network(ClassWiseSam(arch), folder / "model.pth")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("precision", "limits"), [("fp32", ("1.2GB", "0.95GB")), ("bf16", ("1.1GB",))])
def test_a_limit_of_memory_holds_for_the_whole_process(
    make_raster: Any, tmp_path: Path, precision: str, limits: tuple[str, ...]
) -> None:
    """With the model that ships, whose experts meet other numbers of rows in every batch."""
    scene = make_raster("scene.tif", noise(600, 1500, 3))
    best = ("-c", shipped(tmp_path, 3), "--device", "cpu", "--precision", precision)
    for limit in limits:
        arguments = ["predict", scene, *best, "-o", "map.tif", "--max-memory", limit, "--overwrite"]
        assert 3e8 < peak_of(tmp_path, *arguments) < float(limit.removesuffix("GB")) * 1e9


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_a_scenes_height(make_raster: Any, tmp_path: Path) -> None:
    """With the model that ships and no limit: its experts meet other numbers of rows in every batch.

    In bf16, kernels for these numbers fill their cache first: 768, 823, 860 and 881 MB with heights of 2,048, 4,096,
    8,192 and 16,384 pixels.
    """
    model = shipped(tmp_path, 5)
    peaks = []
    for height in (8192, 16384):
        scene = make_raster(f"{height}.tif", noise(height, 512, 5))
        line = ("predict", scene, "-c", model, "-o", "map.tif", "--device", "cpu", "--overwrite")
        peaks.append(peak_of(tmp_path, *line))
    assert peaks[1] < peaks[0] + 60e6
