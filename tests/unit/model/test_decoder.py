"""The decoder: one token a class, and nothing that favours one class's plane over another's."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cwsam_cli.model.decoder import ClassWiseMaskDecoder, DetailStem, PositionCode
from cwsam_cli.model.variants import Architecture
from tests.small import ARCH

SMALL: dict[str, Any] = ARCH | {
    "depth": 1,
    "global_attn_indexes": (),
    "num_classes": 5,
    "inp_size": 64,
    "patch_size": 16,
    "decoder_mlp_dim": 48,
}
LINEAR = ("weight", "bias")


def _decoder(**changes: Any) -> ClassWiseMaskDecoder:
    torch.manual_seed(0)
    return ClassWiseMaskDecoder(Architecture(**SMALL | changes)).eval()


def _inputs(batch: int = 2, bands: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, 32, 4, 4), torch.randn(batch, bands, 64, 64)


def _names_of_segment_anything() -> set[str]:
    """Of the two-way transformer and the upscaling, as in its `mask_decoder`."""
    attention = [f"{part}_proj" for part in "qkv"] + ["out_proj"]
    names = set()
    for layer in (0, 1):
        parts = ["norm1", "norm2", "norm3", "norm4", "mlp.lin1", "mlp.lin2"]
        for which in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            parts += [f"{which}.{part}" for part in attention]
        names |= {f"transformer.layers.{layer}.{part}.{kind}" for part in parts for kind in LINEAR}
    parts = ["norm_final_attn"] + [f"final_attn_token_to_image.{part}" for part in attention]
    names |= {f"transformer.{part}.{kind}" for part in parts for kind in LINEAR}
    return names | {f"output_upscaling.{layer}.{kind}" for layer in (0, 1, 3) for kind in LINEAR}


def test_tensor_names_are_segment_anythings_besides_the_classes_own() -> None:
    own = {"class_tokens.weight", "pe_layer.positional_encoding_gaussian_matrix"}
    own |= {f"class_hypernetwork.layers.{layer}.{kind}" for layer in range(3) for kind in LINEAR}
    assert set(_decoder().state_dict()) == _names_of_segment_anything() | own


def test_a_decoder_for_33_classes_without_stem_has_about_3_5_million_parameters() -> None:
    with torch.device("meta"):
        decoder = _decoder(num_classes=33, prompt_embed_dim=256, decoder_mlp_dim=2048)
    assert 3.4e6 < sum(parameter.numel() for parameter in decoder.parameters()) < 3.6e6


def test_sizes_of_the_two_way_transformer_are_segment_anythings() -> None:
    with torch.device("meta"):
        shapes = {
            k: tuple(v.shape) for k, v in _decoder(prompt_embed_dim=256, decoder_mlp_dim=2048).state_dict().items()
        }
    assert shapes["transformer.layers.1.mlp.lin1.weight"] == (2048, 256)
    assert shapes["transformer.layers.0.self_attn.q_proj.weight"] == (256, 256)
    assert shapes["transformer.layers.0.cross_attn_token_to_image.q_proj.weight"] == (128, 256)
    assert shapes["output_upscaling.0.weight"] == (256, 64, 2, 2)
    assert shapes["output_upscaling.3.weight"] == (64, 32, 2, 2)
    assert shapes["class_hypernetwork.layers.2.weight"] == (32, 256)
    assert shapes["pe_layer.positional_encoding_gaussian_matrix"] == (2, 128)


@pytest.mark.parametrize("classes", [1, 2, 33])
def test_there_is_one_token_and_one_plane_a_class(classes: int) -> None:
    decoder = _decoder(num_classes=classes)
    assert decoder.class_tokens.weight.shape == (classes, 32)
    assert decoder(*_inputs()).shape == (2, classes, 16, 16)


@pytest.mark.parametrize("detail_stem", [False, True])
def test_permuting_class_tokens_permutes_the_planes(detail_stem: bool) -> None:
    decoder, order = _decoder(detail_stem=detail_stem), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        before = decoder(*_inputs())
        decoder.class_tokens.weight.copy_(decoder.class_tokens.weight[order])
        after = decoder(*_inputs())
    torch.testing.assert_close(after, before[:, order], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    decoder, (features, image) = _decoder(detail_stem=True), _inputs()
    with torch.no_grad():
        torch.testing.assert_close(decoder(features, image)[1:], decoder(features[1:], image[1:]))


def test_every_parameter_learns() -> None:
    decoder = _decoder(detail_stem=True)
    (decoder(*_inputs()) * torch.randn(2, 5, 16, 16)).sum().backward()
    still = {
        name for name, parameter in decoder.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    # a key's bias adds the same to every score of a query, and softmax forgets it
    assert {name for name in still if not name.endswith("k_proj.bias")} == set()


@pytest.mark.parametrize(("patch", "bands"), [(8, 3), (12, 1), (16, 8)])
def test_the_detail_stem_is_as_fine_as_the_logits(patch: int, bands: int) -> None:
    stem = DetailStem(bands, 6, patch // 4)
    upscaled = torch.randn(2, 6, 4 * 96 // patch, 4 * 96 // patch)
    assert stem(torch.randn(2, bands, 96, 96), upscaled).shape == upscaled.shape


def test_without_a_detail_stem_the_image_itself_changes_nothing() -> None:
    features, image = _inputs()
    with torch.no_grad():
        plain, detailed = _decoder(), _decoder(detail_stem=True)
        assert plain.detail_stem is None
        assert torch.equal(plain(features, image), plain(features, image + 1))
        assert not torch.equal(detailed(features, image), detailed(features, image * 2))


def test_the_position_code_is_sine_and_cosine_of_projected_coordinates() -> None:
    torch.manual_seed(0)
    layer = PositionCode(8)
    code = layer(2, 3)
    assert code.shape == (6, 8)
    across, down = 2 * (2 + 0.5) / 3 - 1, 2 * (0 + 0.5) / 2 - 1  # the third patch of the first row
    matrix = layer.positional_encoding_gaussian_matrix
    angle = 2 * torch.pi * (across * matrix[0] + down * matrix[1])
    torch.testing.assert_close(code[2], torch.cat([angle.sin(), angle.cos()]), atol=1e-5, rtol=1e-4)


def test_where_a_feature_lies_matters_to_its_logits() -> None:
    decoder, (features, image) = _decoder(), _inputs(batch=1)
    with torch.no_grad():
        here, there = decoder(features, image), decoder(features.flip(3), image)
    blocks = there.unflatten(3, (4, 4)).flip(3).flatten(3)  # the same patches, back in their places
    assert not torch.allclose(here, blocks, atol=1e-4)
