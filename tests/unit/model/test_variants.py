"""The models that a configuration can name, and what becomes of numbers that do not fit."""

from typing import Any

import pytest
import torch

from cwsam_cli.config.schema import EncoderMode, ModelArgs, ModelConfig
from cwsam_cli.errors import ConfigError
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import VARIANTS, Architecture, architecture


def _arch(name: str = "sam_tiny", inp_size: int = 512, **mode: Any) -> Architecture:
    config = ModelConfig(name=name, args=ModelArgs(inp_size=inp_size, encoder_mode=EncoderMode(**mode)))
    return architecture(config, num_bands=4, num_classes=7)


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "everywhere"),
    [
        ("sam_vit_b", 768, 12, 12, (2, 5, 8, 11)),
        ("sam_vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        ("sam_vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    ],
)
def test_the_three_sizes_of_segment_anything(
    name: str, width: int, depth: int, heads: int, everywhere: tuple[int, ...]
) -> None:
    arch = _arch(name)
    assert (arch.embed_dim, arch.depth, arch.num_heads, arch.global_attn_indexes) == (width, depth, heads, everywhere)
    assert (arch.patch_size, arch.window_size, arch.prompt_embed_dim, arch.decoder_mlp_dim) == (16, 14, 256, 2048)
    assert (arch.patches, arch.detail_stem) == (32, False)


def test_bands_classes_and_size_come_from_the_data_and_the_configuration() -> None:
    arch = _arch(inp_size=128)
    assert (arch.num_bands, arch.num_classes, arch.inp_size, arch.patches) == (4, 7, 128, 16)


def test_the_tiny_model_has_3_to_12_million_parameters_and_a_detail_stem() -> None:
    with torch.device("meta"):
        model = ClassWiseSam(architecture(ModelConfig(name="sam_tiny"), num_bands=3, num_classes=33))
    assert 3e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 12e6
    assert model.mask_decoder.detail_stem is not None


@pytest.mark.parametrize(
    ("key", "given", "built"),
    [
        ("embed_dim", 96, 96),
        ("depth", 8, 8),
        ("num_heads", 3, 3),
        ("global_attn_indexes", [0, 1], (0, 1)),
        ("global_attn_indexes", [], ()),
        ("window_size", 4, 4),
        ("patch_size", 16, 16),
        ("prompt_embed_dim", 64, 64),
        ("decoder_mlp_dim", 100, 100),
        ("detail_stem", False, False),
    ],
)
def test_encoder_mode_overrides_the_variant_and_nothing_else(key: str, given: Any, built: Any) -> None:
    plain, changed = _arch(), _arch(**{key: given})
    assert getattr(changed, key) == built
    assert getattr(plain, key) != built
    for other in Architecture.__slots__:
        assert other == key or getattr(changed, other) == getattr(plain, other)


def test_overrides_leave_the_variant_itself_alone() -> None:
    before = {name: dict(row) for name, row in VARIANTS.items()}
    _arch(embed_dim=96, global_attn_indexes=[0])
    assert before == VARIANTS


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no model `sam_vit_x` \(`model\.name`\)") as caught:
        _arch("sam_vit_x")
    assert caught.value.exit_code == 3
    assert all(name in caught.value.hint for name in VARIANTS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inp_size": 500}, "inp_size 500 is not a multiple of patch_size 8"),
        ({"num_heads": 5}, "embed_dim 192 is not a multiple of num_heads 5"),
        ({"patch_size": 6, "inp_size": 96}, "patch_size 6 is not a multiple of 4"),
        ({"prompt_embed_dim": 40}, "prompt_embed_dim 40 is not a multiple of 16"),
        ({"global_attn_indexes": [6]}, r"global_attn_indexes \[6\] name a block outside 0-5"),
        ({"global_attn_indexes": [-1]}, r"global_attn_indexes \[-1\] name a block outside 0-5"),
        ({"depth": 4}, r"global_attn_indexes \[2, 5\] name a block outside 0-3"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"`model\.args` of sam_tiny: {told}") as caught:
        _arch(**changes)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("inp_size", [8, 64, 200])
def test_any_multiple_of_the_patch_is_a_size(inp_size: int) -> None:
    assert _arch(inp_size=inp_size).patches == inp_size // 8
