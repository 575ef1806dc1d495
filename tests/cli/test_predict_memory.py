"""How much memory a map takes, by the whole process's own peak."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import Result

from cwsam_cli.config.load import load_config
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from tests.checkpoints import save_network

Cwsam = Callable[..., Result]


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


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("precision", "limits"), [("fp32", ("1.2GB", "0.95GB")), ("bf16", ("1.1GB",))])
def test_a_limit_of_memory_holds_for_the_whole_process(
    cwsam: Cwsam, make_raster: Any, tmp_path: Path, precision: str, limits: tuple[str, ...]
) -> None:
    """With the model that ships, whose experts meet other numbers of rows in every batch."""
    scene = make_raster("scene.tif", noise(600, 1500, 3))
    labels = make_raster("labels.tif", (np.indices((600, 1500))[1] // 300 % 3 + 1).astype(np.uint8))
    cwsam("tile", scene, "--labels", labels, "-o", "data", "--size", 128, "--split", 100, 1, 1)
    for split in ("train", "val"):
        for path in sorted((tmp_path / "data" / "images" / split).iterdir())[2:]:
            path.unlink()
            (tmp_path / "data" / "labels" / split / path.name).unlink()
    cwsam("train", "--config", "tiny", "--set", "epoch_max=1", "--data", "data", "-o", "run")
    best = ("-c", "run/model_epoch_best.pth", "--device", "cpu", "--precision", precision)
    for limit in limits:
        arguments = ["predict", scene, *best, "-o", "map.tif", "--max-memory", limit, "--overwrite"]
        assert 3e8 < peak_of(tmp_path, *arguments) < float(limit.removesuffix("GB")) * 1e9


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_a_scenes_height(make_raster: Any, tmp_path: Path) -> None:
    """With the model that ships and no limit: its experts meet other numbers of rows in every batch."""
    torch.manual_seed(0)
    arch = architecture(load_config("tiny", []).model, num_bands=5, num_classes=7)
    save_network(ClassWiseSam(arch), tmp_path / "model.pth")
    peaks = []
    for height in (2048, 8192):
        scene = make_raster(f"{height}.tif", noise(height, 512, 5))
        line = ("predict", scene, "-c", "model.pth", "-o", "map.tif", "--device", "cpu", "--overwrite")
        peaks.append(peak_of(tmp_path, *line))
    assert peaks[1] < peaks[0] + 60e6
