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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (path,) = folder.glob("cwsam-*.whl")
    return path


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_virtual_environment(wheel, tmp_path):
    assert wheel.stat().st_size <= 3_000_000
    python = install(wheel, tmp_path, ROOT / "requirements.lock")
    assert "vectorize" in run(python, "-m", "cwsam_cli", "--help", cwd=tmp_path)
    shipped = run(
        python,
        "-c",
        "from cwsam_cli.config.load import load_config, load_taxonomy;"
        "from cwsam_cli.report import page;"
        "print(load_config('tiny').model.name, len(load_taxonomy('land_cover_33')));"
        "print(sorted(path.name for path in page.TEMPLATE.iterdir()));"
        "print(sorted(path.name for path in page.TEMPLATE.parents[1].glob('*/*.js')));"
        "print(sorted(path.name for path in page.TEMPLATE.parents[1].glob('view/*/*')))",
        cwd=tmp_path,
    )
    assert shipped.splitlines() == [
        "sam_tiny 33",
        "['page.css', 'page.html', 'shared.js']",
        "['map.js', 'page.js', 'sample.js']",
        "['index.html', 'licenses.txt', 'viewer.css', 'viewer.js']",
    ]


@pytest.mark.slow
def test_the_wheel_works_with_the_newest_versions_that_it_allows(wheel, tmp_path):
    """`vectorize` is only imported, because its loops compile for a minute in a new environment."""
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"torch=={version('torch').partition('+')[0]}\n")
    python = install(wheel, tmp_path, constraints)
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    assert "2 classes" in run(python, "use.py", cwd=tmp_path)


def run(*command: object, cwd: Path) -> str:
    """Run a program that must succeed, without this checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(wheel: Path, folder: Path, constraints: Path) -> Path:
    """Install the wheel into an empty environment that borrows torch, and return its Python."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    link_torch(folder / "torch", next((folder / "venv").rglob("site-packages")))
    options = ("--no-compile", "--constraint", constraints)
    try:
        told = run(python, "-m", "pip", "install", *options, wheel, cwd=folder)
    except AssertionError as error:
        if re.search("NewConnectionError|NameResolutionError|ConnectTimeoutError", str(error)):
            pytest.skip("the package index has no answer")
        raise
    assert "Downloading torch-" not in told
    return python


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
from cwsam_cli import open_checkpoint
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
):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.output, result.exception)
model = open_checkpoint("save/model_epoch_best.pth")
with rasterio.open("scene.tif") as scene, rasterio.open("map.tif") as mapped:
    made = model.classify(scene.read(), crs=scene.crs, transform=scene.transform)
    assert (made.codes == mapped.read(1)).all()
print(len(model.classes), "classes")
"""
