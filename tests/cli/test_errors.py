"""Every failure a user can cause: exit code, one sentence that names file or key, a hint, nothing left behind."""

import errno
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import torch
from shapely.geometry import box
from typer.testing import CliRunner

from cwsam_cli.main import app

Refused = Callable[..., str]

SHAPE = (
    "embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [0], prompt_embed_dim: 16, decoder_mlp_dim: 32, "
    "moe_num_expert_groups: 0"
)
WEST, NORTH, PIXEL = 600_000, 4_000_000, 30


def codes_of(value: Any, height: int = 160, width: int = 200, dtype: str = "uint8") -> Any:
    return np.full((height, width), value, dtype)


def polygons(path: Path, column: list[Any], *shapes: Any, crs: str | None = "EPSG:32617") -> Path:
    gpd.GeoDataFrame({"kind": column}, geometry=list(shapes), crs=crs).to_file(path)
    return path


def pixels(left: int, top: int, right: int, bottom: int) -> Any:
    """A box given in pixels of the scene."""
    return box(WEST + left * PIXEL, NORTH - bottom * PIXEL, WEST + right * PIXEL, NORTH - top * PIXEL)


# 2: usage, and outputs that exist


@pytest.mark.parametrize("command", ["tile", "predict", "vectorize"])
def test_a_command_without_its_inputs_says_which_is_missing(misused: Refused, command: str) -> None:
    misused(command, names="Missing argument")


def test_an_unknown_command_or_option_is_a_usage_error(misused: Refused) -> None:
    misused("classify", names="classify")
    misused("tile", "scene.tif", "--lables", "x", "-o", "y", names="--lables")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--overlap", "0.95"), ("--overlap", "-0.1"), ("--batch-size", "0"), ("--batch-size", "many")],
)
def test_predict_refuses_options_out_of_range(misused: Refused, run: Any, option: str, value: str) -> None:
    misused("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif", option, value, names=option)


@pytest.mark.parametrize(("option", "value"), [("--size", "0"), ("--size", "x"), ("--seed", "-1"), ("--overlap", "-1")])
def test_tile_refuses_options_out_of_range(misused: Refused, run: Any, option: str, value: str) -> None:
    misused("tile", run.scene, "--labels", run.labels, "-o", "dataset", option, value, names=option)


def test_tile_refuses_an_overlap_as_large_as_the_tile(refused: Refused, run: Any) -> None:
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset")
    refused(2, *common, "--size", 32, "--overlap", 32, names="overlap")


@pytest.mark.parametrize("shares", [(0, 50, 50), (0, 0, 0), (50, -5, 5)])
def test_tile_refuses_a_split_without_sense(refused: Refused, run: Any, shares: tuple[int, ...]) -> None:
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32)
    refused(2, *common, "--split", *shares, names="split")


