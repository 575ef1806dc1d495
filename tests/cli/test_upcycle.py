"""`cwsam upcycle`, and `cwsam train` from a smaller checkpoint: a mixture grows, and its group 0 stays as it was."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from cwsam_cli.checkpoints.checkpoint import load_checkpoint
from cwsam_cli.checkpoints.pretrained import open_pretrained
from cwsam_cli.config.load import load_config
from cwsam_cli.main import app
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.model.weights import load_pretrained

Cwsam = Callable[..., Result]

SHAPE = (
    "embed_dim: 32, depth: 3, num_heads: 2, global_attn_indexes: [2], patch_size: 8, window_size: 2, "
    "prompt_embed_dim: 16, decoder_mlp_dim: 32"
)
BASE = "moe_start_layer_index: 2, moe_num_expert_groups: 1, moe_experts_per_group: 4, moe_k_groups: 1, moe_k_experts: 2"
"""As the 1.5B model: one group of experts in the last block."""
LARGE = (
    "moe_start_layer_index: 1, moe_num_expert_groups: 3, moe_experts_per_group: 4, moe_k_groups: 2, moe_k_experts: 2"
)
"""As the 10B model: three groups, from an earlier block on."""
EXACT = ("--set", "model.args.upcycle={method: noise, noise: 0}")


def _shape(*modes: str) -> tuple[str, ...]:
    mode = f"model.args.encoder_mode={{{', '.join((SHAPE, *modes))}}}"
    return ("--config", "tiny", "--set", "model.args.inp_size=32", "--set", mode)


def _weights(path: Path) -> dict[str, Tensor]:
    weights = torch.load(path, weights_only=True)["weights"]
    assert isinstance(weights, dict)
    return weights


def _adopted(source: Path, command: tuple[str, ...]) -> dict[str, Tensor]:
    """What a configuration's model begins with, made in memory."""
    config = load_config(command[1], list(command[3::2]))
    ours = load_checkpoint(source)
    arch = architecture(config.model, num_bands=len(ours.bands), num_classes=len(ours.taxonomy))
    model, _ = load_pretrained(
        arch,
        open_pretrained(str(source)),
        band_names=[band.name for band in ours.bands],
        class_names=ours.taxonomy.names,
        upcycle=config.model.args.upcycle,
        seed=config.training_settings.seed,
    )
    return model.state_dict()


def _is_base(name: str) -> bool:
    return name.startswith("image_encoder.") and ".mlp.groups.0." in name


