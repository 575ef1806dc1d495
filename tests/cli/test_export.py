"""`export` writes files that other programs run, and `predict` and `info` read them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
import torch
from typer.testing import Result

from cwsam_cli.checkpoints.calibration import Calibration, hash_weights
from cwsam_cli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from cwsam_cli.checkpoints.exported import DIVISOR, INPUT, OUTPUT, open_session
from cwsam_cli.files import sha256
from cwsam_cli.model.network import ClassWiseSam
from tests.onnx_models import save_pixel_model

Cwsam = Callable[..., Result]


def read(path: Path | str) -> Any:
    with rasterio.open(path) as source:
        return source.read()


# `predict` and `info` with a small model that was made by hand


@pytest.fixture
def weight() -> Any:
    return np.random.default_rng(0).normal(0, 0.02, (3, 3))


@pytest.fixture
def model(run: Any, weight: Any, tmp_path: Path) -> Path:
    """Scores pixels by themselves, with the classes and bands of the trained model."""
    return save_pixel_model(tmp_path / "model.onnx", load_checkpoint(run.checkpoint), weight)


def test_a_map_of_an_exported_model_has_its_classes(cwsam: Cwsam, run: Any, model: Path, weight: Any) -> None:
    cwsam("predict", run.scene, "-c", model, "-o", "map.tif", "--confidence", "--tta", "flips")
    logits = np.einsum("kc,chw->khw", weight, read(run.scene).astype(np.float64))
    first, second = np.sort(logits, axis=0)[[-1, -2]]
    is_clear = first - second > 1e-3
    assert is_clear.mean() > 0.99
    np.testing.assert_array_equal(read("map.tif")[0][is_clear], logits.argmax(axis=0)[is_clear] + 1)
    likely = np.exp(logits - first).sum(axis=0) ** -1
    assert np.abs(read("map.confidence.tif")[0] - 100 * likely).max() <= 0.51


def test_scores_of_an_exported_model_are_blended_with_its_temperature(
    cwsam: Cwsam, run: Any, weight: Any, tmp_path: Path
) -> None:
    about = load_checkpoint(run.checkpoint)
    calibration = Calibration(temperature=2.0, data="d", pixels=1, weights_sha256="feed")
    save_pixel_model(tmp_path / "plain.onnx", about, weight)
    save_pixel_model(tmp_path / "calm.onnx", dataclasses.replace(about, calibration=calibration), weight)
    for name in ("plain", "calm"):
        cwsam("predict", run.scene, "-c", f"{name}.onnx", "-o", f"{name}.tif", "--confidence")
    np.testing.assert_array_equal(read("plain.tif"), read("calm.tif"))
    np.testing.assert_array_equal(read("plain.confidence.tif"), read("calm.confidence.tif"))


def test_a_dry_run_estimates_with_an_exported_model(cwsam: Cwsam, run: Any, model: Path) -> None:
    assert "of memory" in cwsam("predict", run.scene, "-c", model, "--dry-run").stdout


@pytest.mark.parametrize(
    "options",
    [("--experts",), ("--compile",), ("--gpus", 2), ("--device", "cuda"), ("--precision", "bf16")],
    ids=lambda options: options[0],
)
def test_options_that_need_the_checkpoint_are_refused(
    refused: Callable[..., str], run: Any, model: Path, options: tuple[Any, ...]
) -> None:
    message = refused(
        2, "predict", run.scene, "-c", model, "-o", "map.tif", *options, names=f"{options[0]}: onnxruntime"
    )
    assert "checkpoint" in message


def test_workers_of_this_machine_do_not_run_an_exported_model_but_parts_do(
    cwsam: Cwsam, refused: Callable[..., str], run: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("predict", run.scene, "-c", model, "-o", "map.tif")
    refused(2, *common, "--scheduler", "local", names="--scheduler local: onnxruntime")
    for rank in (0, 1):
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, {"RANK": f"{rank}", "WORLD_SIZE": "2"}.get(name, "1"))
        cwsam(*common)
    assert Path("map.tif").exists()


def test_info_tells_of_an_exported_model_the_same_as_of_its_checkpoint(cwsam: Cwsam, run: Any, model: Path) -> None:
    of_checkpoint, of_export = (json.loads(cwsam("info", path, "--json").stdout) for path in (run.checkpoint, model))
    assert of_export["facts"].pop("exported from") == "weights feed"
    assert of_export | {"path": ""} == of_checkpoint | {"path": ""}


# Cards and items


def test_a_card_and_an_item_are_written_beside_the_weights(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    more = ("--card", "README.md", "--stac", "catalog/item.json")
    told = json.loads(cwsam("export", run.checkpoint, "-o", "model.safetensors", *more, "--json").stdout)
    assert told["difference"] is None
    assert told["bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert (tmp_path / "README.md").read_text("utf-8").startswith("---\nlibrary_name: cwsam\n")
    (asset,) = json.loads((tmp_path / "catalog/item.json").read_text("utf-8"))["assets"].values()
    assert asset["href"] == "../model.safetensors"
    assert asset["file:checksum"] == "1220" + sha256(tmp_path / "model.safetensors")


@pytest.mark.slow
def test_a_card_has_the_ground_of_tile_and_the_scores_of_eval(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    cwsam("eval", "-c", run.checkpoint, "--data", run.dataset, "-o", "report")
    cwsam("export", run.checkpoint, "-o", "model.safetensors", "--card", "README.md", "--report", "report")
    card = (tmp_path / "README.md").read_text("utf-8")
    measured = json.loads((tmp_path / "report/metrics.json").read_text("utf-8"))
    assert f"| accuracy | {measured['accuracy']:.3f} | " in card and measured["summary"] in card
    assert "Bounding box (WGS 84): west -79." in card and "unknown" not in card


# What is refused


def test_an_unknown_ending_is_refused(refused: Callable[..., str], run: Any) -> None:
    refused(2, "export", run.checkpoint, "-o", "model.h5", names="`model.h5` does not end in")


def test_an_existing_output_is_refused(refused: Callable[..., str], run: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    refused(2, "export", run.checkpoint, "-o", "model.onnx", names="`model.onnx` exists already")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--card", "card.txt"), "--card `card.txt` does not end in .md"),
        (("--stac", "item.txt"), "--stac `item.txt` does not end in .json"),
        (("--report", "report"), "--report: only the card"),
        (("--card", "there.md"), "`there.md` exists already"),
    ],
)
def test_options_that_cannot_be_served_are_refused(
    refused: Callable[..., str], run: Any, tmp_path: Path, options: tuple[str, ...], names: str
) -> None:
    (tmp_path / "there.md").touch()
    refused(2, "export", run.checkpoint, "-o", "model.safetensors", *options, names=names)


def test_a_missing_checkpoint_is_refused(refused: Callable[..., str]) -> None:
    refused(5, "export", "gone.pth", "-o", "model.onnx", names="`gone.pth`")


def test_without_onnx_the_hint_names_the_extra(
    refused: Callable[..., str], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    message = refused(6, "export", run.checkpoint, "-o", "model.onnx", names="needs onnx, onnxscript, onnxruntime")
    assert "pip install 'cwsam[export]'" in message


# The real thing


@pytest.fixture(scope="module")
def mixture(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated checkpoint with experts, adapters and a frequency prompt, and a class that is never predicted."""
    about = load_checkpoint(run.checkpoint)
    arch = dataclasses.replace(
        about.architecture,
        embed_dim=32,
        adaptor="adaptor",
        input_type="fft",
        moe_num_expert_groups=2,
        moe_experts_per_group=3,
        moe_k_experts=2,
        moe_start_layer_index=0,
    )
    torch.manual_seed(3)
    weights = {name: tensor * 1.5 for name, tensor in ClassWiseSam(arch).state_dict().items()}
    classes = (dataclasses.replace(about.taxonomy.classes[0], code=0), *about.taxonomy.classes[1:])
    path = tmp_path_factory.mktemp("mixture") / "model.pth"
    save_checkpoint(
        dataclasses.replace(
            about,
            weights=weights,
            architecture=arch,
            taxonomy=dataclasses.replace(about.taxonomy, classes=classes),
            ignore_background=True,
            calibration=Calibration(temperature=1.5, data="d", pixels=1, weights_sha256=hash_weights(weights)),
        ),
        path,
    )
    return path


