"""The command line as a user meets it: what it prints, what it leaves on the disk, how it ends."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from typer.testing import CliRunner, Result

from cwsam_cli.main import app

SMALL = (
    *("--config", "tiny", "--set", "model.args.inp_size=32", "--set"),
    "model.args.encoder_mode={embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [0], patch_size: 8, "
    "prompt_embed_dim: 16, decoder_mlp_dim: 32, window_size: 4, moe_num_expert_groups: 0}",
)
"""The smallest model that still is one: a second or two of training."""


class Run(NamedTuple):
    """A scene, its labels, the dataset cut from them and a model trained on it."""

    scene: Path
    labels: Path
    dataset: Path
    folder: Path
    checkpoint: Path


def invoke(*arguments: Any) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a traceback where the user should have met a sentence
    return result


def succeed(*arguments: Any) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def state(folder: Path) -> dict[str, str]:
    """Every path below a folder with the hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def striped(height: int, width: int, classes: int = 3, bands: int = 3) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image (bands, H, W) and its codes (H, W), as `stripes` in tests/conftest.py makes them."""
    rng = np.random.default_rng(0)
    codes = (np.arange(width)[None, :] // 8 % classes + 1).repeat(height, axis=0).astype(np.uint8)
    colors = np.linspace(40, 200, classes * bands).reshape(classes, bands).round()
    image = colors[codes - 1].transpose(2, 0, 1) + rng.normal(0, 6, (bands, height, width))
    return image.clip(1, 254).astype(np.uint8), codes


def write(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    bands = values if values.ndim == 3 else values[None]
    defaults = {"crs": "EPSG:32617", "transform": from_origin(600_000, 4_000_000, 30, 30)}
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", dtype=bands.dtype, **shape, **defaults | profile) as target:
        target.write(bands)
    return path


@pytest.fixture
def cwsam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `cwsam` in an empty working folder; it must succeed."""
    monkeypatch.chdir(tmp_path)
    return succeed


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run `cwsam` in an empty working folder; it must fail as the design says. Returns the message.

    `refused(4, "predict", ..., names="scene.tif")`: exit code 4, a sentence that
    names `scene.tif`, a hint, no traceback, nothing on stdout, and not a byte
    changed below the working folder.
    """
    monkeypatch.chdir(tmp_path)

    def run(code: int, *arguments: Any, names: str) -> str:
        before = state(tmp_path)
        result = invoke(*arguments)
        message = result.stderr
        assert result.exit_code == code, (result.exit_code, result.stdout, message)
        error = message[message.index("error: ") :]
        sentence, blank, hint = error.split("\n")[:3]
        assert names in sentence, error
        assert blank == "", error
        assert hint.startswith("hint: ") and len(hint) > len("hint: "), error
        assert "Traceback" not in message
        assert result.stdout == ""
        assert state(tmp_path) == before, "something was left behind, or an existing file was touched"
        return error

    return run


@pytest.fixture
def misused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run `cwsam` with arguments that the parser itself refuses: exit code 2, and it names the argument."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any, names: str) -> str:
        before = state(tmp_path)
        result = invoke(*arguments)
        assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr)
        assert names in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
        assert state(tmp_path) == before
        return result.stderr

    return run


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Arguments of `cwsam train` for a model of a few thousand parameters on windows of 32 pixels."""
    return SMALL


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    return state


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small model trained on stripes through the command line. Read it, never change it."""
    folder = tmp_path_factory.mktemp("run")
    image, codes = striped(160, 200)
    scene, labels = write(folder / "scene.tif", image), write(folder / "labels.tif", codes, nodata=255)
    succeed("tile", scene, "--labels", labels, "-o", folder / "dataset", "--size", 32)
    succeed(
        *("train", *SMALL, "--data", folder / "dataset", "-o", folder / "save"),
        *("--set", "epoch_max=6", "--set", "epoch_val=3"),
    )
    return Run(scene, labels, folder / "dataset", folder / "save", folder / "save" / "model_epoch_best.pth")


@pytest.fixture(scope="session")
def odd_classes(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Run:
    """The same scene with a class table whose codes are not in order, whose names are Chinese, and two never show."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "classes.yaml").write_text(
        "classes:\n"
        '  - {code: 1, name: 水体, color: "#0000ff"}\n'
        '  - {code: 7, name: 冰川, color: "#ffffff"}\n'
        '  - {code: 200, name: 林地, color: "#00ff00"}\n'
        '  - {code: 3, name: grass & <herbs>, color: "#ffff00"}\n'
        '  - {code: 9, name: 矿山, color: "#ff00ff"}\n',
        "utf-8",
    )
    with rasterio.open(run.labels) as source:
        codes = source.read(1)
    codes[codes == 2] = 200
    labels = write(folder / "labels.tif", codes, nodata=255)
    table = ("--classes", folder / "classes.yaml")
    succeed("tile", run.scene, "--labels", labels, *table, "-o", folder / "dataset", "--size", 32, "--buffer", 0)
    learn = ("--set", "epoch_max=12", "--set", "epoch_val=12", "--set", "optimizer.args.lr=3e-3")
    succeed("train", *SMALL, *learn, "--data", folder / "dataset", "-o", folder / "save")
    return Run(run.scene, labels, folder / "dataset", folder / "save", folder / "save" / "model_epoch_best.pth")
