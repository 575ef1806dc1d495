"""The encoder is Segment Anything's: its sizes, its names, its windows."""

from typing import Any

import pytest
import torch

from cwsam_cli.config.schema import ModelConfig
from cwsam_cli.model.encoder import Block, ImageEncoder, LayerNorm2d
from cwsam_cli.model.variants import Architecture, architecture
from tests.small import ARCH

SMALL: dict[str, Any] = ARCH | {"inp_size": 64, "window_size": 4}


def _meta(name: str, bands: int = 3) -> ImageEncoder:
    with torch.device("meta"):
        return ImageEncoder(architecture(ModelConfig(name=name), num_bands=bands, num_classes=33))


def _block(index: int, **changes: Any) -> Block:
    torch.manual_seed(0)
    block = Block(Architecture(**SMALL | changes), index).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def _names_of_segment_anything(depth: int) -> set[str]:
    names = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "neck.0.weight", "neck.2.weight"}
    names |= {f"neck.{layer}.{kind}" for layer in (1, 3) for kind in ("weight", "bias")}
    for index in range(depth):
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.lin1", "mlp.lin2"):
            names |= {f"blocks.{index}.{layer}.weight", f"blocks.{index}.{layer}.bias"}
        names |= {f"blocks.{index}.attn.rel_pos_h", f"blocks.{index}.attn.rel_pos_w"}
    return names


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sam_vit_b", 87_278_848), ("sam_vit_l", 305_099_776), ("sam_vit_h", 633_052_928)],
)
def test_encoders_at_512_pixels_have_exactly_their_parameters(name: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in _meta(name).parameters()) == parameters


@pytest.mark.parametrize(("name", "depth"), [("sam_vit_b", 12), ("sam_vit_l", 24), ("sam_vit_h", 32)])
def test_tensor_names_are_segment_anythings(name: str, depth: int) -> None:
    assert set(_meta(name).state_dict()) == _names_of_segment_anything(depth)


@pytest.mark.parametrize(
    ("name", "width", "d", "everywhere"),
    [("sam_vit_b", 768, 64, {2, 5, 8, 11}), ("sam_vit_h", 1280, 80, {7, 15, 23, 31})],
)
def test_position_tables_have_their_shapes_at_512_pixels(name: str, width: int, d: int, everywhere: set[int]) -> None:
    encoder = _meta(name)
    assert encoder.pos_embed.shape == (1, 32, 32, width)
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, Block)
        length = 63 if index in everywhere else 27
        assert block.attn.rel_pos_h.shape == block.attn.rel_pos_w.shape == (length, d), index


def test_norms_of_the_blocks_add_1e_6() -> None:
    block = _block(0)
    assert (block.norm1.eps, block.norm2.eps) == (1e-6, 1e-6)


def test_other_bands_change_only_the_patch_filters() -> None:
    three, eight = (
        {name: tensor.shape for name, tensor in _meta("sam_vit_b", bands).state_dict().items()} for bands in (3, 8)
    )
    assert {name for name in three if three[name] != eight[name]} == {"patch_embed.proj.weight"}
    assert eight["patch_embed.proj.weight"] == (768, 8, 16, 16)


def test_features_have_one_column_a_patch() -> None:
    encoder = ImageEncoder(Architecture(**SMALL))
    assert encoder(torch.randn(2, 3, 64, 64)).shape == (2, 32, 8, 8)


def test_a_windowed_block_cannot_see_outside_its_window() -> None:
    block, x = _block(0), torch.randn(1, 8, 8, 16)
    changed = x.clone()
    changed[0, 1, 6] = torch.randn(16)  # in the window above right
    with torch.no_grad():
        differs = (block(x) != block(changed)).any(dim=-1)[0]
    assert differs[:4, 4:].all()
    assert not differs[:, :4].any()
    assert not differs[4:].any()


def test_a_global_block_sees_everything() -> None:
    block, x = _block(1), torch.randn(1, 8, 8, 16)
    changed = x.clone()
    changed[0, 1, 6] = torch.randn(16)
    with torch.no_grad():
        differs = (block(x) != block(changed)).any(dim=-1)[0]
    assert differs.all()


def test_a_window_as_large_as_the_image_is_global_attention() -> None:
    windowed, everywhere = _block(0, window_size=8), _block(1)
    x = torch.randn(2, 8, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(windowed(x), everywhere(x))


def test_windows_that_do_not_divide_the_image_keep_its_size() -> None:
    block, x = _block(0, window_size=3), torch.randn(1, 8, 8, 16)
    with torch.no_grad():
        assert block(x).shape == x.shape


def test_positions_reach_the_features() -> None:
    torch.manual_seed(0)
    encoder, image = ImageEncoder(Architecture(**SMALL)), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(image)
        encoder.pos_embed[0, 3, 5] += torch.randn(16)
        assert not torch.equal(before, encoder(image))


def test_layer_norm_2d_normalises_the_channels_of_each_pixel() -> None:
    x = torch.randn(2, 6, 3, 5) * 7 + 2
    norm = LayerNorm2d(6)
    normed = norm(x)
    torch.testing.assert_close(normed.mean(dim=1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(dim=1, correction=0), torch.ones(2, 3, 5), atol=1e-4, rtol=0)
    with torch.no_grad():
        norm.weight[4], norm.bias[4] = 3.0, -1.0
    torch.testing.assert_close(norm(x)[:, 4], normed[:, 4] * 3 - 1)
