"""YAML becomes the schema, and what is wrong is named by key and file."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cwsam_cli.config.load import dataset_taxonomy, load_config, load_taxonomy
from cwsam_cli.config.schema import FolderArgs, RunConfig
from cwsam_cli.console import log
from cwsam_cli.errors import ConfigError
from cwsam_cli.model.variants import architecture

Load = Callable[..., RunConfig]

CONFIGS = Path(__file__).parents[3] / "configs"
SHIPPED = [
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if CONFIGS / "classes" not in path.parents
]
DATASETS = ("train_dataset", "val_dataset", "test_dataset")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a configuration given as text."""

    def load(text: str, *overrides: str, data: Sequence[Path] = ()) -> RunConfig:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(str(path), overrides, data=data)

    return load


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The warnings logged so far."""
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.WARNING, logger=log.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == log.name]


def test_tiny_and_vit_b_are_shipped() -> None:
    assert {"tiny", "vit_b"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_loads_by_name_and_names_a_model(name: str) -> None:
    config = load_config(name)
    arch = architecture(config.model, num_bands=3, num_classes=33)
    assert arch.inp_size == config.model.args.inp_size


@pytest.mark.parametrize("name", ["tiny", "vit_b"])
def test_our_own_configurations_carry_no_keys_of_older_files(name: str, warnings: Callable[[], list[str]]) -> None:
    assert load_config(name).model.name == f"sam_{name}"
    assert warnings() == []


def test_a_file_beats_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text("epoch_max: 7", encoding="utf-8")
    assert load_config("tiny.yaml").epoch_max == 7
    assert load_config("tiny").model.name == "sam_tiny"


def test_what_a_file_leaves_out_keeps_its_default(load: Load) -> None:
    assert load("epoch_max: 100") == RunConfig()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("epoch_mx: 3", "epoch_mx"),
        ("model: {args: {encoder_mode: {depht: 3}}}", "model.args.encoder_mode.depht"),
        ("zzz: 3", "zzz"),
        ("epoch_max: many", "epoch_max"),
        ("epoch_max: 1.5", "epoch_max"),
        ("epoch_max: 0", "epoch_max"),
        ("epoch_val: null", "epoch_val"),
        ("epoch_max: true", "epoch_max"),
        ("val_dataset: {batch_size: false}", "val_dataset.batch_size"),
        ("val_dataset: {batch_size: -2}", "val_dataset"),
        ("optimizer: {args: {lr: true}}", "optimizer.args.lr"),
        ("optimizer: {args: {betas: [0.9, true]}}", "optimizer.args.betas.1"),
        ("optimizer: {args: {betas: [0.9]}}", "optimizer.args.betas"),
        ("model: {args: {loss_weight: [1, true]}}", "model.args.loss_weight.1"),
        ("model: {args: {loss_weight: [1, heavy]}}", "model.args.loss_weight.1"),
        ("model: {args: {loss_weight: heavy}}", "model.args.loss_weight"),
        ("model: {args: {loss_weight: [1, -1]}}", "loss_weight"),
        ("model: {args: {loss: dice}}", "model.args.loss"),
        ("model: {args: {label_smoothing: 1}}", "label_smoothing"),
        ("model: {args: {label_smoothing: -0.1}}", "label_smoothing"),
        ("model: {args: {label_smoothing: true}}", "model.args.label_smoothing"),
        ("model: {args: {label_smoothing: .nan}}", "label_smoothing"),
        ("train_dataset: {sampler: random}", "train_dataset.sampler"),
        ("train_dataset: {sampler: true}", "train_dataset.sampler"),
        ("optimizer: {name: adamw4bit}", "optimizer.name"),
        ("optimizer: {args: {lr_factors: {decoder: 0}}}", "decoder"),
        ("optimizer: {args: {lr_factors: {experts: -1}}}", "experts"),
        ("optimizer: {args: {lr_factors: {routers: .inf}}}", "routers"),
        ("optimizer: {args: {lr_factors: {adapters: many}}}", "optimizer.args.lr_factors.adapters"),
        ("optimizer: {args: {lr_factors: {encoder: true}}}", "optimizer.args.lr_factors.encoder"),
        ("optimizer: {args: {lr_factors: {decodr: 2}}}", "optimizer.args.lr_factors.decodr"),
        ("optimizer: {args: {lr_factors: 2}}", "optimizer.args.lr_factors"),
        ("training_settings: {precision: half}", "training_settings.precision"),
        ("training_settings: {use_bf16: maybe}", "training_settings.use_bf16"),
        ("training_settings: {activation_checkpointing: some}", "training_settings.activation_checkpointing"),
        ("training_settings: {ema: 1}", "ema"),
        ("training_settings: {ema: 0}", "ema"),
        ("training_settings: {ema: true}", "training_settings.ema"),
        ("training_settings: {keep: 0}", "keep"),
        ("training_settings: {keep: 1.5}", "training_settings.keep"),
        ("training_settings: {keep: true}", "training_settings.keep"),
        ("training_settings: {timeout_s: 0}", "timeout_s"),
        ("training_settings: {timeout_s: .inf}", "timeout_s"),
        ("training_settings: {timeout_s: long}", "training_settings.timeout_s"),
        ("training_settings: {clip_grad_norm: 0}", "clip_grad_norm"),
        ("fsdp_settings: {cpu_offload: 3}", "fsdp_settings.cpu_offload"),
        ("fsdp_settings: {reshard_after_forward: never}", "fsdp_settings.reshard_after_forward"),
        ("fsdp_settings: {reduce_dtype: fp16}", "fsdp_settings.reduce_dtype"),
        ("fsdp_settings: {shard_experts_evenly: perhaps}", "fsdp_settings.shard_experts_evenly"),
        ("fsdp_settings: {expert_parallel: many}", "`fsdp_settings.expert_parallel`"),
        ("fsdp_settings: {expert_parallel: 2.5}", "fsdp_settings.expert_parallel"),
        ("fsdp_settings: {expert_parallel: 0}", "expert_parallel must be above 0"),
        ("fsdp_settings: {offload: true}", "fsdp_settings.offload"),
        ("resume: first", "resume"),
        ("resume: 0", "resume"),
        ("resume: -3", "resume"),
        ("resume: true", "resume"),
        ("stages: [{name: adapt, epochs: 2, lr_factor: 0}]", "lr_factor"),
        ("model: {args: {encoder_mode: {global_attn_indexes: 3}}}", "model.args.encoder_mode.global_attn_indexes"),
        ("model: sam_tiny", "model"),
        ("model: null", "model"),
        ("train_dataset: {dataset: {args: {ignore_bg: maybe}}}", "train_dataset.dataset.args.ignore_bg"),
        ("train_dataset: {dataset: {name: zipped-images}}", "train_dataset.dataset.name"),
        ("training_settings: {precision: fp8}", "training_settings.precision"),
        ("training_settings: {warmup_steps: -1}", "warmup_steps"),
        ("lr_min: 1", "lr_min"),
        ("val_dataset: {fold: 1}", "val_dataset.fold has no effect"),
        ("test_dataset: {fold: 1}", "test_dataset.fold has no effect"),
        ("val_dataset: {wrapper: {args: {inp_size: 256}}}", "val_dataset.wrapper.args.inp_size"),
    ],
)
def test_what_is_wrong_is_named_by_key_and_file(load: Load, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert key in str(caught.value)
    assert "run.yaml`" in str(caught.value)
    assert caught.value.exit_code == 3
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("epoch_mx: 3", "epoch_max"),
        ("optimiser: {name: adamw}", "optimizer"),
        ("model: {args: {encoder_mode: {depht: 3}}}", "depth"),
        ("train_dataset: {dataset: {args: {root_path1: a}}}", "root_path_1"),
        ("training_settings: {grad_acum_steps: 2}", "grad_accum_steps"),
        ("epoch: 3", "epoch_max"),
        ("lr: 1e-3", "optimizer.args.lr"),
        ("optimizer: {lr: 1e-3}", "optimizer.args.lr"),
        ("model: {depth: 3}", "model.args.encoder_mode.depth"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one(load: Load, text: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match="not a known key") as caught:
        load(text)
    assert caught.value.hint == f"did you mean `{nearest}`?"


def test_an_unknown_key_like_no_other_is_answered_with_all(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load("model: {zzz: 1}")
    assert caught.value.hint == "known keys: name, args"


def test_numbers_that_yaml_reads_as_text_are_numbers(load: Load) -> None:
    config = load("optimizer: {args: {lr: 2e-4}}\nlr_min: 1e-7\nepoch_max: '12'")
    assert (config.optimizer.args.lr, config.lr_min, config.epoch_max) == (2e-4, 1e-7, 12)


def test_a_boolean_stays_one_where_one_is_meant(load: Load) -> None:
    config = load(
        "model: {args: {encoder_mode: {detail_stem: false}}}\ntrain_dataset: {wrapper: {args: {augment: true}}}"
    )
    assert config.model.args.encoder_mode.detail_stem is False
    assert config.train_dataset.wrapper.args.augment is True


@pytest.mark.parametrize(
    ("name", "hint"), [("tinny", "did you mean `tiny`?"), ("/nowhere/else/zzzz.yaml", "shipped with cwsam:")]
)
def test_a_missing_configuration_is_answered_with_those_there_are(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no configuration `{name}`") as caught:
        load_config(name)
    assert (hint in caught.value.hint, caught.value.exit_code) == (True, 3)
    assert "classes" not in caught.value.hint


@pytest.mark.parametrize(("text", "line"), [("epoch_max: 1\nmodel: [1\nlr_min: 2\n", 3), ("model:\n\tname: x\n", 2)])
def test_broken_yaml_is_named_with_its_line(load: Load, text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"run\.yaml` is not valid YAML, line {line}$") as caught:
        load(text)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just text"])
def test_a_file_without_keys_is_refused(load: Load, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml` is not a configuration in YAML: it holds no keys") as caught:
        load(text)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("text", ["epoch_max: " + "9" * 5000, "model: " + "[" * 5000, "code,name\n1,forest\n"])
def test_what_is_barely_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    for read in (load_config, load_taxonomy):
        with pytest.raises(ConfigError, match=r"classes\.txt` is not") as caught:
            read(str(path))
        assert caught.value.exit_code == 3


def test_a_key_of_a_class_is_answered_with_the_keys_of_a_class(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes:\n  - {code: 1, name: forest, color: '#006e28', fron: 3}\n")
    with pytest.raises(ConfigError, match=r"`classes\.0\.fron`") as caught:
        load_taxonomy(str(path))
    assert "code" in caught.value.hint and "color" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [("time_limit", "30"), ("time_limit", "soon"), ("save_every", "500"), ("save_every", "0 steps"), ("patience", "0")],
)
def test_lengths_need_a_unit(load: Load, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key if key == "patience" else value.split()[0]):
        load(f"training_settings: {{{key}: '{value}'}}")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match=r"run\.yaml` is not valid YAML"):
        load_config(str(path))


LEGACY = """
data_norm: {inp: {sub: [0.5], div: [0.5]}}
eval_type: f1
multi_step_lr: {milestones: [1], gamma: 0.1}
start_epoch: 3
epoch_max: 9
train_dataset:
  dataset: {args: {cache: none, split_key: train, first_k: 5, repeat: 2}}
  wrapper: {name: train, args: {inp_size: 512}}