def _parameters(weights: dict[str, Tensor]) -> set[str]:
    """All that may learn; a key's bias cancels in the softmax, so that its gradient is rounding alone."""
    return {name for name in weights if "gaussian_matrix" not in name and "k_proj.bias" not in name}


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in _parameters(before) if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, run: Any) -> Path:
    """A small mixture trained for an epoch. Read it, never change it."""
    folder = tmp_path_factory.mktemp("base")
    command = ["train", *_shape(BASE), "--set", "epoch_max=1", "--data", str(run.dataset), "-o", str(folder / "save")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    return folder / "save" / "model_epoch_best.pth"


# The grown checkpoint


@pytest.mark.parametrize("method", ["noise", "interpolate", "interpolate+noise"])
def test_the_file_holds_bit_for_bit_what_training_would_begin_with(cwsam: Cwsam, base: Path, method: str) -> None:
    command = (*_shape(LARGE), "--set", f"model.args.upcycle.method={method}", "--set", "training_settings.seed=3")
    cwsam("upcycle", base, *command, "-o", "grown.pth")
    grown, expected = _weights(Path("grown.pth")), _adopted(base, command)
    assert list(grown) == list(expected)
    assert all(torch.equal(grown[name], value) for name, value in expected.items())
    assert all(grown[name].dtype == value.dtype for name, value in expected.items())


def test_the_grown_checkpoint_is_a_checkpoint_of_the_larger_model_and_of_the_sources_data(
    cwsam: Cwsam, base: Path
) -> None:
    told = json.loads(cwsam("upcycle", base, *_shape(LARGE), "-o", "grown.pth", "--json").stdout)
    grown, source = load_checkpoint(Path("grown.pth")), load_checkpoint(base)
    assert (grown.architecture.moe_num_expert_groups, grown.architecture.moe_start_layer_index) == (3, 1)
    for kept in ("taxonomy", "bands", "dtype", "gsd_m", "ignore_background"):
        assert getattr(grown, kept) == getattr(source, kept), kept
    assert (grown.epoch, grown.metrics) == (0, {})
    model = grown.model()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert told["parameters"] == sum(value.numel() for value in model.state_dict().values())
    assert Path(told["path"]).samefile("grown.pth")
    assert [path.name for path in Path.cwd().iterdir()] == ["grown.pth"]


def test_group_0_is_the_source_and_the_source_file_is_untouched(
    cwsam: Cwsam, base: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    before = snapshot(base.parent)
    cwsam("upcycle", base, *_shape(LARGE), "-o", "grown.pth")
    assert snapshot(base.parent) == before
    grown, source = _weights(Path("grown.pth")), _weights(base)
    for lin in ("lin1", "lin2"):
        for kind in ("weight", "bias"):
            experts = f"image_encoder.blocks.2.mlp.groups.0.{lin}_{kind}"
            assert torch.equal(grown[experts], source[experts])
            copies, mlp = (
                f"image_encoder.blocks.1.mlp.groups.0.{lin}_{kind}",
                f"image_encoder.blocks.1.mlp.{lin}.{kind}",
            )
            assert all(torch.equal(copy, source[mlp]) for copy in grown[copies])


def test_exact_copies_change_nothing_and_noise_changes_little(cwsam: Cwsam, base: Path) -> None:
    def change(*settings: str) -> float:
        told = json.loads(
            cwsam("upcycle", base, *_shape(LARGE), *settings, "-o", "g.pth", "--overwrite", "--json").stdout
        )
        return float(told["relative_change"])

    assert change(*EXACT) < 1e-5
    assert 1e-5 < change() < 0.05
    assert change("--set", "model.args.encoder_mode.moe_k_experts=1", *EXACT) > 1e-4  # another k than the source's


def test_the_change_is_measured_against_the_source_at_its_own_k(cwsam: Cwsam, base: Path) -> None:
    wide = (*_shape(LARGE), "--set", "model.args.encoder_mode.moe_k_experts=4", *EXACT)
    told = json.loads(cwsam("upcycle", base, *wide, "-o", "grown.pth", "--json").stdout)
    source, grown = load_checkpoint(base).model(), load_checkpoint(Path("grown.pth")).model()
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = source.image_encoder(image), grown.image_encoder(image)
    assert told["relative_change"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)


def test_a_model_grown_exactly_from_a_dense_one_draws_the_same_map(cwsam: Cwsam, run: Any) -> None:
    mode = "model.args.encoder_mode={embed_dim: 24, depth: 1, num_heads: 2, global_attn_indexes: [0], patch_size: 8, "
    mode += "prompt_embed_dim: 16, decoder_mlp_dim: 32, window_size: 4, moe_start_layer_index: 0, "
    mode += "moe_num_expert_groups: 2, moe_k_groups: 2, moe_decoder_experts: 4, moe_decoder_k_experts: 2}"
    shape = ("--config", "tiny", "--set", "model.args.inp_size=32", "--set", mode)
    cwsam("upcycle", run.checkpoint, *shape, *EXACT, "-o", "grown.pth")
    maps = []
    for name, checkpoint in (("before.tif", run.checkpoint), ("after.tif", "grown.pth")):
        cwsam("predict", run.scene, "-c", checkpoint, "-o", name)
        with rasterio.open(name) as source:
            maps.append(source.read(1))
    assert len(np.unique(maps[0])) > 1
    assert (maps[0] == maps[1]).mean() > 0.999  # float rounding may turn a tie


def test_the_same_command_grows_the_same_weights_and_another_seed_others(cwsam: Cwsam, base: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        cwsam("upcycle", base, *_shape(LARGE), "--set", f"training_settings.seed={seed}", "-o", f"{name}.pth")
    one, again, other = (_weights(Path(f"{name}.pth")) for name in ("one", "again", "other"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        name
        for name in one
        if re.search(r"groups\.[12]\.|routers\.[12]\.|group_router\.weight|blocks\.1\.mlp\.routers\.0\.", name)
    }


def test_a_grown_checkpoint_grows_again(cwsam: Cwsam, base: Path) -> None:
    cwsam("upcycle", base, *_shape(LARGE), "-o", "grown.pth")
    larger = _shape(LARGE.replace("groups: 3", "groups: 5"))
    cwsam("upcycle", "grown.pth", *larger, "-o", "larger.pth")
    small, large = _weights(Path("grown.pth")), _weights(Path("larger.pth"))
    for name in small:
        if ".mlp.groups." in name:
            assert torch.equal(small[name], large[name]), name
    assert load_checkpoint(Path("larger.pth")).architecture.moe_num_expert_groups == 5


@pytest.mark.parametrize("name", ["sam_vit_h_4b8939.pth", "odd.bin"])
def test_a_file_with_segment_anythings_keys_grows_too(cwsam: Cwsam, run: Any, name: str) -> None:
    torch.manual_seed(0)
    dense = load_config("tiny", list(_shape("moe_num_expert_groups: 0")[3::2]))
    model = ClassWiseSam(architecture(dense.model, num_bands=3, num_classes=4))
    official = {key: value for key, value in model.state_dict().items() if key.startswith("image_encoder.")}
    torch.save(official, name)
    classes = ("--set", "train_dataset.dataset.args.classes=land_cover_33")
    cwsam("upcycle", name, *_shape(LARGE), *classes, "-o", "grown.pth")
    grown = load_checkpoint(Path("grown.pth"))
    assert len(grown.taxonomy) == 33
    assert [(band.name, band.mean) for band in grown.bands] == [("red", 123.675), ("green", 116.28), ("blue", 103.53)]
    assert grown.dtype == "uint8"
    copies = grown.weights["image_encoder.blocks.2.mlp.groups.0.lin1_weight"]
    assert all(torch.equal(copy, official["image_encoder.blocks.2.mlp.lin1.weight"]) for copy in copies)


# What it says


def test_people_read_what_was_grown_and_where_only_noise_tells_experts_apart(cwsam: Cwsam, base: Path) -> None:
    result = cwsam("upcycle", base, *_shape(LARGE), "-o", "grown.pth")
    assert re.search(r"^grown\.pth: [\d,]+ parameters, 99\.\d % from the source", result.stdout)
    assert re.search(r"changes by \d+\.\d\d %", result.stdout)
    assert re.search(r"weights: \d+ loaded, \d+ drawn, \d+ replicated; 99\.\d % of the model's values", result.stderr)
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert "image_encoder.blocks.1.mlp" in warning and "only by noise" in warning
    assert "lin1_weight" not in result.stderr.replace(warning, "")


def test_verbose_lists_every_tensor(cwsam: Cwsam, base: Path) -> None:
    lines = cwsam("--verbose", "upcycle", base, *_shape(LARGE), "-o", "grown.pth").stderr.splitlines()
    for name in _weights(Path("grown.pth")):
        (line,) = [line for line in lines if name in line.split()]
        new = re.search(r"groups\.[12]\.|router|blocks\.1\.mlp", name) and "blocks.2.mlp.routers.0" not in name
        drawn = re.search(r"group_router|blocks\.1\.mlp\.routers", name)
        assert line.startswith("drawn" if drawn else "replicated" if new else "loaded"), line


# What is refused


def test_an_existing_output_is_refused_unless_it_may_go(cwsam: Cwsam, refused: Callable[..., str], base: Path) -> None:
    Path("grown.pth").write_text("precious")
    message = refused(2, "upcycle", base, *_shape(LARGE), "-o", "grown.pth", names="`grown.pth` exists already")
    assert "--overwrite" in message
    cwsam("upcycle", base, *_shape(LARGE), "-o", "grown.pth", "--overwrite")
    assert load_checkpoint(Path("grown.pth")).architecture.moe_num_expert_groups == 3


def test_a_source_that_is_not_there_is_refused(refused: Callable[..., str]) -> None:
    refused(5, "upcycle", "gone.pth", *_shape(LARGE), "-o", "grown.pth", names="`gone.pth`")


def test_a_source_of_another_width_is_refused_and_nothing_is_left(refused: Callable[..., str], base: Path) -> None:
    wide = _shape(LARGE.replace("moe_start", "num_heads: 4, moe_start"))
    refused(5, "upcycle", base, *wide, "-o", "grown.pth", names="rel_pos_h")


def test_a_source_with_other_experts_in_a_group_is_refused(refused: Callable[..., str], base: Path) -> None:
    six = _shape(LARGE.replace("per_group: 4", "per_group: 6"))
    message = refused(5, "upcycle", base, *six, "-o", "grown.pth", names="has 4 experts")
    assert "moe_num_expert_groups" in message


def test_a_file_with_segment_anythings_keys_needs_a_class_table(refused: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(32, 3, 8, 8)}, tmp_path / "sam.pth")
    message = refused(3, "upcycle", "sam.pth", *_shape(LARGE), "-o", "grown.pth", names="classes` is missing")
    assert "--set train_dataset.dataset.args.classes=land_cover_33" in message


# Training from a smaller checkpoint


def test_training_begins_with_the_grown_weights_and_keeps_group_0(cwsam: Cwsam, run: Any, base: Path) -> None:
    command = (*_shape(LARGE), "--set", f"sam_checkpoint={base}", "--set", "optimizer.args.lr=1e-3")
    result = cwsam(
        *("train", *command, "--set", "epoch_max=2", "--set", "epoch_val=2"), "--data", run.dataset, "-o", "r"
    )
    start, end = _adopted(base, command), _weights(Path("r/model_epoch_last.pth"))
    frozen = {name for name in start if _is_base(name)}
    assert len(frozen) == 2 * 4
    assert _changed(start, end) == _parameters(start) - frozen
    close = [name for name in start if (end[name] - start[name]).norm() < 0.5 * start[name].norm()]
    assert len(close) > 0.7 * len(start)  # it began there, and not somewhere of its own
    values = sum(value.numel() for name, value in end.items() if "gaussian" not in name)
    free = values - sum(end[name].numel() for name in frozen)
    assert f"{free:,} of {values:,} parameters learn" in result.stderr
    assert re.search(r"weights: \d+ loaded, \d+ drawn, \d+ replicated; 99\.\d % of the model's values", result.stderr)


def test_group_0_learns_where_that_is_asked_for(cwsam: Cwsam, run: Any, base: Path) -> None:
    command = (*_shape(LARGE), "--set", f"sam_checkpoint={base}", "--set", "model.args.freeze_base_group=false")
    cwsam("train", *command, "--set", "epoch_max=1", "--data", run.dataset, "-o", "r")
    start, end = _adopted(base, command), _weights(Path("r/model_epoch_last.pth"))
    assert _changed(start, end) == _parameters(start)


def test_a_mixture_from_scratch_learns_as_a_whole(cwsam: Cwsam, run: Any) -> None:
    command = _shape(LARGE)
    cwsam("train", *command, "--set", "epoch_max=1", "--data", run.dataset, "-o", "r")
    end = _weights(Path("r/model_epoch_last.pth"))
    torch.manual_seed(0)
    config = load_config("tiny", list(command[3::2]))
    start = ClassWiseSam(architecture(config.model, num_bands=3, num_classes=3)).state_dict()
    assert _changed(start, end) == _parameters(start)


def test_stages_say_what_learns_and_only_that_changes(cwsam: Cwsam, run: Any, base: Path) -> None:
    stages = "[{name: integrate, epochs: 1}, {name: adapt, epochs: 1}, {name: finetune, epochs: 1, lr_factor: 0.5}]"
    command = (
        *_shape(LARGE, "adaptor: adaptor", "input_type: fft", "moe_decoder_experts: 4", "moe_decoder_k_experts: 2"),
        *("--set", f"sam_checkpoint={base}", "--set", f"stages={stages}"),
        *("--set", "epoch_max=3"),
    )
    settings = ("--set", "epoch_save=1", "--set", "epoch_val=3")
    result = cwsam("train", *command, *settings, "--data", run.dataset, "-o", "r")
    epochs = [_adopted(base, command), *(_weights(Path(f"r/model_epoch_{epoch}.pth")) for epoch in (1, 2, 3))]
    changed = [_changed(before, after) for before, after in pairwise(epochs)]
    names = _parameters(epochs[0])
    routers = {name for name in names if ".routers." in name or ".group_router." in name}
    new = {name for name in names if re.search(r"image_encoder\..*\.groups\.[12]\.", name)}
    adapters = {name for name in names if ".adapter_" in name or ".prompt." in name}
    decoder = {name for name in names if name.startswith("mask_decoder.")}
    assert changed[0] == new | routers
    assert changed[1] == new | routers | adapters | decoder
    assert changed[2] == {name for name in names if not _is_base(name)}
    told = [line.split()[0] for line in result.stderr.splitlines() if line.endswith("parameters learn")]
    assert told == ["integrate:", "adapt:", "finetune:"]
    assert f"integrate: {sum(epochs[0][name].numel() for name in changed[0]):,} of" in result.stderr


def test_beside_adapters_segment_anythings_own_weights_stay(cwsam: Cwsam, run: Any, base: Path) -> None:
    command = (*_shape(LARGE, "adaptor: adaptor", "input_type: fft"), "--set", f"sam_checkpoint={base}")
    cwsam("train", *command, "--set", "epoch_max=1", "--data", run.dataset, "-o", "r")
    start, end = _adopted(base, command), _weights(Path("r/model_epoch_last.pth"))
    learns = re.compile(r"mask_decoder\.|adapter_|prompt\.|router|groups\.[12]\.")
    assert _changed(start, end) <= {name for name in start if learns.search(name)}
    assert any("adapter_" in name for name in _changed(start, end))


def test_a_run_leaves_the_checkpoint_it_began_with_untouched(
    cwsam: Cwsam, run: Any, base: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    before = snapshot(base.parent)
    cwsam(
        *("train", *_shape(BASE), "--set", f"sam_checkpoint={base}", "--set", "epoch_max=1"),
        *("--data", run.dataset, "-o", "r"),
    )
    assert snapshot(base.parent) == before


def test_the_load_of_every_group_and_expert_is_in_the_events(cwsam: Cwsam, run: Any, base: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = (*_shape(LARGE), "--set", f"sam_checkpoint={base}", "--set", "epoch_max=1")
    cwsam("train", *command, "--data", run.dataset, "-o", "r")
    events = EventAccumulator("r")
    events.Reload()
    for block in (1, 2):
        layer = f"load/image_encoder.blocks.{block}.mlp"
        groups = [events.Scalars(f"{layer}/group_{group}")[0].value for group in range(3)]
        assert sum(groups) == pytest.approx(1, abs=1e-5)
        assert groups[0] == pytest.approx(0.5, abs=0.01)  # one of the two that are kept, for every token
        experts = [events.Scalars(f"{layer}/group_0/expert_{expert}")[0].value for expert in range(4)]
        assert sum(experts) == pytest.approx(groups[0], abs=1e-5)
        entropy = events.Scalars(f"routing_entropy/image_encoder.blocks.{block}.mlp")[0].value
        assert 0 < entropy < np.log(12)
