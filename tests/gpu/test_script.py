"""The script for anyone with a GPU, and its tests, run where only torch, numpy, PyYAML and pytest are installed."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.gpu.options import GPU1

ROOT = Path(__file__).parents[2]
INSTALLED = {"torch", "numpy", "pyyaml", "pytest"}
"""Distributions of such a machine; the next line has what they need themselves."""
NEEDED = {
    *("typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "setuptools"),
    *("iniconfig", "packaging", "pluggy", "pygments"),
}
BLOCK = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Environment in which Python finds no other package than those."""
    allowed = INSTALLED | NEEDED | {"cwsam", "pip"}
    others = [
        name
        for name, owners in packages_distributions().items()
        if not {owner.lower().replace("-", "_") for owner in owners} & allowed
    ]
    assert {"rasterio", "pydantic", "typer", "transformers"} <= set(others)
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(names=set(others)), encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}


def _python(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


def test_tests_of_one_gpu_are_collected_with_torch_alone(bare: dict[str, str]) -> None:
    done = _python("-m", "pytest", "--collect-only", *GPU1, "tests/gpu", env=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_a_gpu_learns_what_a_cpu_learns" in done.stdout
    refused = _python("-c", "import rasterio", env=bare)
    assert "No module named 'rasterio'" in refused.stderr


@pytest.mark.slow
def test_the_script_runs_with_torch_alone_and_measures_every_part(bare: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    done = _python("tests/benchmarks/gpu.py", "--device", "cpu", "--output", str(output), env=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert not [part for part, values in figures.items() if "failed" in values or "left_out" in values]
    said = " ".join(figures)
    for part in (
        "device",
        "encoder sam_vit_b",
        "96 experts",
        "training sam_moe_1dot5b",
        "prediction sam_vit_b",
        "tests",
    ):
        assert part in said
    assert figures["tests marked gpu1"]["exit_code"] == 0
    assert all(values["mpx_per_s"] > 0 for part, values in figures.items() if part.startswith("prediction"))


def test_without_a_gpu_the_script_says_so(bare: dict[str, str]) -> None:
    done = _python("tests/benchmarks/gpu.py", env=bare | {"CUDA_VISIBLE_DEVICES": ""})
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("there is no CUDA device")
