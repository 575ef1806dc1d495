"""The main configuration, scaled down: three stages, killed in each, on one process and on two, from three sources."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from cwsam_cli.train.state import find_state
from tests.cli.conftest import striped, succeed, write
from tests.cli.runs import PATIENCE_S, finish, history, kill, load, options, start_until
from tests.states import state_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SHAPE: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 4,
    "global_attn_indexes": [1, 3],
    "window_size": 4,
    "patch_size": 8,
    "prompt_embed_dim": 32,
    "decoder_mlp_dim": 32,
}
COMMON = (
    "model.args.inp_size=64",
    "model.args.num_classes=null",
    "training_settings.workers=0",
    "optimizer.args.lr=6e-3",
    "epoch_val=1",
    *(f"{split}_dataset.wrapper.args.inp_size=64" for split in ("train", "val", "test")),
    *(f"{split}_dataset.dataset.args.classes=null" for split in ("train", "val", "test")),
    *(f"model.args.encoder_mode.{key}={value}" for key, value in SHAPE.items()),
)
STAGES = "stages=[{name: integrate, epochs: 1}, {name: adapt, epochs: 1}, {name: finetune, epochs: 1, lr_factor: 0.2}]"
LARGE = (
    *COMMON,
    STAGES,
    "model.args.encoder_mode.moe_start_layer_index=2",
    "training_settings.grad_accum_steps=2",
    "training_settings.warmup_steps=1",
    "training_settings.save_every=1 steps",
)
"""10b_fsdp's own settings but for sizes and accumulation: a step of 2 tiles on one process, of 4 on two."""


class Ground(NamedTuple):
    """A dataset, the scene it was cut from, and what to grow from."""

    scene: Path
    dataset: Path
    sources: dict[str, Path]


def train(config: str, output: Path, dataset: Path, settings: tuple[str, ...], *more: object) -> list[str]:
    words: list[object] = [sys.executable, "-m", "cwsam_cli", "train", "--config", config, *options(*settings)]
    return [str(word) for word in (*words, "--data", dataset, "-o", output, "--device", "cpu", *more)]


def kill_in_stage(words: list[str], output: Path, number: int) -> None:
    """Kill a run and all its processes within a stage, counted from 0, of which a step's state is whole."""

    def is_within() -> bool:
        with suppress(OSError):  # it is being replaced
            progress = json.loads((output / "last" / "state.json").read_text("utf-8"))["progress"]
            return bool(progress["epoch"] == number and progress["samples"])
        return False

    kill(start_until(words, is_within))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Tiles of stripes; a 1.5B-like and a 3B-like model trained on them, and a file with Segment Anything's keys."""
    folder = tmp_path_factory.mktemp("headline")
    image, codes = striped(192, 256, classes=4)
    scene, labels = write(folder / "scene.tif", image), write(folder / "labels.tif", codes, nodata=255)
    succeed("tile", scene, "--labels", labels, "-o", folder / "dataset", "--size", 64)
    sources = {}
    for name, config, first in (("1dot5b", "XinTong/1dot5B", 3), ("3b", "XinTong/3b", 1)):
        settings = (
            *COMMON,
            f"model.args.encoder_mode.moe_start_layer_index={first}",
            "sam_checkpoint=null",
            "optimizer.name=adamw",
            "training_settings.precision=fp32",
            "epoch_max=2",
        )
        finish(train(config, folder / name, folder / "dataset", settings))
        sources[name] = folder / name / "model_epoch_last.pth"
    dense = load(sources["1dot5b"])["weights"]
    official = {}
    for name, value in dense.items():
        expert = name.replace(".groups.0.lin1_", ".lin1.").replace(".groups.0.lin2_", ".lin2.")
        if name.startswith("image_encoder.") and not any(part in name for part in ("router", "adapter", "prompt")):
            official[expert] = (value[0] if expert != name else value).clone()
    generator = torch.Generator().manual_seed(0)
    official["mask_decoder.mask_tokens.weight"] = torch.randn(4, SHAPE["prompt_embed_dim"], generator=generator)
    torch.save(official, folder / "sam.pth")
    return Ground(scene, folder / "dataset", sources | {"sam": folder / "sam.pth"})


