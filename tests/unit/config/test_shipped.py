"""The configurations that come with the program build the models that they promise."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cwsam_cli.config.load import dataset_taxonomy, load_config
from cwsam_cli.config.schema import RunConfig
from cwsam_cli.console import log
from cwsam_cli.model.encoder import MLP, Block
from cwsam_cli.model.experts import HierarchicalExperts
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import VARIANTS, architecture

EXPERT = 13_113_600
"""Parameters of one MLP of ViT-H."""

CONFIGS = ["tiny", "vit_b", "XinTong/1dot5B", "XinTong/3b", "XinTong/10b_fsdp", "XinTong/10b_new"]
XINTONG = [name for name in CONFIGS if name.startswith("XinTong/")]


def _hollow(config: RunConfig, bands: int = 3) -> ClassWiseSam:
    with torch.device("meta"):
        return ClassWiseSam(architecture(config.model, num_bands=bands, num_classes=33))


def _count(model: torch.nn.Module, *pieces: str) -> int:
    """Parameters whose names hold one of the pieces; all without any."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not pieces or any(piece in name for piece in pieces)
    )


def _blocks(model: ClassWiseSam) -> Iterator[tuple[int, torch.nn.Module]]:
    for index, block in enumerate(model.image_encoder.blocks):
        assert isinstance(block, Block)
        yield index, block.mlp


def test_these_are_all_that_are_shipped() -> None:
    folder = Path(__file__).parents[3] / "configs"
    found = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    assert {name for name in found if not name.startswith("classes/")} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_configuration_loads_without_a_warning(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.WARNING, logger=log.name)
    assert load_config(name).model.name in VARIANTS
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "model", "least", "most"),
    [
        ("tiny", "sam_tiny", 3e6, 12e6),
        ("vit_b", "sam_vit_b", 87_278_848 + 3.4e6, 87_278_848 + 3.7e6),
        ("XinTong/1dot5B", "sam_moe_1dot5b", 1.45e9, 1.55e9),
        ("XinTong/3b", "sam_moe_3b", 2.95e9, 3.15e9),
        ("XinTong/10b_fsdp", "sam_hierarchical_moe_10b", 10.4e9, 10.8e9),
        ("XinTong/10b_new", "sam_hierarchical_moe_10b", 10.4e9, 10.8e9),
    ],
)
def test_every_shipped_configuration_builds_a_model_of_its_size(
    name: str, model: str, least: float, most: float
) -> None:
    config = load_config(name)
    assert config.model.name == model
    assert least <= _count(_hollow(config)) <= most


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sam_vit_b", 87_278_848), ("sam_vit_l", 305_099_776), ("sam_vit_h", 633_052_928)],
)
def test_dense_variants_have_exactly_segment_anythings_encoder(name: str, parameters: int) -> None:
    config = load_config("vit_b", [f"model.name={name}"])
    assert _count(_hollow(config).image_encoder) == parameters


@pytest.mark.parametrize(
    ("name", "first", "groups", "experts", "kg", "ke"),
    [
        ("XinTong/1dot5B", 28, 1, 16, 1, 4),
        ("XinTong/3b", 20, 1, 16, 1, 4),
        ("XinTong/10b_fsdp", 24, 6, 16, 2, 2),
        ("XinTong/10b_new", 24, 6, 16, 2, 2),
        ("tiny", 4, 2, 4, 1, 2),
    ],
)
def test_mixtures_have_their_experts_in_the_late_blocks(
    name: str, first: int, groups: int, experts: int, kg: int, ke: int
) -> None:
    model = _hollow(load_config(name))
    width = model.arch.embed_dim
    assert model.arch.depth == (6 if name == "tiny" else 32)
    for index, mlp in _blocks(model):
        if index < first:
            assert isinstance(mlp, MLP), index
            continue
        assert isinstance(mlp, HierarchicalExperts), index
        assert (len(mlp.groups), mlp.experts, mlp.top_groups, mlp.top_experts) == (groups, experts, kg, ke)
        for group in mlp.groups:
            assert group.lin1_weight.shape == (experts, 4 * width, width)
            assert group.lin2_weight.shape == (experts, width, 4 * width)