def test_eval_refuses_a_split_it_does_not_know(misused: Refused, run: Any) -> None:
    misused("eval", "-c", run.checkpoint, "--data", run.dataset, "--split", "holdout", names="holdout")


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_a_device_that_is_not_here_is_named(refused: Refused, run: Any, device: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("cuda is here")
    common = ("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    refused(2, *common, "--device", device, names=f"`{device}`")


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_predict_starts_no_processes_in_those_of_a_launcher(
    refused: Refused, run: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    common = ("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    assert "--gpus" in refused(2, *common, "--gpus", 2, names="a launcher started 2 processes")


@pytest.mark.parametrize("part", ["0/3", "4/3", "1/0", "3", "x/y", "-1/3"])
def test_predict_refuses_a_part_that_does_not_exist(refused: Refused, run: Any, part: str) -> None:
    refused(2, "predict", run.scene, "-c", run.checkpoint, "-o", "map.tif", "--part", part, names="--part")


def test_predict_refuses_a_part_in_several_processes(refused: Refused, run: Any) -> None:
    common = ("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif")
    refused(2, *common, "--part", "1/2", "--gpus", 2, names="--part is for one process")


def test_each_slurm_task_may_map_a_scene_of_its_own(cwsam: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    cwsam("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif", "--part", "1/1")
    assert Path("map.tif").exists()


def test_existing_outputs_are_not_touched(refused: Refused, run: Any, tmp_path: Path) -> None:
    for name in ("map.tif", "polygons.gpkg", "polygons.shp", "dataset"):
        (tmp_path / name).write_text("mine")
    refused(2, "predict", run.scene, "-c", run.checkpoint, "-o", "map.tif", names="`map.tif` exists")
    refused(2, "vectorize", run.labels, "polygons.gpkg", names="`polygons.gpkg` exists")
    refused(2, "vectorize", run.labels, "polygons.shp", names="`polygons.shp` exists")
    refused(2, "tile", run.scene, "--labels", run.labels, "-o", "dataset", names="`dataset` exists")


def test_an_existing_dataset_is_not_touched(refused: Refused, run: Any, tmp_path: Path) -> None:
    shutil.copytree(run.dataset, tmp_path / "dataset")
    refused(2, "tile", run.scene, "--labels", run.labels, "-o", "dataset", names="`dataset` exists")


def test_overwriting_never_deletes_a_folder_of_other_things(refused: Refused, run: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    refused(2, "tile", run.scene, "--labels", run.labels, "-o", "mine", "--overwrite", names="`mine`")
    refused(2, "predict", run.scene, "-c", run.checkpoint, "-o", "mine", "--overwrite", names="`mine`")


def test_a_failure_under_overwrite_keeps_the_old_output(refused: Refused, run: Any, tmp_path: Path) -> None:
    (tmp_path / "map.tif").write_text("mine")
    (tmp_path / "polygons.gpkg").write_text("mine")
    shutil.copytree(run.dataset, tmp_path / "dataset")
    refused(4, "predict", "gone.tif", "-c", run.checkpoint, "-o", "map.tif", "--overwrite", names="gone.tif")
    refused(4, "vectorize", "gone.tif", "polygons.gpkg", "--overwrite", names="gone.tif")
    refused(4, "tile", run.scene, "--labels", "gone.tif", "-o", "dataset", "--overwrite", names="gone.tif")


def test_a_checkpoint_must_be_named(refused: Refused, run: Any) -> None:
    assert "cwsam train" in refused(2, "predict", run.scene, "-o", "map.tif", names="checkpoint")
    assert "cwsam train" in refused(2, "eval", "--data", run.dataset, names="checkpoint")


def test_the_newest_best_checkpoint_is_offered(refused: Refused, run: Any, tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "older", "oldest"]):
        (tmp_path / "save" / name).mkdir(parents=True)
        best = tmp_path / "save" / name / "model_epoch_best.pth"
        best.write_bytes(b"x")
        os.utime(best, (1_700_000_000 - age, 1_700_000_000 - age))
    (tmp_path / "save" / "newest" / "model_epoch_last.pth").write_bytes(b"x")
    offered = Path("save/newest/model_epoch_best.pth")
    assert str(offered) in refused(2, "predict", run.scene, "-o", "map.tif", names="checkpoint")
    assert str(offered) in refused(2, "eval", "--data", run.dataset, names="checkpoint")


@pytest.mark.parametrize("name", ["polygons.kml", "polygons.tif", "polygons"])
def test_vectorize_tells_the_formats_it_writes(refused: Refused, run: Any, name: str) -> None:
    error = refused(2, "vectorize", run.labels, name, names=f"`{name}`")
    assert ".gpkg" in error and ".shp" in error


def test_polygons_need_their_class_field(refused: Refused, run: Any, tmp_path: Path) -> None:
    labels = polygons(tmp_path / "fields.gpkg", [1], pixels(0, 0, 200, 160))
    error = refused(2, "tile", run.scene, "--labels", labels, "-o", "dataset", names="fields.gpkg")
    assert "--class-field kind" in error


# 3: configuration


@pytest.mark.parametrize("name", ["nowhere", "nowhere.yaml", "folder/nowhere.yaml"])
def test_a_missing_configuration_names_itself_and_the_shipped_ones(refused: Refused, run: Any, name: str) -> None:
    error = refused(3, "train", "--config", name, "--data", run.dataset, "-o", "run", names=f"`{name}`")
    assert "tiny" in error and "vit_b" in error


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "3\n", "", "\x00", "a: b: c\n"])
def test_a_file_that_is_no_configuration_is_named(refused: Refused, run: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    refused(3, "train", "--config", "mine.yaml", "--data", run.dataset, "-o", "run", names="`mine.yaml`")


@pytest.mark.parametrize(
    ("lines", "key", "near"),
    [
        ("epoch_mx: 3", "epoch_mx", "epoch_max"),
        ("optimiser: {name: adamw}", "optimiser", "optimizer"),
        ("model: {arg: {inp_size: 32}}", "model.arg", "args"),
        ("optimizer: {args: {learning_rate: 1}}", "optimizer.args.learning_rate", "lr"),
        ("model: {args: {encoder_mode: {depht: 2}}}", "model.args.encoder_mode.depht", "depth"),
        ("train_dataset: {dataset: {args: {root_path1: x}}}", "train_dataset.dataset.args.root_path1", "root_path_1"),
        ("training_settings: {use_bf_16: true}", "training_settings.use_bf_16", "use_bf16"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    refused: Refused, run: Any, tmp_path: Path, lines: str, key: str, near: str
) -> None:
    (tmp_path / "mine.yaml").write_text(lines)
    error = refused(3, "train", "--config", "mine.yaml", "--data", run.dataset, "-o", "run", names=f"`{key}`")
    assert "`mine.yaml`" in error.split("\n")[0]
    assert near in error.split("hint:")[1]


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("epoch_max: many", "epoch_max"),
        ("epoch_max: true", "epoch_max"),
        ("epoch_max: 2.5", "epoch_max"),
        ("epoch_max: [3]", "epoch_max"),
        ("epoch_max: 0", "epoch_max"),
        ("epoch_val: 0", "epoch_val"),
        ("model: 3", "model"),
        ("model: {args: {inp_size: large}}", "model.args.inp_size"),
        ("model: {args: {loss: hinge}}", "model.args.loss"),
        ("optimizer: {name: sgd}", "optimizer.name"),
        ("optimizer: {args: {lr: true}}", "optimizer.args.lr"),
        ("optimizer: {args: {lr: 2e-4x}}", "optimizer.args.lr"),
        ("optimizer: {args: {lr: -1}}", "optimizer.args"),
        ("train_dataset: {batch_size: 0}", "batch_size"),
        ("train_dataset: {dataset: {name: something}}", "train_dataset.dataset.name"),
        ("training_settings: {precision: fp8}", "training_settings.precision"),
        ("training_settings: {grad_accum_steps: 0}", "grad_accum_steps"),
    ],
)
def test_a_wrong_value_names_key_and_file(refused: Refused, run: Any, tmp_path: Path, lines: str, key: str) -> None:
    (tmp_path / "mine.yaml").write_text(lines)
    error = refused(3, "train", "--config", "mine.yaml", "--data", run.dataset, "-o", "run", names=key)
    assert "`mine.yaml`" in error.split("\n")[0]


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("epoch_mx=3", "epoch_mx"),
        ("epoch_max=many", "epoch_max"),
        ("epoch_max=true", "epoch_max"),
        ("optimizer.args.lr=fast", "optimizer.args.lr"),
        ("model.name=sam_huge", "model.name"),
        ("model.args.num_classes=5", "num_classes"),
        ("model.args.inp_size=33", "inp_size"),
        ("model.args.encoder_mode={num_heads: 5, embed_dim: 24}", "num_heads"),
        ("model.args.encoder_mode.global_attn_indexes=[99]", "global_attn_indexes"),
        ("model.args.loss_weight=[1, 2]", "loss_weight"),
        ("model.args.loss_weight=[-1, 1, 1]", "loss_weight"),
        ("model.args.encoder_mode.depth=0", "depth"),
        ("model.args.encoder_mode.num_heads=0", "num_heads"),
        ("model.args.inp_size=-32", "inp_size"),
        ("optimizer.args.betas=[2, 3]", "betas"),
        ("optimizer.args.weight_decay=-1", "weight_decay"),
        ("optimizer.args.lr=.nan", "lr"),
        ("optimizer.args.lr=.inf", "lr"),
        ("lr_min=-1", "lr_min"),
        ("training_settings.clip_grad_norm=-1", "clip_grad_norm"),
        ("training_settings.ema=1.5", "ema"),
        ("training_settings.keep=0", "keep"),
        ("training_settings.use_bf16=often", "training_settings.use_bf16"),
        ("model.args.label_smoothing=2", "label_smoothing"),
        ("model.args.encoder_mode.use_checkpoint=often", "activation_checkpointing"),
        ("optimizer.name=sgd", "optimizer.name"),
        ("optimizer.args.lr_factors.decoder=-1", "decoder"),
        ("train_dataset.sampler=fair", "train_dataset.sampler"),
        ("fsdp_settings.reduce_dtype=fp8", "fsdp_settings.reduce_dtype"),
        ("resume=first", "resume"),
        ("epoch_max", "epoch_max"),
        ("=3", "=3"),
    ],
)
def test_set_goes_through_the_same_validation(refused: Refused, run: Any, assignment: str, key: str) -> None:
    common = ("train", "--config", "tiny", "--data", run.dataset, "-o", "run", "--set", "model.args.inp_size=32")
    refused(3, *common, "--set", assignment, names=key)


def test_a_class_count_that_disagrees_with_the_class_table_is_a_config_error(refused: Refused, run: Any) -> None:
    common = ("train", "--config", "tiny", "--data", run.dataset, "-o", "run")
    sentence = refused(3, *common, "--set", "model.args.num_classes=33", names="model.args.num_classes").split("\n")[0]
    assert "33" in sentence and "3 classes" in sentence


@pytest.mark.parametrize(
    ("old", "fits"),
    [
        ("img_size: 32", True),
        ("qkv_bias: true", True),
        ("use_rel_pos: true", True),
        ("mlp_ratio: 4", True),
        ("qkv_bias: false", False),
        ("use_rel_pos: false", False),
        ("mlp_ratio: 3", False),
    ],
)
def test_keys_of_research_configs_pass_only_where_they_say_what_is_built(
    refused: Refused, run: Any, tmp_path: Path, old: str, fits: bool
) -> None:
    (tmp_path / "old.yaml").write_text(
        f"model: {{name: sam_tiny, args: {{inp_size: 32, encoder_mode: {{{SHAPE}, {old}}}}}}}\nepoch_max: 1\n"
    )
    common = ("train", "--config", "old.yaml", "--data", run.dataset, "-o", "run")
    if fits:
        result = _invoke(*common)
        assert result.exit_code == 0, result.stderr
    else:
        refused(3, *common, names=f"model.args.encoder_mode.{old.split(':')[0]}")


def test_old_research_keys_are_named_in_one_warning(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text(
        f"model: {{name: sam_tiny, args: {{inp_size: 32, encoder_mode: {{{SHAPE}}}}}}}\nepoch_max: 1\n"
        "data_norm: {inp: {sub: [0.5], div: [0.5]}}\neval_type: f1\nmulti_step_lr: {gamma: 0.1}\nstart_epoch: 0\n"
        "train_dataset: {wrapper: {name: train}, dataset: {args: {cache: none, split_key: a, first_k: 2, repeat: 1}}}\n"
    )
    result = _invoke("train", "--config", "old.yaml", "--data", run.dataset, "-o", "run")
    assert result.exit_code == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:") and "data_norm" in line]
    assert len(warnings) == 1
    old = ["data_norm", "eval_type", "multi_step_lr", "start_epoch", "wrapper.name", "cache", "split_key", "first_k"]
    assert [key for key in [*old, "repeat"] if key not in warnings[0]] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("classes: [ {code: 1", "`mine.yaml`"),
        ("clases: []", "`clases`"),
        ("classes: []", "class"),
        ("classes: [{code: 1, name: a}]", "classes.0.color"),
        ('classes: [{code: 1, name: a, color: "red"}]', "`red`"),
        ('classes: [{code: 255, name: a, color: "#ff0000"}]', "255"),
        ('classes: [{code: -1, name: a, color: "#ff0000"}]', "-1"),
        ('classes: [{code: one, name: a, color: "#ff0000"}]', "classes.0.code"),
        ('classes: [{code: 1, name: a, color: "#ff0000"}, {code: 1, name: b, color: "#00ff00"}]', "1"),
    ],
)
def test_a_broken_class_table_names_file_and_fault(
    refused: Refused, run: Any, tmp_path: Path, text: str, names: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--classes", "mine.yaml")
    assert "`mine.yaml`" in refused(3, *common, names=names).split("\n")[0]


def test_a_missing_class_table_names_the_shipped_ones(refused: Refused, run: Any) -> None:
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--classes")
    for name in ("nowhere", "nowhere.yaml"):
        error = refused(3, *common, name, names=f"`{name}`")
        for shipped in ("land_cover_33", "nc_landclass96", "zion_nlcd", "chesapeake"):
            assert shipped in error


# 4: data


def test_missing_inputs_are_named(refused: Refused, run: Any) -> None:
    refused(4, "tile", "gone.tif", "--labels", run.labels, "-o", "dataset", names="`gone.tif`")
    refused(4, "tile", run.scene, "--labels", "gone.gpkg", "-o", "dataset", names="`gone.gpkg`")
    refused(4, "predict", "gone.tif", "-c", run.checkpoint, "-o", "map.tif", names="`gone.tif`")
    refused(4, "vectorize", "gone.tif", "polygons.gpkg", names="`gone.tif`")
    refused(4, "eval", "-c", run.checkpoint, "--data", "gone", names="`gone`")
    refused(4, "train", "--config", "tiny", "--data", "gone", "-o", "run", names="`gone`")


def test_a_folder_around_a_dataset_is_answered_with_the_dataset(refused: Refused, run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(run.dataset, tmp_path / "md" / "dataset")
    commands = [("train", "--config", "tiny", "-o", "run"), ("eval", "-c", run.checkpoint)]
    for command in commands:
        assert "cwsam tile" in refused(4, *command, "--data", "empty", names="`empty` is not a dataset")
        told = refused(4, *command, "--data", "md", names="`md` is not a dataset")
        assert f"did you mean `{Path('md/dataset')}`?" in told


def test_files_that_are_no_rasters_are_named(refused: Refused, run: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.tif").write_bytes(b"")
    for name in ("notes.txt", "empty.tif"):
        refused(4, "tile", name, "--labels", run.labels, "-o", "dataset", names=f"`{name}`")
        refused(4, "tile", run.scene, "--labels", name, "-o", "dataset", names=f"`{name}`")
        refused(4, "predict", name, "-c", run.checkpoint, "-o", "map.tif", names=f"`{name}`")
        refused(4, "vectorize", name, "polygons.gpkg", names=f"`{name}`")


def test_a_truncated_scene_leaves_no_half_map(refused: Refused, run: Any, tmp_path: Path) -> None:
    whole = run.scene.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    refused(4, "predict", "cut.tif", "-c", run.checkpoint, "-o", "map.tif", names="`cut.tif`")
    refused(4, "tile", "cut.tif", "--labels", run.labels, "-o", "dataset", "--size", 32, names="`cut.tif`")


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_predict_names_the_bands_the_model_wants(refused: Refused, run: Any, make_raster: Any, bands: int) -> None:
    scene = make_raster("other.tif", np.ones((bands, 40, 40), np.uint8))
    error = refused(4, "predict", scene, "-c", run.checkpoint, "-o", "map.tif", names="other.tif")
    assert f"{bands} " in error and "3" in error


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.full((160, 200), 1.5, np.float32), "1.5"),
        (np.full((160, 200), 300, np.int16), "300"),
        (np.full((160, 200), -4, np.int16), "-4"),
        (np.ones((2, 160, 200), np.uint8), "2 bands"),
    ],
    ids=["fractions", "above 254", "negative", "two bands"],
)
def test_labels_that_cannot_be_codes_are_refused(
    refused: Refused, run: Any, make_raster: Any, values: Any, told: str
) -> None:
    labels = make_raster("odd.tif", values)
    assert told in refused(4, "tile", run.scene, "--labels", labels, "-o", "dataset", names="odd.tif").split("\n")[0]


def test_codes_that_the_class_table_does_not_know_are_listed(refused: Refused, run: Any, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text('classes: [{code: 2, name: a, color: "#ff0000"}]')
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32)
    sentence = refused(4, *common, "--classes", "one.yaml", names="labels.tif").split("\n")[0]
    assert sentence.endswith(": 1 (11,520 pixels), 3 (10,240 pixels)")


def test_class_names_that_the_table_does_not_know_are_listed(refused: Refused, run: Any, tmp_path: Path) -> None:
    labels = polygons(tmp_path / "f.gpkg", ["林地", "forest"], pixels(0, 0, 99, 160), pixels(99, 0, 200, 160))
    common = ("tile", run.scene, "--labels", labels, "--class-field", "kind", "-o", "dataset")
    sentence = refused(4, *common, "--classes", "nc_landclass96", names="林地").split("\n")[0]
    assert "f.gpkg" in sentence and "kind" in sentence and "forest" not in sentence


def test_polygons_without_the_field_list_their_fields(refused: Refused, run: Any, tmp_path: Path) -> None:
    labels = polygons(tmp_path / "f.gpkg", [1], pixels(0, 0, 99, 160))
    common = ("tile", run.scene, "--labels", labels, "-o", "dataset", "--class-field")
    assert "kind" in refused(4, *common, "king", names="`king`").split("hint:")[1]


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_labels_that_cannot_be_laid_over_the_scene_are_refused(
    refused: Refused, run: Any, make_raster: Any, tmp_path: Path
) -> None:
    raster = make_raster("nocrs.tif", codes_of(1, height=10), crs=None)
    refused(4, "tile", run.scene, "--labels", raster, "-o", "dataset", names="nocrs.tif")
    vector = polygons(tmp_path / "nocrs.gpkg", [1], pixels(0, 0, 99, 160), crs=None)
    refused(4, "tile", run.scene, "--labels", vector, "--class-field", "kind", "-o", "dataset", names="nocrs.gpkg")


def test_overlapping_classes_are_refused_with_their_pixels(refused: Refused, run: Any, tmp_path: Path) -> None:
    labels = polygons(tmp_path / "f.gpkg", [1, 2], pixels(0, 0, 100, 160), pixels(90, 20, 200, 70))
    common = ("tile", run.scene, "--labels", labels, "--class-field", "kind", "-o", "dataset")
    told = refused(4, *common, names="overlap")
    assert "500 " in told.split("\n")[0] and "1 and 2" in told.split("\n")[0]
    assert "$id IN (1, 2)" in told and "--overlaps-to" in told


def test_overlapping_classes_are_written_as_a_layer_on_request(run: Any, tmp_path: Path) -> None:
    shapes = pixels(0, 0, 100, 160), pixels(90, 20, 200, 70), pixels(80, 0, 100, 10), pixels(100, 0, 150, 20)
    labels = polygons(tmp_path / "f.gpkg", ["water", "forest", "water", "crop"], *shapes)
    layer = tmp_path / "overlaps.gpkg"
    common = ("tile", run.scene, "--labels", labels, "--class-field", "kind", "-o", tmp_path / "dataset")
    words = [str(word) for word in (*common, "--overlaps-to", layer)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 4 and f"open `{layer}`" in result.stderr
    assert not (tmp_path / "dataset").exists()
    found = gpd.read_file(layer)
    assert found.crs == "EPSG:32617"
    (row,) = found.itertuples()  # polygons that share an edge, or a class, do not overlap
    assert {(row.id_1, row.class_1), (row.id_2, row.class_2)} == {(1, "water"), (2, "forest")}
    assert row.geometry.equals(pixels(90, 20, 100, 70))
    assert CliRunner().invoke(app, words).exit_code == 2  # it exists
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 4
    assert len(gpd.read_file(layer)) == 1


def test_no_layer_is_written_for_points_that_share_a_pixel(refused: Refused, run: Any, tmp_path: Path) -> None:
    points = polygons(tmp_path / "p.gpkg", ["a", "b"], pixels(5, 5, 6, 6).centroid, pixels(5, 5, 6, 6).centroid)
    common = ("tile", run.scene, "--labels", points, "--class-field", "kind", "-o", "dataset")
    assert "$id IN (1, 2)" in refused(4, *common, "--overlaps-to", "overlaps.gpkg", names="overlap")


@pytest.mark.parametrize("name", ["overlaps.shp", "overlaps"])
def test_overlaps_go_to_a_geopackage(refused: Refused, run: Any, name: str) -> None:
    common = ("tile", run.scene, "--labels", run.labels, "-o", "dataset")
    refused(2, *common, "--overlaps-to", name, names=f"`{name}` is not the name of a GeoPackage")


def test_scenes_of_different_bands_are_refused(refused: Refused, run: Any, make_raster: Any) -> None:
    two = make_raster("two.tif", np.ones((2, 160, 200), np.uint8))
    wide = make_raster("wide.tif", np.ones((3, 160, 200), np.uint16))
    for other in (two, wide):
        refused(4, "tile", run.scene, other, "--labels", run.labels, "-o", "dataset", "--size", 32, names=other.name)


def test_ground_without_labels_or_pixels_makes_no_dataset(refused: Refused, run: Any, make_raster: Any) -> None:
    unlabelled = make_raster("none.tif", codes_of(255), nodata=255)
    refused(4, "tile", run.scene, "--labels", unlabelled, "-o", "dataset", names="labelled")
    empty = make_raster("empty.tif", np.zeros((3, 160, 200), np.uint8), nodata=0)
    refused(4, "tile", empty, "--labels", run.labels, "-o", "dataset", names="valid")


def test_a_split_without_tiles_cannot_be_measured_or_trained_on(
    cwsam: Any, refused: Refused, run: Any, small: tuple[str, ...]
) -> None:
    cwsam("tile", run.scene, "--labels", run.labels, "-o", "notest", "--size", 32, "--split", 80, 20, 0)
    refused(4, "eval", "-c", run.checkpoint, "--data", "notest", names=str(Path("images/test")))
    cwsam("tile", run.scene, "--labels", run.labels, "-o", "noval", "--size", 32, "--split", 80, 0, 20)
    refused(4, "train", *small, "--data", "noval", "-o", "run", names=str(Path("images/val")))


def test_a_tile_without_its_label_is_named(cwsam: Any, refused: Refused, run: Any, tmp_path: Path) -> None:
    shutil.copytree(run.dataset, tmp_path / "dataset")
    gone = next((tmp_path / "dataset" / "labels" / "test").glob("*.tif"))
    gone.unlink()
    refused(4, "eval", "-c", run.checkpoint, "--data", "dataset", names=gone.name)


def test_vectorize_takes_only_maps(refused: Refused, run: Any, make_raster: Any) -> None:
    floats = make_raster("floats.tif", codes_of(1, dtype="float32"))
    refused(4, "vectorize", floats, "polygons.gpkg", names="floats.tif")
    refused(4, "vectorize", run.scene, "polygons.gpkg", names="scene.tif")
    nowhere = make_raster("nowhere.tif", codes_of(1), crs=None)
    refused(4, "vectorize", nowhere, "polygons.gpkg", names="nowhere.tif")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--min-area", "1 acre"), "1 acre"),
        (("--min-area", "ha"), "ha"),
        (("--simplify", "1ha"), "1ha"),
        (("--class", "lava"), "lava"),
        (("--class", "²"), "²"),
        (("--stats", "dem.tif"), "dem.tif"),
        (("--dst-crs", "EPSG:1"), "EPSG:1"),
    ],
)
def test_vectorize_names_what_it_cannot_mean(
    refused: Refused, run: Any, arguments: tuple[str, ...], names: str
) -> None:
    refused(2, "vectorize", run.labels, "polygons.gpkg", *arguments, names=names)


