"""What a user gets who installs the wheel rather than the checkout."""

import os
import sys
import tarfile

import pytest

from tests.environments import Unreachable, build_wheel, install, run
from tests.locks import ROOT, pins


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_virtual_environment(wheel, tmp_path):
    assert wheel.stat().st_size <= 3_000_000
    python = installed(wheel, tmp_path, [f"{name}=={version}" for name, version in pins().items()])
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
    python = installed(wheel, tmp_path, [f"torch=={pins()['torch']}"])
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    assert "2 classes" in run(python, "use.py", cwd=tmp_path)


@pytest.mark.slow
def test_builds_are_equal_to_the_byte_wherever_they_are_made(tmp_path):
    """Another folder, another umask, other times of change; and a wheel that is built from the sdist."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    built = []
    for name, umask, time in (("one", 0o022, 10**9), ("another place", 0o077, 2 * 10**9)):
        clone, output = tmp_path / name, tmp_path / f"{name} built"
        run("git", "clone", "--quiet", ROOT, clone, cwd=tmp_path, umask=umask)
        for path in clone.rglob("*"):
            os.utime(path, (time, time))
        built.append(build(clone, output, umask=umask))
    assert [path.name for path in built[0]] == [path.name for path in built[1]]
    assert [path.suffix for path in built[0]] == [".whl", ".gz"]
    assert [path.read_bytes() for path in built[0]] == [path.read_bytes() for path in built[1]]
    wheel, sdist = built[0]
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert build(source, tmp_path / "from sdist")[0].read_bytes() == wheel.read_bytes()


def build(source, output, *, umask=-1):
    """Build the wheel and the sdist of a source folder; returns their paths."""
    environment = {"SOURCE_DATE_EPOCH": "1700000000"}
    run(sys.executable, "-m", "hatchling", "build", "-d", output, cwd=source, umask=umask, **environment)
    return sorted(output.iterdir(), key=lambda path: path.name.endswith(".tar.gz"))


def installed(wheel, folder, constraints):
    try:
        return install(wheel, folder, constraints)
    except Unreachable:
        pytest.skip("the package index has no answer")


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