@pytest.mark.parametrize(
    ("name", "blocks", "experts"),
    [("XinTong/1dot5B", 4, 16), ("XinTong/3b", 12, 16), ("XinTong/10b_fsdp", 8, 96), ("XinTong/10b_new", 8, 96)],
)
def test_the_encoders_experts_are_so_many_mlps_of_vit_h(name: str, blocks: int, experts: int) -> None:
    encoder = _hollow(load_config(name)).image_encoder
    assert _count(encoder, ".mlp.groups.") == blocks * experts * EXPERT
    assert _count(encoder, ".mlp.lin") == (32 - blocks) * EXPERT
    assert _count(encoder, ".adapter_") == 52_531_200
    routers_and_prompt = _count(encoder, "router", "prompt.")
    assert _count(encoder) == 633_052_928 + 52_531_200 + blocks * (experts - 1) * EXPERT + routers_and_prompt


@pytest.mark.parametrize(("name", "experts"), [("XinTong/10b_fsdp", 16), ("XinTong/10b_new", 16), ("XinTong/3b", 0)])
def test_only_the_10b_model_has_experts_in_its_decoder(name: str, experts: int) -> None:
    model = _hollow(load_config(name))
    expert = 256 * 2048 + 2048 + 2048 * 256 + 256
    assert _count(model.mask_decoder, ".mlp.groups.") == 2 * experts * expert


@pytest.mark.parametrize("name", XINTONG)
def test_the_research_configurations_are_for_33_classes_at_512_pixels_with_adapters(name: str) -> None:
    config = load_config(name)
    arch = _hollow(config).arch
    assert (arch.num_classes, arch.inp_size, arch.adaptor, arch.input_type, arch.freq_nums) == (
        33,
        512,
        "adaptor",
        "fft",
        0.25,
    )
    for dataset in (config.train_dataset, config.val_dataset, config.test_dataset):
        table = dataset_taxonomy(dataset.dataset.args)
        assert table is not None and len(table) == 33
        assert dataset.dataset.args.root_path_1 and dataset.dataset.args.root_path_2
    assert config.train_dataset.wrapper.args.augment
    assert not config.val_dataset.wrapper.args.augment and not config.test_dataset.wrapper.args.augment
    assert config.training_settings.precision == "bf16"


def test_where_each_configuration_begins() -> None:
    begins = {name: load_config(name).sam_checkpoint for name in CONFIGS}
    assert begins["tiny"] is None and begins["vit_b"] is None
    assert {begins[name] for name in ("XinTong/1dot5B", "XinTong/3b", "XinTong/10b_new")} == {"sam_vit_h"}
    grown_from = begins["XinTong/10b_fsdp"]
    assert grown_from is not None and grown_from.endswith("model_epoch_best.pth")


def test_the_10b_model_grown_from_the_1_5b_learns_in_three_stages() -> None:
    config = load_config("XinTong/10b_fsdp")
    assert [stage.name for stage in config.stages] == ["integrate", "adapt", "finetune"]
    assert config.epochs == sum(stage.epochs for stage in config.stages)
    assert config.model.args.freeze_base_group
    assert config.model.args.upcycle.method == "interpolate+noise"
    assert config.model.args.upcycle.noise == 0.02


def test_the_10b_model_can_grow_from_the_1_5b_block_by_block() -> None:
    """Same width, same heads, same experts in a group: what upcycling asks for."""
    large, base = (_hollow(load_config(name)).state_dict() for name in ("XinTong/10b_fsdp", "XinTong/1dot5B"))
    for name, tensor in base.items():
        if ".mlp." not in name:
            assert large[name].shape == tensor.shape, name
        elif ".mlp.groups.0." in name or ".mlp.routers.0." in name:
            assert large[name].shape == tensor.shape, name


@pytest.mark.parametrize("name", CONFIGS)
def test_eight_bands_change_only_what_sees_the_image(name: str) -> None:
    config = load_config(name)
    three, eight = (_hollow(config, bands).state_dict() for bands in (3, 8))
    changed = {key for key in three if three[key].shape != eight[key].shape}
    assert three.keys() == eight.keys()
    assert "image_encoder.patch_embed.proj.weight" in changed
    assert changed <= {
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.prompt.spectrum.weight",
        "mask_decoder.detail_stem.reduce.weight",
    }