def test_vectorize_takes_a_band_by_its_number_only(refused: Refused, make_raster: Any) -> None:
    two = make_raster("two.tif", np.ones((2, 4, 4), np.uint8))
    assert "--band" in refused(4, "vectorize", two, "polygons.gpkg", names="two.tif")
    refused(4, "vectorize", two, "polygons.gpkg", "--band", 3, names="two.tif")


def test_geojson_is_in_degrees_only(refused: Refused, run: Any) -> None:
    refused(2, "vectorize", run.labels, "polygons.geojson", "--dst-crs", "EPSG:3035", names="GeoJSON")


# 5: checkpoints


def test_files_that_are_no_checkpoints_are_named(refused: Refused, run: Any, tmp_path: Path) -> None:
    whole = run.checkpoint.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "folder.pth").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(torch.load(run.checkpoint, weights_only=True) | {"version": 99}, tmp_path / "future.pth")
    for name in ("gone", "cut", "empty", "text", "folder", "foreign", "list", "future"):
        file = f"{name}.pth"
        refused(5, "predict", run.scene, "-c", file, "-o", "map.tif", names=f"`{file}`")
        refused(5, "eval", "-c", file, "--data", run.dataset, "-o", "report", names=f"`{file}`")


def test_a_runs_folder_is_answered_with_the_checkpoint_inside(refused: Refused, run: Any, tmp_path: Path) -> None:
    (tmp_path / "zion" / "run").mkdir(parents=True)
    shutil.copy(run.checkpoint, tmp_path / "zion" / "run")
    best = Path("zion/run/model_epoch_best.pth")
    for folder in ("zion/run", "zion"):
        for command in (("predict", run.scene, "-o", "map.tif"), ("eval", "--data", run.dataset)):
            told = refused(5, *command, "-c", folder, names=f"`{Path(folder)}` is a folder")
            assert f"-c {best}" in told.split("hint:")[1]