def base_group(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if "image_encoder" in name and ".mlp.groups.0." in name}


def source_group(source: Path, name: str) -> torch.Tensor:
    """What group 0 was grown from: the source's experts of the block, or copies of its MLP."""
    weights = load(source)
    weights = weights.get("weights", weights)
    if name in weights:
        return weights[name]
    dense = weights[name.replace(".groups.0.lin1_", ".lin1.").replace(".groups.0.lin2_", ".lin2.")]
    return dense[None].expand(16, *dense.shape)


def check(output: Path, source: Path) -> None:
    """Group 0 is what it was grown from, bit for bit, and the loss fell."""
    saved = load(output / "model_epoch_last.pth")
    kept = base_group(saved["weights"])
    assert len(kept) == 2 * 4
    assert [name for name, value in kept.items() if not torch.equal(value, source_group(source, name))] == []
    rows = history(output)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_the_headline_run_killed_in_each_stage_ends_like_one_that_was_not(ground: Ground, tmp_path: Path) -> None:
    source = ground.sources["1dot5b"]
    settings = (*LARGE, f"sam_checkpoint={source}")
    told = finish(train("XinTong/10b_fsdp", tmp_path / "whole", ground.dataset, settings, "--gpus", 2))
    assert [line.partition(":")[0] for line in told.splitlines() if "parameters learn" in line] == [
        "integrate",
        "adapt",
        "finetune",
    ]
    check(tmp_path / "whole", source)
    words = train("XinTong/10b_fsdp", tmp_path / "killed", ground.dataset, settings, "--gpus", 2)
    for number in range(3):
        kill_in_stage(words if not number else [*words, "--resume"], tmp_path / "killed", number)
    finish([*words, "--resume"])
    check(tmp_path / "killed", source)
    whole, killed = (state_tensors(tmp_path / name / "last") for name in ("whole", "killed"))
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    model = tmp_path / "killed" / "model_epoch_best.pth"
    measured: Any = succeed("eval", "-c", model, "--data", ground.dataset, "--split", "val", "--json").stdout
    best = max(row["val/mIoU"] for row in history(tmp_path / "killed"))
    assert json.loads(measured)["mean_iou"] == pytest.approx(best, abs=0.03)  # float32 there, bf16 in training
    succeed("predict", ground.scene, "-c", model, "-o", tmp_path / "map.tif")
    assert (tmp_path / "map.tif").exists()


@pytest.mark.parametrize(
    ("name", "precision", "before", "after"),
    [("1dot5b", "fp16", 2, 1), ("sam", "bf16", 1, 2), ("3b", "bf16", 1, 1)],
)
def test_the_headline_run_grows_from_any_source_and_goes_on_with_another_number_of_processes(
    ground: Ground, tmp_path: Path, name: str, precision: str, before: int, after: int
) -> None:
    source = ground.sources[name]
    settings = (*LARGE, f"sam_checkpoint={source}", f"training_settings.precision={precision}")
    words = train("XinTong/10b_fsdp", tmp_path / "run", ground.dataset, settings)
    kill_in_stage([*words, "--gpus", str(before)], tmp_path / "run", 1)
    assert find_state(tmp_path / "run" / "last") is not None
    told = finish([*words, "--gpus", str(after), "--resume"])
    assert "resuming from" in told
    check(tmp_path / "run", source)


def test_sigterm_to_all_processes_saves_and_ends_as_ctrl_c_does(ground: Ground, tmp_path: Path) -> None:
    """As SLURM sends it before a job's time is over."""
    settings = (*LARGE, f"sam_checkpoint={ground.sources['1dot5b']}", "training_settings.save_every=1h")
    words = train("XinTong/10b_fsdp", tmp_path / "run", ground.dataset, settings, "--gpus", 2)
    process = start_until(words, (tmp_path / "run" / "history.jsonl").exists)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr
    assert "SIGTERM in epoch" in stderr and "Traceback" not in stderr
    assert find_state(tmp_path / "run" / "last") is not None