model:
  name: sam_vit_b
  args:
    encoder_mode: {name: sam, img_size: 512, mlp_ratio: 4, qkv_bias: true, use_rel_pos: true, out_chans: 256, depth: 12}
"""


def test_keys_of_older_files_are_ignored_with_one_warning_that_names_them(
    load: Load, warnings: Callable[[], list[str]]
) -> None:
    config = load(LEGACY)
    assert config.epoch_max == 9
    assert config.model.args.encoder_mode.depth == 12
    (warning,) = warnings()
    for key in ("data_norm", "eval_type", "multi_step_lr", "start_epoch", "train_dataset.wrapper.name"):
        assert f" {key}" in warning
    for key in ("cache", "split_key", "first_k", "repeat"):
        assert f"train_dataset.dataset.args.{key}" in warning
    for key in ("name", "img_size", "mlp_ratio", "qkv_bias", "use_rel_pos"):
        assert f"model.args.encoder_mode.{key}" in warning
    assert "run.yaml" in warning
    assert "depth" not in warning


def test_a_file_without_older_keys_warns_of_nothing(load: Load, warnings: Callable[[], list[str]]) -> None:
    assert load("epoch_max: 9").epoch_max == 9
    assert warnings() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("img_size", "1024"),
        ("mlp_ratio", "2"),
        ("qkv_bias", "false"),
        ("use_rel_pos", "false"),
    ],
)
def test_an_older_encoder_key_that_asks_for_another_model_is_refused(load: Load, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"`model\.args\.encoder_mode\.{key}` in `.*run\.yaml` is ") as caught:
        load(f"model: {{args: {{encoder_mode: {{{key}: {value}}}}}}}")
    assert caught.value.exit_code == 3


def test_img_size_may_say_again_what_inp_size_says(load: Load) -> None:
    assert load("model: {args: {inp_size: 256, encoder_mode: {img_size: 256}}}").model.args.inp_size == 256


def test_loss_iou_of_older_files_means_ce_and_iou(load: Load) -> None:
    assert load("model: {args: {loss: iou}}").model.args.loss == "ce+iou"
    assert load("epoch_max: 1", "model.args.loss=iou").model.args.loss == "ce+iou"


def test_set_overrides_nested_keys_and_the_last_one_wins(load: Load) -> None:
    config = load(
        "optimizer: {args: {lr: 1.0e-3, weight_decay: 0.5}}",
        "optimizer.args.lr=1e-4",
        "epoch_max=3",
        "optimizer.args.lr=2e-4",
        "model.args.encoder_mode.global_attn_indexes=[1, 3]",
        "training_settings.clip_grad_norm=null",
    )
    assert (config.optimizer.args.lr, config.optimizer.args.weight_decay) == (2e-4, 0.5)
    assert config.epoch_max == 3
    assert config.model.args.encoder_mode.global_attn_indexes == [1, 3]
    assert config.training_settings.clip_grad_norm is None


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.args.lr=true", r"`optimizer\.args\.lr` .* must be a number"),
        ("optimizer.args.lr=fast", r"`optimizer\.args\.lr` .* should be a number"),
        ("optimizer.args.rate=1", r"`optimizer\.args\.rate` .* not a known key"),
        ("lr_min=1", "lr_min"),
        ("epoch_max.x=1", "epoch_max.* holds a value, not keys"),
        ("epoch_max", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("epoch_max=[", "not valid YAML"),
    ],
)
def test_set_goes_through_the_same_validation(load: Load, override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load("epoch_max: 5", override)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_data_points_all_three_datasets_at_its_splits(load: Load, tmp_path: Path) -> None:
    text = "train_dataset: {dataset: {args: {root_path_1: a, classes: [水体], palette: [[0, 0, 1]], ignore_bg: true}}}"
    config = load(text, data=[tmp_path])
    for name, split in zip(DATASETS, ("train", "val", "test"), strict=True):
        args = getattr(config, name).dataset.args
        assert (args.root_path_1, args.root_path_2) == (
            str(tmp_path / "images" / split),
            str(tmp_path / "labels" / split),
        )
        assert (args.classes, args.palette) == (None, [])
    assert config.train_dataset.dataset.args.ignore_bg is True


def test_several_datasets_become_lists_of_folders(load: Load, tmp_path: Path) -> None:
    args = load("epoch_max: 1", data=[tmp_path / "a", tmp_path / "b"]).val_dataset.dataset.args
    expected = [(tmp_path / name / "images" / "val", tmp_path / name / "labels" / "val") for name in "ab"]
    assert args.folders == expected and args.root_path_1 == [str(images) for images, _ in expected]


@pytest.mark.parametrize(("value", "precision"), [("true", "bf16"), ("false", "fp32"), ("null", "fp32")])
def test_use_bf16_is_the_older_name_of_precision(load: Load, value: str, precision: str) -> None:
    assert load(f"training_settings: {{use_bf16: {value}}}").training_settings.precision == precision


@pytest.mark.parametrize(("value", "precision"), [("true", "bf16"), ("false", "fp32")])
def test_use_bf16_can_be_set(load: Load, value: str, precision: str) -> None:
    assert load("epoch_max: 1", f"training_settings.use_bf16={value}").training_settings.precision == precision


def test_precisions_are_three(load: Load) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        assert load(f"training_settings: {{precision: {precision}}}").training_settings.precision == precision


@pytest.mark.parametrize("value", ["true", "false"])
def test_use_checkpoint_of_older_files_is_activation_checkpointing(
    load: Load, warnings: Callable[[], list[str]], value: str
) -> None:
    for config in (
        load(f"model: {{args: {{encoder_mode: {{use_checkpoint: {value}}}}}}}"),
        load("epoch_max: 1", f"model.args.encoder_mode.use_checkpoint={value}"),
        load("training_settings: null", f"model.args.encoder_mode.use_checkpoint={value}"),
    ):
        assert config.training_settings.activation_checkpointing is (value == "true")
    assert warnings() == []  # it changes something


def test_the_newer_name_of_use_checkpoint_wins(load: Load) -> None:
    config = load(
        "model: {args: {encoder_mode: {use_checkpoint: true}}}\ntraining_settings: {activation_checkpointing: false}"
    )
    assert config.training_settings.activation_checkpointing is False


def test_a_wrong_use_checkpoint_is_named(load: Load) -> None:
    with pytest.raises(ConfigError, match="checkpoint"):
        load("model: {args: {encoder_mode: {use_checkpoint: some}}}")


@pytest.mark.parametrize(("value", "resume"), [("last", "last"), ("best", "best"), ("12", 12), ("null", None)])
def test_resume_is_last_best_or_an_epoch(load: Load, value: str, resume: object) -> None:
    assert load("epoch_max: 20", f"resume={value}").resume == resume


def test_learning_rates_may_differ_by_part_and_stage(load: Load) -> None:
    config = load(
        "optimizer: {args: {lr_factors: {routers: 1e-1, experts: 2}}}\n"
        "stages: [{name: adapt, epochs: 1}, {name: finetune, epochs: 2, lr_factor: 0.2}]"
    )
    factors = config.optimizer.args.lr_factors
    assert (factors.routers, factors.experts, factors.encoder, factors.decoder) == (0.1, 2.0, 1.0, 1.0)
    assert [stage.lr_factor for stage in config.stages] == [1.0, 0.2]
    assert config.epochs == 3


@pytest.mark.parametrize("loss", ["ce", "ce+dice", "ce+iou", "ce+lovasz", "focal"])
def test_losses_that_may_be_chosen(load: Load, loss: str) -> None:
    assert load(f"model: {{args: {{loss: {loss}, label_smoothing: 0.1}}}}").model.args.loss == loss


def test_lr_min_may_equal_lr_but_not_exceed_it(load: Load) -> None:
    assert load("lr_min: 1e-3\noptimizer: {args: {lr: 1e-3}}").lr_min == 1e-3
    with pytest.raises(ConfigError, match=r"lr_min \(0\.002\) is above optimizer\.args\.lr \(0\.001\)"):
        load("lr_min: 2e-3\noptimizer: {args: {lr: 1e-3}}")


@pytest.mark.parametrize("dataset", DATASETS)
def test_input_sizes_that_contradict_each_other_are_refused(load: Load, dataset: str) -> None:
    text = f"{dataset}: {{wrapper: {{args: {{inp_size: 256}}}}}}\nmodel: {{args: {{inp_size: "
    with pytest.raises(ConfigError, match=rf"{dataset}\.wrapper\.args\.inp_size is 256, model\.args\.inp_size is 128"):
        load(text + "128}}")
    assert load(text + "256}}").model.args.inp_size == 256


def test_an_inline_list_of_classes_has_codes_from_0_and_its_palette(load: Load) -> None:
    text = "train_dataset: {dataset: {args: {classes: [水体, 林地], palette: [[0, 0, 255], [0, 128, 0]]}}}"
    table = dataset_taxonomy(load(text).train_dataset.dataset.args)
    assert table is not None
    assert [(entry.code, entry.name, entry.color) for entry in table.classes] == [
        (0, "水体", "#0000ff"),
        (1, "林地", "#008000"),
    ]


@pytest.mark.parametrize(
    "args",
    [
        FolderArgs(classes=["水体", "水体"]),
        FolderArgs(classes=[]),
        FolderArgs(classes=[f"类别{number}" for number in range(256)]),
    ],
)
def test_an_inline_list_that_makes_no_table_is_refused(args: FolderArgs) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.args\.classes") as caught:
        dataset_taxonomy(args)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("palette", ["[[0, 0, 255]]", "[[0, 0, 255], [0, 128, 999]]", "[[0, 0], [0, 128]]"])
def test_a_palette_that_does_not_fit_names_the_file(load: Load, palette: str) -> None:
    with pytest.raises(ConfigError, match=r"palette.*") as caught:
        load(f"train_dataset: {{dataset: {{args: {{classes: [水体, 林地], palette: {palette}}}}}}}")
    assert ".yaml" in str(caught.value)


def test_classes_may_name_a_shipped_table_or_a_file(load: Load, tmp_path: Path) -> None:
    named = load("train_dataset: {dataset: {args: {classes: zion_nlcd}}}").train_dataset.dataset.args
    table = dataset_taxonomy(named)
    assert table is not None
    assert table.names[:2] == ["Water", "Developed"]
    path = tmp_path / "mine.yaml"
    path.write_text("classes: [{code: 9, name: 水体, color: '#0000ff'}]\nunlabelled: [0]", encoding="utf-8")
    mine = dataset_taxonomy(FolderArgs(classes=str(path)))
    assert mine is not None
    assert (mine.names, mine.codes, mine.unlabelled) == (["水体"], [9], (0,))


def test_without_classes_there_is_no_table_of_the_configuration() -> None:
    assert dataset_taxonomy(FolderArgs()) is None


def test_a_missing_class_table_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="no class table `zion_nlc`") as caught:
        load_taxonomy("zion_nlc")
    assert (caught.value.hint, caught.value.exit_code) == ("did you mean `zion_nlcd`?", 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("classes: [{code: true, name: 水体, color: '#0000ff'}]", r"`classes\.0\.code`"),
        ("classes: [{code: 1, name: 水体, color: blue}]", "color `blue` of `水体`"),
        ("classes: [{code: 300, name: 水体, color: '#0000ff'}]", "code 300 of `水体`"),
        ("classes: [{code: 1, name: 水体, color: '#0000ff', alias: w}]", r"`classes\.0\.alias`"),
        ("classes: [{code: 1, color: '#0000ff'}]", r"`classes\.0\.name`"),
        ("classes: []", "at least one class"),
        ("name: 表", "`classes`"),
        ("classes: [{code: 1, name: 水体, color: '#0000ff'}]\nunlabelled: [1]", "both a class and unlabelled"),
    ],
)
def test_a_broken_class_table_is_named_by_key_and_file(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as caught:
        load_taxonomy(str(path))
    assert "table.yaml`" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("epoch=3", "epoch"),
        ("epoch_max=many", "epoch_max"),
        ("epoch_max=true", "epoch_max"),
        ("optimizer={name: adamw, args: {rate: 1}}", "optimizer.args.rate"),
        ("model.args.encoder_mode.mlp_ratio=3", "model.args.encoder_mode.mlp_ratio"),
    ],
)
def test_a_wrong_key_or_value_of_set_is_blamed_on_set_not_on_the_file(load: Load, override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", ["lr_min=0", override])
    assert str(caught.value).startswith(f"`{key}` in `--set {override.partition('=')[0]}")


def test_a_wrong_key_of_the_file_is_blamed_on_the_file_if_set_changes_another(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"`epoch_maxx` in `.*run\.yaml`"):
        load("epoch_maxx: 3", "epoch_max=3")


@pytest.mark.parametrize(
    ("overrides", "blamed"),
    [
        (["epoch_max=-1"], r"`.*tiny\.yaml` with `--set epoch_max=-1`: epoch_max"),
        (
            ["lr_min=0", "model.args.inp_size=-2"],
            r"`model\.args` in `.*tiny\.yaml` with `--set model\.args\.inp_size=-2`: ",
        ),
    ],
)
def test_a_contradiction_names_the_set_options_of_its_section(overrides: list[str], blamed: str) -> None:
    with pytest.raises(ConfigError, match=blamed):
        load_config("tiny", overrides)
