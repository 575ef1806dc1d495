"""The whole network: shapes, number format, names, and weights to start from."""

from typing import Any

import pytest
import torch
from torch import nn

from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from tests.small import ARCH

SMALL: dict[str, Any] = ARCH | {"window_size": 3, "detail_stem": True}


def _model(**changes: Any) -> ClassWiseSam:
    torch.manual_seed(0)
    return ClassWiseSam(Architecture(**SMALL | changes)).eval()


@pytest.mark.parametrize(("batch", "bands", "classes", "size"), [(1, 1, 1, 32), (2, 3, 33, 64), (3, 7, 255, 32)])
def test_logits_are_one_float32_plane_a_class_at_the_images_size(
    batch: int, bands: int, classes: int, size: int
) -> None:
    model = _model(num_bands=bands, num_classes=classes, inp_size=size)
    with torch.no_grad():
        logits = model(torch.randn(batch, bands, size, size))
    assert (logits.shape, logits.dtype) == ((batch, classes, size, size), torch.float32)
    assert logits.isfinite().all()


@pytest.mark.parametrize("learning", [False, True])
def test_logits_stay_float32_under_bfloat16(learning: bool) -> None:
    model = _model()
    image = torch.randn(1, 3, 32, 32)
    with torch.set_grad_enabled(learning):
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(image)
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.1 * exact.abs().max() + 0.05


def test_top_level_names_are_segment_anythings() -> None:
    names = _model().state_dict()
    assert {name.partition(".")[0] for name in names} == {"image_encoder", "mask_decoder"}
    for name in (
        "image_encoder.pos_embed",
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.blocks.0.attn.rel_pos_h",
        "image_encoder.blocks.1.mlp.lin2.bias",
        "image_encoder.neck.3.weight",
        "mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.bias",
        "mask_decoder.output_upscaling.3.weight",
    ):
        assert name in names


def test_building_on_the_meta_device_makes_the_same_tensors() -> None:
    with torch.device("meta"):
        hollow = ClassWiseSam(Architecture(**SMALL))
    assert {tensor.device.type for tensor in hollow.state_dict().values()} == {"meta"}
    shapes = {name: tensor.shape for name, tensor in _model().state_dict().items()}
    assert {name: tensor.shape for name, tensor in hollow.state_dict().items()} == shapes


def test_the_same_seed_gives_the_same_weights() -> None:
    one, other = _model().state_dict(), _model().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_position_embeddings_and_class_tokens_do_not_start_alike() -> None:
    model = _model()
    assert model.image_encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    assert torch.pdist(model.mask_decoder.class_tokens.weight.detach()).min() > 0.1


def test_every_part_of_the_encoder_learns_from_the_logits() -> None:
    model = _model().train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    (model(torch.randn(2, 3, 32, 32)) * torch.randn(2, 4, 32, 32)).sum().backward()
    still = {
        name
        for name, parameter in model.image_encoder.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    assert still == set()


MIXTURE: dict[str, Any] = {
    "moe_start_layer_index": 1,
    "moe_num_expert_groups": 2,
    "moe_experts_per_group": 2,
    "moe_k_groups": 1,
    "moe_k_experts": 1,
    "moe_noisy_gating": True,
    "moe_decoder_experts": 2,
    "moe_decoder_k_experts": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "windows": {"inp_size": 64, "global_attn_indexes": ()},
    "experts": MIXTURE,
    "two groups a token": MIXTURE | {"moe_k_groups": 2, "moe_k_experts": 2},
    "adapters": {"embed_dim": 32, "adaptor": "adaptor", "input_type": "fft"},
    "adapters and experts": MIXTURE | {"embed_dim": 32, "adaptor": "adaptor", "input_type": "fft"},
    "no stem": {"detail_stem": False},
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_no_image_goes_forward_and_back(kind: str, precision: torch.dtype) -> None:
    """A process whose share is empty takes part in every pass."""
    model = _model(**KINDS[kind]).train()
    size = model.arch.inp_size
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        logits = model(torch.empty(0, 3, size, size))
    assert (logits.shape, logits.dtype) == ((0, 4, size, size), torch.float32)
    logits.sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not {name for name in without if name.startswith("image_encoder.")}
    assert not [
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    ]
    with torch.no_grad():
        assert model.eval()(torch.empty(0, 3, size, size)).shape == (0, 4, size, size)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_no_image_leaves_gradients_where_any_batch_does(kind: str) -> None:
    reached = []
    for count in (0, 2):
        model = _model(**KINDS[kind]).train()
        size = model.arch.inp_size
        model(torch.randn(count, 3, size, size)).sum().backward()
        reached.append({name for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert reached[0] == reached[1]
