"""A checkpoint says all that prediction must know, and a foreign file is told apart."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cwsam_cli.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cwsam_cli.checkpoints.newest import newest_checkpoint
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.errors import CheckpointError
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.taxonomy import LandCoverClass, Taxonomy
from tests.small import small

ARCHITECTURE = small(num_bands=2, num_classes=3, detail_stem=True)
TAXONOMY = Taxonomy(
    classes=(
        LandCoverClass(code=40, name="水体", color="#0000ff"),
        LandCoverClass(code=7, name="乔木林地", color="#008000"),
        LandCoverClass(code=0, name="background", color="#000000"),
    ),
    name="土地覆盖",
    source="测试",
    unlabelled=(200, 201),
)


def _checkpoint(**changes: Any) -> Checkpoint:
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        weights=ClassWiseSam(ARCHITECTURE).state_dict(),
        architecture=ARCHITECTURE,
        taxonomy=TAXONOMY,
        bands=(Band(name="近红外", mean=1234.5, std=0.25), Band(name="red", mean=-1e-9, std=3e7)),
        dtype="uint16",
        gsd_m=28.5,
        ignore_background=True,
        epoch=12,
        metrics={"mean_iou": 0.125, "accuracy": 1 / 3},
    )
    return dataclasses.replace(checkpoint, **changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model_epoch_best.pth"
    save_checkpoint(_checkpoint(), path)
    return path


@pytest.mark.parametrize("changes", [{}, {"gsd_m": None, "ignore_background": False, "metrics": {}, "epoch": 0}])
def test_what_was_saved_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    path, checkpoint = tmp_path / "model.pth", _checkpoint(**changes)
    save_checkpoint(checkpoint, path)
    loaded = load_checkpoint(path)
    for field in dataclasses.fields(Checkpoint):
        if field.name != "weights":
            assert getattr(loaded, field.name) == getattr(checkpoint, field.name), field.name
    assert list(loaded.weights) == list(checkpoint.weights)
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in checkpoint.weights.items())


def test_the_loaded_model_computes_what_the_saved_one_did(saved: Path) -> None:
    model = ClassWiseSam(ARCHITECTURE).eval()
    model.load_state_dict(_checkpoint().weights)
    image = torch.randn(1, 2, 32, 32)
    loaded = load_checkpoint(saved).model()
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(image), model(image))


def test_torch_reads_a_checkpoint_without_running_code(saved: Path) -> None:
    raw = torch.load(saved, weights_only=True)
    assert raw["taxonomy"]["classes"][0] == {"code": 40, "name": "水体", "color": "#0000ff"}
    assert raw["architecture"]["embed_dim"] == 16
    assert raw["bands"][0]["name"] == "近红外"
    assert raw["weights"]["image_encoder.pos_embed"].shape == (1, 4, 4, 16)


def test_saving_replaces_an_older_file_and_leaves_nothing_else(saved: Path) -> None:
    save_checkpoint(_checkpoint(epoch=99), saved)
    assert load_checkpoint(saved).epoch == 99
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_loaded_checkpoint_survives_that_its_file_is_replaced(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    other = {name: torch.full_like(tensor, 7) for name, tensor in _checkpoint().weights.items()}
    try:
        save_checkpoint(_checkpoint(weights=other), saved)
    except PermissionError:
        pytest.skip("this system replaces no file that is mapped")
    assert torch.equal(loaded.weights["image_encoder.pos_embed"], _checkpoint().weights["image_encoder.pos_embed"])


def test_a_missing_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint `gone\.pth`") as caught:
        load_checkpoint(Path("gone.pth"))
    assert (caught.value.exit_code, "cwsam train" in caught.value.hint) == (5, True)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04" + bytes(200)])
def test_garbage_is_refused_with_a_hint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pth` is not a readable checkpoint") as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 5
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_half_a_checkpoint_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint") as caught:
        load_checkpoint(saved)
    assert "incomplete" in caught.value.hint


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"format": "cwsam checkpoint", "version": 1, "weights": tmp_path}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "foreign",
    [
        {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)},
        [torch.zeros(1)],
        torch.zeros(1),
        {"format": "another", "version": 1},
        {"format": "cwsam checkpoint", "version": 0},
    ],
)
def test_a_file_of_another_program_or_version_is_refused(tmp_path: Path, foreign: object) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError, match=r"sam_vit_b_01ec64\.pth` is not a checkpoint of this version") as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 5
    assert caught.value.hint


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused_when_they_are_used(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    checkpoint = _checkpoint()
    name, tensor = next(item for item in checkpoint.weights.items() if item[1].ndim > 1)
    checkpoint.weights[name] = tensor.to(dtype)
    assert checkpoint.finite_weight(name).dtype == dtype
    checkpoint.weights[name].view(-1)[-1] = value
    save_checkpoint(checkpoint, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=f"weights.{name}` of the checkpoint has NaN or infinite"):
        load_checkpoint(tmp_path / "model.pth").model()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights": None}, "weights"),
        ({"weights": {"neck": "text"}}, "weights.neck"),
        ({"gsd_m": "thirty"}, "gsd_m"),
        ({"gsd_m": math.nan}, "gsd_m"),
        ({"gsd_m": -30.0}, "gsd_m"),
        ({"epoch": "last"}, "epoch"),
        ({"epoch": -1}, "epoch"),
        ({"metrics": 3}, "metrics"),
        ({"metrics": {"mean_iou": math.nan}}, "metrics.mean_iou"),
        ({"dtype": None}, "dtype"),
        ({"dtype": "object"}, "dtype"),
        ({"dtype": "no dtype"}, "dtype"),
        ({"weights": {"neck": torch.eye(3).to_sparse()}}, "weights.neck"),
        ({"weights": {"neck": torch.zeros(1).expand(10**12)}}, "weights.neck"),
        ({"ignore_background": "perhaps"}, "ignore_background"),
        ({"taxonomy": None}, "taxonomy"),
        ({"taxonomy": {"classes": [1]}}, "taxonomy.classes.0"),
        ({"architecture": {"embed_dim": "wide"}}, "architecture"),
        ({"bands": None}, "bands"),
        ({"bands": ({"name": "red", "mean": "bright", "std": 1.0},) * 2}, "bands.0.mean"),
        ({"bands": ({"name": "red", "mean": math.nan, "std": 1.0},) * 2}, "bands.0"),
        ({"bands": ({"name": "red", "mean": 0.0, "std": math.inf},) * 2}, "bands.0"),
        ({"bands": ({"name": "red", "mean": 0.0, "std": 0.0},) * 2}, "bands.0"),
        ({"bands": ({"name": "red", "mean": 0.0, "std": 1.0},)}, "architecture.num_bands"),
    ],
)
def test_an_edited_field_is_refused_by_its_name(saved: Path, changes: dict[str, Any], named: str) -> None:
    torch.save(torch.load(saved, weights_only=True) | changes, saved)
    with pytest.raises(CheckpointError, match=f"`{named}[^`]*` in `{saved}`") as caught:
        load_checkpoint(saved)
    assert caught.value.hint


def test_an_architecture_of_more_blocks_than_tensors_is_refused_before_it_is_built(saved: Path) -> None:
    raw = torch.load(saved, weights_only=True)
    torch.save(raw | {"architecture": raw["architecture"] | {"depth": 1_000_000}}, saved)
    with pytest.raises(CheckpointError, match=r"`architecture\.depth`"):
        load_checkpoint(saved)
    torch.save(raw | {"architecture": raw["architecture"] | {"embed_dim": 2**62}}, saved)
    with pytest.raises(CheckpointError, match="embed_dim"):
        load_checkpoint(saved)


def test_the_hint_names_the_newest_best_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, run in ((300, "a"), (100, "b"), (200, "c")):
        path = Path("save") / run / "model_epoch_best.pth"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    (Path("save") / "a" / "model_epoch_last.pth").touch()
    newest = Path("save") / "b" / "model_epoch_best.pth"
    assert newest_checkpoint() == f"the newest here: -c {newest}"


def test_without_a_run_the_hint_is_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert newest_checkpoint().startswith("train one first: cwsam train")