@pytest.mark.parametrize("part", ["weights", "taxonomy", "architecture", "bands"])
def test_a_checkpoint_without_one_of_its_parts_is_named(refused: Refused, run: Any, tmp_path: Path, part: str) -> None:
    raw = torch.load(run.checkpoint, weights_only=True)
    del raw[part]
    torch.save(raw, tmp_path / "part.pth")
    refused(5, "predict", run.scene, "-c", "part.pth", "-o", "map.tif", names="`part.pth`")


@pytest.mark.parametrize(
    "harm", [lambda weights: weights.popitem(), lambda weights: weights.update(extra=torch.ones(1))]
)
def test_a_checkpoint_whose_weights_do_not_fit_is_refused(
    refused: Refused, run: Any, tmp_path: Path, harm: Callable[[Any], Any]
) -> None:
    raw = torch.load(run.checkpoint, weights_only=True)
    harm(raw["weights"])
    torch.save(raw, tmp_path / "odd.pth")
    refused(5, "predict", run.scene, "-c", "odd.pth", "-o", "map.tif", names="checkpoint")


def test_weights_that_are_not_finite_give_neither_map_nor_report(refused: Refused, run: Any, tmp_path: Path) -> None:
    raw = torch.load(run.checkpoint, weights_only=True)
    name = next(iter(raw["weights"]))
    raw["weights"][name].fill_(float("nan"))
    torch.save(raw, tmp_path / "nan.pth")
    refused(5, "predict", run.scene, "-c", "nan.pth", "-o", "map.tif", names=f"`weights.{name}`")
    refused(5, "eval", "-c", "nan.pth", "--data", run.dataset, names=f"`weights.{name}`")


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, path: Path(path).write_bytes(pickle.dumps(bomb))])
def test_a_checkpoint_never_runs_code(refused: Refused, run: Any, tmp_path: Path, save: Any) -> None:
    save({"weights": Bomb()}, tmp_path / "bomb.pth")
    refused(5, "predict", run.scene, "-c", "bomb.pth", "-o", "map.tif", names="`bomb.pth`")
    assert not (tmp_path / "exploded").exists()


