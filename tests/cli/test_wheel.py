"""What a user gets who installs the wheel rather than the checkout."""

import os
import re
import subprocess
import sys
import venv
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_virtual_environment(tmp_path):
    def run(*command: object, cwd: Path = tmp_path) -> str:
        done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("cwsam-*.whl")
    assert wheel.stat().st_size < 3_000_000
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", wheel)
    assert "vectorize" in run(python, "-m", "cwsam_cli", "--help")
    shipped = run(
        python,
        "-c",
        "from cwsam_cli.config.load import load_config, load_taxonomy;"
        "from cwsam_cli.report import page;"
        "print(load_config('tiny').model.name, len(load_taxonomy('land_cover_33')));"
        "print(sorted(path.name for path in page.TEMPLATE.iterdir()));"
        "print(sorted(path.name for path in page.TEMPLATE.parents[1].glob('*/*.js')));"
        "print(sorted(path.name for path in page.TEMPLATE.parents[1].glob('view/*/*')))",
    )
    assert shipped.splitlines() == [
        "sam_tiny 33",
        "['page.css', 'page.html', 'shared.js']",
        "['map.js', 'page.js', 'sample.js']",
        "['index.html', 'licenses.txt', 'viewer.css', 'viewer.js']",
    ]


@pytest.mark.slow
def test_the_wheel_works_with_the_newest_versions_that_it_allows(tmp_path):
    """All packages but torch, which is linked from this environment, are the newest of the package index."""

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # compiling takes a minute in a new environment
        environment.pop("PYTHONPATH", None)
        words = [str(part) for part in command]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)

    done = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("cwsam-*.whl")
    assert wheel.stat().st_size <= 3_000_000
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    link_torch(tmp_path / "torch", next((tmp_path / "venv").rglob("site-packages")))
    (tmp_path / "constraints.txt").write_text(f"torch=={version('torch').partition('+')[0]}\n")
    done = run(python, "-m", "pip", "install", "--constraint", tmp_path / "constraints.txt", wheel)
    if done.returncode and re.search("No matching distribution|Connection|Temporary failure", done.stderr):
        pytest.skip(f"the package index has no answer: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert "Downloading torch-" not in done.stdout
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    done = run(python, "use.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 classes" in done.stdout


def link_torch(folder: Path, packages: Path) -> None:
    """Let another environment import this one's torch, and let its pip see it."""
    folder.mkdir()
    own = Path(str(distribution("torch").locate_file("")))
    for pattern in ("torch", "torchgen", "functorch", "torch-*.dist-info", "nvidia*", "triton*"):
        for source in own.glob(pattern):
            (folder / source.name).symlink_to(source)
    (packages / "torch.pth").write_text(f"{folder}\n")


USE = """
import numpy as np, rasterio
from typer.testing import CliRunner
from cwsam_cli import open_checkpoint, polygons
from cwsam_cli.main import app

codes = (np.arange(160)[None, :] // 16 % 2 + 1).repeat(128, axis=0).astype("uint8")
image = np.random.default_rng(0).normal(codes * 70.0, 5, (3, 128, 160)).clip(1, 254).astype("uint8")
transform = rasterio.transform.from_origin(600_000, 4_000_000, 30, 30)
for name, values in (("scene", image), ("labels", codes[None])):
    with rasterio.open(f"{name}.tif", "w", driver="GTiff", width=160, height=128, count=len(values), dtype="uint8",
                       crs="EPSG:32617", transform=transform) as target:
        target.write(values)
small = ("{embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [0], patch_size: 8, prompt_embed_dim: 16, "
         "decoder_mlp_dim: 32, window_size: 4, moe_num_expert_groups: 0}")
for words in (
    ["tile", "scene.tif", "--labels", "labels.tif", "--size", "32", "-o", "dataset"],
    ["train", "--config", "tiny", "--data", "dataset", "-o", "save", "--set", "model.args.inp_size=32",
     "--set", f"model.args.encoder_mode={small}", "--set", "epoch_max=1", "--set", "epoch_val=1"],
    ["eval", "-c", "save/model_epoch_best.pth", "--data", "dataset", "-o", "report"],
    ["predict", "scene.tif", "-c", "save/model_epoch_best.pth", "-o", "map.tif"],
    ["vectorize", "map.tif", "polygons.gpkg"],
):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.output, result.exception)
model = open_checkpoint("save/model_epoch_best.pth")
with rasterio.open("scene.tif") as scene, rasterio.open("map.tif") as mapped:
    made = model.classify(scene.read(), crs=scene.crs, transform=scene.transform)
    assert (made.codes == mapped.read(1)).all()
print(len(model.classes), "classes,", len(polygons(made)), "polygons")
"""