@pytest.mark.slow
def test_an_exported_mixture_makes_the_map_of_its_checkpoint(
    cwsam: Cwsam, run: Any, mixture: Path, tmp_path: Path
) -> None:
    told = json.loads(cwsam("export", mixture, "-o", "model.onnx", "--json").stdout)
    assert told["difference"] < 1e-5
    about = load_checkpoint(mixture)
    assert told["weights_sha256"] == about.calibration.weights_sha256

    raw = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(raw, full_check=True)
    assert raw.ir_version == 9 and [(entry.domain, entry.version) for entry in raw.opset_import] == [("", 18)]
    assert b"cwsam_cli" not in (tmp_path / "model.onnx").read_bytes()  # no lines of the source

    session = open_session(tmp_path / "model.onnx")
    size = about.architecture.inp_size
    assert [(each.name, each.shape) for each in session.get_inputs()] == [(INPUT, [1, 3, size, size])]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [(OUTPUT, [1, 3, size, size])]
    pixels = read(run.scene)[None, :, :size, :size].astype(np.float32)
    (found,) = session.run(None, {INPUT: pixels / DIVISOR})
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found[:, 0] == 0).all()

    for name, model in (("torch", mixture), ("onnx", "model.onnx")):
        cwsam("predict", run.scene, "-c", model, "-o", f"{name}.tif", "--probabilities", "--precision", "fp32")
    classes = [read(f"{name}.tif") for name in ("torch", "onnx")]
    assert (classes[0] == classes[1]).mean() >= 0.999
    assert len(np.unique(classes[0])) == 2
    shares = [read(f"{name}.probabilities.tif").astype(int) for name in ("torch", "onnx")]
    assert np.abs(shares[0] - shares[1]).max() <= 1