def test_a_model_of_other_classes_cannot_be_measured(cwsam: Any, refused: Refused, run: Any, make_raster: Any) -> None:
    other = make_raster("other.tif", (np.indices((160, 200))[1] // 8 % 3 + 5).astype(np.uint8))
    cwsam("tile", run.scene, "--labels", other, "-o", "dataset", "--size", 32)
    sentence = refused(5, "eval", "-c", run.checkpoint, "--data", "dataset", "-o", "report", names="model_epoch_best")
    assert "dataset" in sentence and "class 5" in sentence and "class 1" in sentence


def test_there_must_be_a_run_to_go_on_with(refused: Refused, run: Any, small: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        refused(5, "train", *small, "--data", run.dataset, "-o", folder, "--resume", names=f"`{folder}`")


def test_a_run_goes_on_only_with_its_own_model(
    refused: Refused, run: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    more = ("--set", "epoch_max=8", "--set", "model.args.encoder_mode.depth=2")
    refused(5, "train", *small, "--data", run.dataset, "-o", "run", "--resume", *more, names=str(Path("run")))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("model.args.encoder_mode.depth=2", "depth was 1, is now 2"),
        ("model.args.encoder_mode.decoder_mlp_dim=64", "decoder_mlp_dim was 32, is now 64"),
        ("optimizer.name=adamw8bit", "optimizer was adamw, is now adamw8bit"),
    ],
)
def test_what_differs_from_the_run_is_named(
    refused: Refused, run: Any, small: tuple[str, ...], tmp_path: Path, change: str, names: str
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    refused(5, "train", *small, "--data", run.dataset, "-o", "run", "--resume", "--set", change, names=names)


@pytest.mark.parametrize("resume", ["last", "best"])
def test_a_run_does_not_go_on_with_other_classes(
    cwsam: Any, refused: Refused, run: Any, small: tuple[str, ...], make_raster: Any, tmp_path: Path, resume: str
) -> None:
    other = make_raster("other.tif", (np.indices((160, 200))[1] // 8 % 3 + 5).astype(np.uint8))
    cwsam("tile", run.scene, "--labels", other, "-o", "dataset", "--size", 32)
    shutil.copytree(run.folder, tmp_path / "run")
    common = ("train", *small, "--data", "dataset", "-o", "run", "--set", f"resume={resume}")
    sentence = refused(5, *common, names="classes")
    assert "1 class 1" in sentence and "5 class 5" in sentence


@pytest.mark.parametrize("name", ["best", "7"])
def test_a_checkpoint_to_go_on_from_must_be_there(
    refused: Refused, run: Any, small: tuple[str, ...], tmp_path: Path, name: str
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "model_epoch_best.pth").unlink()
    common = ("train", *small, "--data", run.dataset, "-o", "run", "--set", f"resume={name}")
    refused(5, *common, names=f"model_epoch_{name}.pth")


@pytest.mark.parametrize("harm", ["index", "tensors", "state.json", "bomb"])
def test_a_damaged_state_is_refused(
    refused: Refused, run: Any, small: tuple[str, ...], tmp_path: Path, harm: str
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    state = tmp_path / "run" / "last"
    target = {"index": ".metadata", "bomb": ".metadata", "state.json": "state.json"}.get(harm)
    path = state / target if target else next(state.glob("*.distcp"))
    path.write_bytes(pickle.dumps(Bomb()) if harm == "bomb" else path.read_bytes()[: path.stat().st_size // 2])
    more = ("--set", "epoch_max=8")
    error = refused(
        5, "train", *small, "--data", run.dataset, "-o", "run", "--resume", *more, names=str(Path("run/last"))
    )
    assert "resume=best" in error
    assert not (tmp_path / "exploded").exists()


# 6: the machine


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a place where nobody may write: /sys")
def test_a_place_where_nobody_may_write_is_a_failure_of_the_machine(
    refused: Refused, run: Any, small: tuple[str, ...]
) -> None:
    refused(6, "tile", run.scene, "--labels", run.labels, "-o", "/sys/data", "--size", 32, names="/sys")
    refused(6, "predict", run.scene, "-c", run.checkpoint, "-o", "/sys/map.tif", names="/sys")
    refused(6, "predict", run.scene, "-c", run.checkpoint, "-o", "/sys/deeper/map.tif", names="/sys")
    refused(6, "vectorize", run.labels, "/sys/polygons.gpkg", names="/sys")
    refused(6, "vectorize", run.labels, "/sys/polygons.shp", names="/sys")
    refused(6, "eval", "-c", run.checkpoint, "--data", run.dataset, "-o", "/sys/report", names="/sys")
    refused(6, "train", *small, "--data", run.dataset, "-o", "/sys/run", names="/sys")


def test_a_path_through_a_file_is_a_failure_of_the_machine(refused: Refused, run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(6, "tile", run.scene, "--labels", run.labels, "-o", "file/data", "--size", 32, names="file")
    refused(6, "predict", run.scene, "-c", run.checkpoint, "-o", "file/map.tif", names="file")
    refused(6, "vectorize", run.labels, "file/polygons.gpkg", names="file")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_fails_at_the_last_step_leaves_nothing(
    refused: Refused, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "old.tif").write_text("mine")

    def fail(source: Any, target: Any, **_: Any) -> None:
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(os, "replace", fail)
    refused(6, "predict", run.scene, "-c", run.checkpoint, "-o", "map.tif", names="map.tif")
    refused(6, "predict", run.scene, "-c", run.checkpoint, "-o", "old.tif", "--overwrite", names="old.tif")
    refused(6, "vectorize", run.labels, "polygons.gpkg", names="polygons.gpkg")
    refused(6, "vectorize", run.labels, "polygons.shp", names="polygons")
    refused(6, "tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32, names="dataset")


# 130: interrupted


def test_an_interrupted_command_leaves_nothing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: Any
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    for command in (
        ("predict", run.scene, "-c", run.checkpoint, "-o", "map.tif"),
        ("vectorize", run.labels, "polygons.gpkg"),
        ("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32),
    ):
        result = _invoke(*command)
        assert result.exit_code == 130
        assert "Traceback" not in result.stderr
        assert snapshot(tmp_path) == {}


def _invoke(*arguments: Any) -> Any:
    from typer.testing import CliRunner

    from cwsam_cli.main import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])
