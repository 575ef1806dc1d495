"""A run of `cwsam train`: what lies in its folder, and that it learns."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner, Result

from cwsam_cli.learning.optim import learning_rate
from cwsam_cli.main import app
from tests.cli.runs import EXPERTS, history, load, options, same_weights, weights
from tests.states import state_tensors

Cwsam = Callable[..., Result]


# The run's folder


def test_a_run_leaves_its_checkpoints_configuration_and_events(run: Any) -> None:
    names = {path.name for path in run.folder.iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert names == {"model_epoch_best.pth", "model_epoch_last.pth", "config.yaml", "history.jsonl", "last"}
    assert len([*run.folder.glob("events.out.tfevents.*")]) == 1
    assert {"state.json", ".metadata"} < {path.name for path in (run.folder / "last").iterdir()}


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_is_all_that_predict_needs_and_runs_no_code(run: Any, name: str) -> None:
    checkpoint = load(run.folder / f"model_epoch_{name}.pth")
    manifest = yaml.safe_load((run.dataset / "dataset.yaml").read_text("utf-8"))
    assert [dict(entry) for entry in checkpoint["taxonomy"]["classes"]] == manifest["taxonomy"]["classes"]
    assert [dict(band) for band in checkpoint["bands"]] == manifest["bands"]
    assert checkpoint["gsd_m"] == 30
    assert checkpoint["architecture"]["inp_size"] == 32
    assert all(torch.isfinite(value).all() for value in weights(checkpoint))


def test_best_is_the_epoch_of_the_highest_validation_miou(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    every = ("--set", "epoch_max=5", "--set", "epoch_val=1", "--set", "epoch_save=1")
    result = json.loads(cwsam("train", *small, *every, "--data", run.dataset, "-o", "run", "--json").stdout)
    scores = {n: load(tmp_path / "run" / f"model_epoch_{n}.pth")["metrics"]["mean_iou"] for n in range(1, 6)}
    best = max(scores, key=lambda epoch: scores[epoch])
    assert result["best_epoch"] == best
    assert result["mean_iou"] == scores[best]
    assert same_weights(tmp_path / "run" / "model_epoch_best.pth", tmp_path / "run" / f"model_epoch_{best}.pth")
    assert same_weights(tmp_path / "run" / "model_epoch_last.pth", tmp_path / "run" / "model_epoch_5.pth")
    assert load(tmp_path / "run" / "model_epoch_last.pth")["epoch"] == 5


def test_the_validation_score_is_what_eval_measures(cwsam: Cwsam, run: Any) -> None:
    told = load(run.checkpoint)["metrics"]
    common = ("eval", "-c", run.checkpoint, "--data", run.dataset, "--split", "val", "--json")
    measured = json.loads(cwsam(*common).stdout)
    assert told["mean_iou"] == pytest.approx(measured["mean_iou"], abs=1e-3)
    assert told["accuracy"] == pytest.approx(measured["accuracy"], abs=1e-3)


def test_the_events_show_the_run_in_tensorboard(run: Any) -> None:
    events = EventAccumulator(str(run.folder))
    events.Reload()
    scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    assert [name for name in scalars if "loss" in name.lower()]
    miou = [name for name in scalars if "iou" in name.lower()]
    assert miou
    best = max(event.value for event in scalars[miou[0]])
    assert best == pytest.approx(load(run.checkpoint)["metrics"]["mean_iou"], abs=1e-6)


def test_the_history_holds_the_events_figures(run: Any) -> None:
    events = EventAccumulator(str(run.folder))
    events.Reload()
    rows = history(run.folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    found = {(row["epoch"], name): value for row in rows for name, value in row.items() if name != "epoch"}
    expected = {(event.step, name): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_history_tells_of_loss_parts_scores_rates_speed_and_memory(run: Any) -> None:
    rows = history(run.folder)
    every = {"train/loss", "train/ce", "train/dice", "train/gradient_norm", "train/lr", "train/images_per_s"}
    every |= {"memory/peak_resident"}
    scores = {"val/mIoU", "val/accuracy", "val_iou/class 1", "val_iou/class 2", "val_iou/class 3"}
    for row in rows:
        assert every <= row.keys()
        assert (scores <= row.keys()) is (row["epoch"] in (3, 6))
        assert row["train/ce"] + row["train/dice"] == pytest.approx(row["train/loss"])
        assert min(row[name] for name in every) > 0
    best = max(row["val/mIoU"] for row in rows if "val/mIoU" in row)
    assert best == load(run.checkpoint)["metrics"]["mean_iou"]


def test_the_history_tells_of_experts_loads(cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path) -> None:
    experts = options("epoch_max=1", *(f"model.args.encoder_mode.{expert}" for expert in EXPERTS))
    cwsam("train", *small, *experts, "--data", run.dataset, "-o", "run")
    (row,) = history(tmp_path / "run")
    layer = "image_encoder.blocks.0.mlp"
    loads = [row[f"load/{layer}/group_{group}"] for group in range(2)]
    assert sum(loads) == pytest.approx(1)
    for group in range(2):
        own = [row[f"load/{layer}/group_{group}/expert_{expert}"] for expert in range(2)]
        assert sum(own) == pytest.approx(loads[group])
    assert 0 < row[f"routing_entropy/{layer}"] <= math.log(4) + 1e-6
    assert row["train/routing"] > 0


def test_a_run_ends_with_a_table(cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path) -> None:
    result = cwsam("train", *small, *options("epoch_max=2", "epoch_val=1"), "--data", run.dataset, "-o", "run")
    lines = result.stderr.splitlines()
    (heading,) = [number for number, line in enumerate(lines) if line.split()[:3] == ["epoch", "loss", "mIoU"]]
    rows = history(tmp_path / "run")
    for line, row in zip(lines[heading + 1 : heading + 3], rows, strict=True):
        assert line.split()[:3] == [str(row["epoch"]), f"{row['train/loss']:.3f}", f"{row['val/mIoU']:.3f}"]


def test_rates_follow_the_schedule_over_the_whole_run(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    settings = options(
        "epoch_max=4",
        "train_dataset.batch_size=5",
        "training_settings.grad_accum_steps=2",
        "training_settings.warmup_steps=2",
        "stages=[{name: adapt, epochs: 2}, {name: finetune, epochs: 2, lr_factor: 0.25}]",
    )
    cwsam("train", *small, *settings, "--data", run.dataset, "-o", "run")
    steps = math.ceil(len([*(run.dataset / "images" / "train").iterdir()]) / 10)
    expected = [
        learning_rate(epoch * steps - 1, 4 * steps, lr=1e-3, lr_min=1e-5, warmup=2) * (1 if epoch < 3 else 0.25)
        for epoch in range(1, 5)
    ]  # of the last step of each epoch
    assert [row["train/lr"] for row in history(tmp_path / "run")] == pytest.approx(expected)


def test_only_the_last_numbered_checkpoints_are_kept(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    settings = options("epoch_max=7", "epoch_val=7", "epoch_save=2", "training_settings.keep=2")
    cwsam("train", *small, *settings, "--data", run.dataset, "-o", "run")
    names = {path.name for path in (tmp_path / "run").glob("*.pth")}
    assert names == {f"model_epoch_{name}.pth" for name in (4, 6, "best", "last")}
    assert load(tmp_path / "run" / "model_epoch_4.pth")["epoch"] == 4
    settings = options("epoch_max=9", "epoch_val=9", "epoch_save=3", "training_settings.keep=2")
    cwsam("train", *small, *settings, "--data", run.dataset, "-o", "run", "--resume")
    assert {path.name for path in (tmp_path / "run").glob("model_epoch_?.pth")} == {
        "model_epoch_6.pth",
        "model_epoch_9.pth",
    }


def test_averages_are_what_is_validated_and_saved(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    settings = options("epoch_max=2", "epoch_val=1", "epoch_save=2", "training_settings.ema=0.9")
    cwsam("train", *small, *settings, "--data", run.dataset, "-o", "run")
    folder = tmp_path / "run"
    kept = state_tensors(folder / "last")
    assert {name.partition("/")[0] for name in kept} == {"model", "average", "optimizer"}
    averages = {name.removeprefix("average/") for name in kept if name.startswith("average/")}
    for file in ("model_epoch_last.pth", "model_epoch_2.pth"):
        saved = load(folder / file)["weights"]
        assert averages < saved.keys()
        assert all(torch.equal(saved[name], kept[f"average/{name}"]) for name in averages)
        assert not any(torch.equal(saved[name], kept[f"model/{name}"]) for name in averages)
    common = ("eval", "-c", folder / "model_epoch_last.pth", "--data", run.dataset, "--split", "val", "--json")
    measured = json.loads(cwsam(*common).stdout)
    assert history(folder)[-1]["val/mIoU"] == pytest.approx(measured["mean_iou"], abs=1e-6)


def test_the_configuration_kept_starts_the_same_run_again(
    cwsam: Cwsam, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = yaml.safe_load((run.folder / "config.yaml").read_text("utf-8"))
    assert kept["epoch_max"] == 6 and kept["model"]["args"]["inp_size"] == 32
    shutil.copytree(run.dataset, tmp_path / "dataset")
    cwsam("train", "--config", run.folder / "config.yaml", "--data", "dataset", "-o", "again")
    assert same_weights(run.folder / "model_epoch_last.pth", tmp_path / "again" / "model_epoch_last.pth")


def test_without_an_output_the_run_lands_in_save(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    cwsam("train", *small, "--set", "epoch_max=1", "--data", run.dataset)
    (best,) = tmp_path.glob("save/*/model_epoch_best.pth")
    assert best.parent.name.startswith("tiny-")
    # ... and `predict` without -c offers it
    result = CliRunner().invoke(app, ["predict", str(run.scene), "-o", "map.tif"])
    assert result.exit_code == 2
    assert str(best.relative_to(tmp_path)) in result.stderr


def test_json_is_one_object_and_the_rest_goes_to_stderr(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    result = cwsam("train", *small, "--set", "epoch_max=2", "--data", run.dataset, "-o", "run", "--json")
    told = json.loads(result.stdout)
    assert Path(told["best"]).samefile(tmp_path / "run" / "model_epoch_best.pth")
    assert told["epochs"] == 2
    assert "epoch 2" in result.stderr


# Learning


def test_the_model_learns_stripes(cwsam: Cwsam, run: Any, tmp_path: Path) -> None:
    shape = "{embed_dim: 48, depth: 2, num_heads: 2, global_attn_indexes: [1], prompt_embed_dim: 32, "
    shape += "moe_num_expert_groups: 0}"
    settings = ["model.args.inp_size=32", f"model.args.encoder_mode={shape}", "epoch_max=15", "epoch_val=15"]
    settings += ["optimizer.args.lr=3e-3"]
    pairs = [word for setting in settings for word in ("--set", setting)]
    common = ("train", "--config", "tiny", *pairs, "--data", run.dataset, "-o", "run", "--json")
    assert json.loads(cwsam(*common).stdout)["accuracy"] > 0.5  # guessing: 0.36


@pytest.mark.parametrize("loss", ["ce", "ce+dice", "ce+iou", "iou", "ce+lovasz", "focal"])
def test_every_loss_trains(cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path, loss: str) -> None:
    cwsam("train", *small, "--set", f"model.args.loss={loss}", "--set", "epoch_max=1", "--data", run.dataset, "-o", "r")
    assert all(torch.isfinite(value).all() for value in weights(load(tmp_path / "r" / "model_epoch_last.pth")))


@pytest.mark.parametrize(
    "setting",
    [
        "training_settings.use_bf16=true",
        "training_settings.precision=bf16",
        "training_settings.grad_accum_steps=3",
        "training_settings.warmup_steps=0",
        "training_settings.precision=fp16",
        "training_settings.activation_checkpointing=true",
        "training_settings.ema=0.99",
        "training_settings.workers=2",
        "model.args.encoder_mode.use_checkpoint=true",
        "model.args.label_smoothing=0.1",
        "model.args.loss_weight=[1, 2, 0.5]",
        "model.args.loss_weight=auto",
        "train_dataset.sampler=balanced",
        "optimizer.name=adamw8bit",
        "optimizer.args.lr_factors={encoder: 0.1, decoder: 2}",
        "train_dataset.wrapper.args.augment=false",
        "optimizer.args.lr=2e-4",
        "train_dataset.batch_size=64",
        "train_dataset.batch_size=1",
        "model.args.inp_size=48",
        "model.args.inp_size=16",
        "model.args.encoder_mode.patch_size=4",
        "model.args.encoder_mode.patch_size=16",
        "model.args.encoder_mode.detail_stem=false",
    ],
)
def test_settings_that_may_be_chosen_train(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path, setting: str
) -> None:
    cwsam("train", *small, "--set", "epoch_max=1", "--set", setting, "--data", run.dataset, "-o", "run")
    checkpoint = load(tmp_path / "run" / "model_epoch_last.pth")
    assert all(torch.isfinite(value).all() for value in weights(checkpoint))
    assert all(value.dtype == torch.float32 for value in weights(checkpoint))


def test_a_number_that_yaml_reads_as_a_string_is_a_number(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    cwsam(*("train", *small, "--data", run.dataset, "-o", "run"), *("--set", "epoch_max=1", "--set", "lr_min=2e-6"))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text("utf-8"))["lr_min"] == 2e-6


def test_the_same_seed_trains_the_same_model_and_another_seed_another(
    cwsam: Cwsam, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    for name, seed in (("once", 1), ("again", 1), ("other", 2)):
        settings = ("--set", "epoch_max=2", "--set", f"training_settings.seed={seed}")
        cwsam("train", *small, *settings, "--data", run.dataset, "-o", name)
    once, again, other = (tmp_path / name / "model_epoch_last.pth" for name in ("once", "again", "other"))
    assert same_weights(once, again)
    assert not same_weights(once, other)


def test_unlabelled_and_nodata_pixels_train_nothing(
    cwsam: Cwsam, small: tuple[str, ...], make_raster: Any, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(1, 255, (3, 96, 128)).astype(np.float32)
    codes = (np.indices((96, 128))[1] // 8 % 2 + 1).astype(np.uint8)
    codes[::3] = 255
    image[:, 10:14] = np.nan
    image[:, :, -5:] = -1e38
    scene, labels = make_raster("scene.tif", image, nodata=-1e38), make_raster("labels.tif", codes, nodata=255)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 50, 25, 25)
    result = cwsam("train", *small, "--set", "epoch_max=2", "--data", "dataset", "-o", "run", "--json")
    assert 0 <= json.loads(result.stdout)["accuracy"] <= 1
    assert all(torch.isfinite(value).all() for value in weights(load(tmp_path / "run" / "model_epoch_last.pth")))


def test_ignore_bg_counts_code_0_as_unlabelled(
    cwsam: Cwsam, small: tuple[str, ...], make_raster: Any, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(1, 255, (3, 96, 128)).astype(np.uint8)
    codes = (np.indices((96, 128))[1] // 8 % 3).astype(np.uint8)
    scene, labels = make_raster("scene.tif", image), make_raster("labels.tif", codes)
    cwsam("tile", scene, "--labels", labels, "-o", "dataset", "--size", 32, "--split", 50, 25, 25)
    ignore = [
        word for name in ("train", "val", "test") for word in ("--set", f"{name}_dataset.dataset.args.ignore_bg=true")
    ]
    cwsam("train", *small, *ignore, "--set", "epoch_max=1", "--data", "dataset", "-o", "run")
    best = tmp_path / "run" / "model_epoch_best.pth"
    told = json.loads(cwsam("eval", "-c", best, "--data", "dataset", "--json").stdout)
    counted = 0
    for path in (tmp_path / "dataset" / "labels" / "test").glob("*.tif"):
        with rasterio.open(path) as source:
            counted += int(np.isin(source.read(1), [1, 2]).sum())
    assert told["pixels"] == counted


def test_a_folder_that_holds_a_run_is_refused(
    refused: Callable[..., str], run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    assert "--resume" in refused(2, "train", *small, "--data", run.dataset, "-o", "run", names="`run` holds a run")


def test_out_of_memory_is_answered_with_what_needs_less_and_where_it_went(
    run: Any, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cwsam_cli.train.pipeline as pipeline

    def overflow(*arguments: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(pipeline, "take_step", overflow)
    words = ("train", *small, "--data", run.dataset, "-o", tmp_path / "run")
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 6
    assert "error: rank 0 (cpu) ran out of memory in epoch 1" in result.stderr
    assert "--set train_dataset.batch_size=4" in result.stderr
    assert "--set training_settings.activation_checkpointing=true" in result.stderr
    assert "activations, batch 8" in result.stderr
    assert "Traceback" not in result.stderr
