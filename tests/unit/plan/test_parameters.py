"""A model's size and cost, counted without building it."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cwsam_cli.config.schema import ModelConfig
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from cwsam_cli.plan.parameters import forward_flops, model_size
from tests.small import ARCH

SMALL: dict[str, Any] = ARCH | {
    "embed_dim": 32,
    "depth": 4,
    "global_attn_indexes": (1, 3),
    "num_classes": 5,
    "inp_size": 64,
    "window_size": 4,
    "decoder_mlp_dim": 48,
}
MIXTURE = {
    "moe_start_layer_index": 1,
    "moe_num_expert_groups": 3,
    "moe_experts_per_group": 4,
    "moe_k_groups": 2,
    "moe_k_experts": 1,
}
EXPERT = 32 * 128 + 128 + 128 * 32 + 32


def _variant(name: str, bands: int = 3, classes: int = 33) -> Architecture:
    return architecture(ModelConfig(name=name), num_bands=bands, num_classes=classes)


def _counted(arch: Architecture) -> int:
    """What torch counts when the model runs; the Fourier transform does not run on the meta device."""
    with torch.device("cpu" if arch.input_type == "fft" else "meta"):
        model = ClassWiseSam(arch)
        image = torch.empty(1, arch.num_bands, arch.inp_size, arch.inp_size)
    # Attention as matrix products: the counter does not know torch's fused kernel for CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops())


# Parameters


@pytest.mark.parametrize(
    "changes",
    [
        {},
        MIXTURE | {"moe_decoder_experts": 4, "moe_decoder_k_experts": 2, "detail_stem": True},
        {"adaptor": "adaptor", "input_type": "fft", "num_bands": 5},
    ],
)
def test_the_parts_sum_to_the_parameters_of_the_model(changes: dict[str, Any]) -> None:
    arch = Architecture(**SMALL | changes)
    size = model_size(arch)
    assert sum(size.parts.values()) == size.total
    assert size.total == sum(parameter.numel() for parameter in ClassWiseSam(arch).parameters())


def test_the_parts_of_a_mixture_by_hand() -> None:
    changes = MIXTURE | {"moe_decoder_experts": 4, "moe_decoder_k_experts": 2, "adaptor": "adaptor"}
    parts = model_size(Architecture(**SMALL | changes)).parts
    attention = 32 * 96 + 96 + 32 * 32 + 32
    assert parts["encoder attention"] == 4 * attention + 2 * 2 * 7 * 16 + 2 * 2 * 15 * 16
    assert parts["encoder dense MLPs"] == EXPERT
    for group in range(3):
        assert parts[f"encoder experts, group {group}"] == 3 * 4 * EXPERT
    assert parts["decoder experts, group 0"] == 2 * 4 * (32 * 48 + 48 + 48 * 32 + 32)
    assert parts["routers"] == 3 * (3 * 4 * 32 + 3 * 32 + 3) + 2 * 4 * 32
    assert parts["adapters and prompts"] == 4 * 2 * (32 * 8 + 8 + 8 * 32 + 32)
    assert parts["encoder embedding, norms, neck"] == (3 * 64 * 32 + 32) + 64 * 32 + 4 * 4 * 32 + 32 * 32 * 10 + 4 * 32


def test_a_dense_model_is_active_as_a_whole() -> None:
    size = model_size(Architecture(**SMALL))
    assert size.active == size.total
    assert not [part for part in size.parts if "experts" in part or part == "routers"]


@pytest.mark.parametrize(("kg", "ke"), [(1, 1), (2, 1), (2, 3), (3, 4)])
def test_the_active_parameters_of_a_mixture_leave_out_the_experts_a_token_does_not_meet(kg: int, ke: int) -> None:
    size = model_size(Architecture(**SMALL | MIXTURE | {"moe_k_groups": kg, "moe_k_experts": ke}))
    assert size.total - size.active == 3 * (3 * 4 - kg * ke) * EXPERT


def test_the_active_parameters_of_experts_in_the_decoder() -> None:
    changes = {"moe_decoder_experts": 6, "moe_decoder_k_experts": 2}
    size = model_size(Architecture(**SMALL | changes))
    assert size.total - size.active == 2 * (6 - 2) * (32 * 48 + 48 + 48 * 32 + 32)


def test_a_token_of_the_10b_model_meets_4_of_96_experts_and_4_of_16_in_the_decoder() -> None:
    size = model_size(_variant("sam_hierarchical_moe_10b"))
    decoder_expert = 256 * 2048 + 2048 + 2048 * 256 + 256
    assert size.total - size.active == 8 * (96 - 4) * 13_113_600 + 2 * (16 - 4) * decoder_expert


# Operations


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_size": 3},  # windows with padding
        {"window_size": 5, "inp_size": 96},
        {"global_attn_indexes": ()},
        {"global_attn_indexes": (0, 1, 2, 3)},
        {"detail_stem": True},
        {"detail_stem": True, "patch_size": 16},
        {"detail_stem": True, "patch_size": 12, "inp_size": 96, "num_bands": 7},
        {"num_bands": 1},
        {"num_classes": 60},
        {"prompt_embed_dim": 64, "decoder_mlp_dim": 16},
        {"adaptor": "adaptor"},
        {"adaptor": "adaptor", "input_type": "fft", "num_bands": 8, "embed_dim": 64},
    ],
)
def test_operations_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    arch = Architecture(**SMALL | changes)
    assert forward_flops(arch) == pytest.approx(_counted(arch), rel=1e-3)


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_h"])
def test_operations_of_segment_anythings_sizes_are_those_that_torch_counts(name: str) -> None:
    arch = _variant(name)
    assert arch.inp_size == 512
    assert forward_flops(arch) == pytest.approx(_counted(arch), rel=1e-3)


def test_the_encoder_of_vit_b_takes_227_gflop() -> None:
    with torch.device("meta"):
        model = ClassWiseSam(_variant("sam_vit_b"))
        image = torch.empty(1, 3, 512, 512)
    with FlopCounterMode(display=False) as counter:
        model.image_encoder(image)
    assert counter.get_total_flops() / 1e9 == pytest.approx(227, abs=2)
    assert 227 < forward_flops(_variant("sam_vit_b")) / 1e9 < 240


def test_operations_of_a_mixture_are_those_of_a_dense_model_with_the_kept_experts_and_the_routers() -> None:
    dense, mixture = Architecture(**SMALL), Architecture(**SMALL | MIXTURE | {"moe_k_experts": 2})
    tokens, mlp = 8 * 8, 2 * 32 * 128
    routers = 3 * 4 * 32 + 3 * 32
    assert forward_flops(mixture) - forward_flops(dense) == 2 * 3 * tokens * ((2 * 2 - 1) * mlp + routers)


def test_operations_of_experts_in_the_decoder_by_hand() -> None:
    dense = Architecture(**SMALL)
    mixture = Architecture(**SMALL | {"moe_decoder_experts": 6, "moe_decoder_k_experts": 3})
    mlp, router = 2 * 32 * 48, 6 * 32
    assert forward_flops(mixture) - forward_flops(dense) == 2 * 2 * 5 * ((3 - 1) * mlp + router)
