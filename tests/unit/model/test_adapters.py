"""Adapters and the frequency prompt begin as nothing, and stand where the design puts them."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from cwsam_cli.config.schema import ModelConfig
from cwsam_cli.model.adapters import Adapter, FrequencyPrompt, low_frequencies
from cwsam_cli.model.encoder import Block, ImageEncoder
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture, architecture
from tests.small import ARCH

SMALL: dict[str, Any] = ARCH | {"embed_dim": 64, "depth": 3, "num_bands": 4, "num_classes": 3, "window_size": 3}
ADAPTED = {"adaptor": "adaptor", "input_type": "fft"}
EXPERTS = {"moe_start_layer_index": 1, "moe_num_expert_groups": 2, "moe_experts_per_group": 3, "moe_k_experts": 2}


def _restless(module: nn.Module) -> None:
    """Let adapters and prompts do something."""
    torch.manual_seed(5)
    for name, parameter in module.named_parameters():
        if "adapter" in name or "prompt" in name or isinstance(module, Adapter | FrequencyPrompt):
            nn.init.normal_(parameter, std=0.3)


def _lowpass(image: NDArray[Any], side: int) -> NDArray[Any]:
    """Keep the `side` lowest frequencies of each axis, -side/2 to side/2 - 1, one by one."""
    spectrum = np.fft.fft2(image.astype(np.float64))
    for axis in (-2, -1):
        size = image.shape[axis]
        for index, frequency in enumerate(np.fft.fftfreq(size, 1 / size).round().astype(int)):
            if not -side // 2 <= frequency < side // 2:
                np.moveaxis(spectrum, axis, 0)[index] = 0
    return np.fft.ifft2(spectrum).real


# The encoder is Segment Anything's at the start


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("input_type", ["fft", "none"])
@pytest.mark.parametrize("experts", [{}, EXPERTS])
def test_adapters_leave_the_encoders_output_as_it_was(input_type: str, experts: dict[str, Any], learning: bool) -> None:
    torch.manual_seed(0)
    plain = ImageEncoder(Architecture(**SMALL | experts))
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.2)
    adapted = ImageEncoder(Architecture(**SMALL | ADAPTED | experts | {"input_type": input_type}))
    missing, unexpected = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all("adapter_" in name or name.startswith("prompt.") for name in missing)
    assert any(name.startswith("prompt.") for name in missing) == (input_type == "fft")
    image = torch.randn(2, 4, 32, 32)
    with torch.set_grad_enabled(learning):
        before = plain(image)
        assert torch.equal(adapted(image), before)
        _restless(adapted)
        assert not torch.allclose(adapted(image), before, atol=0.01)


def test_an_adapter_and_a_prompt_are_exactly_0_at_the_start() -> None:
    torch.manual_seed(0)
    prompt = FrequencyPrompt(4, 64, depth=3, patch=8, share=0.25)
    at = prompt(torch.randn(2, 4, 32, 32), torch.randn(2, 4, 4, 64))
    for block in range(3):
        assert at(block).shape == (2, 4, 4, 64)
        assert not at(block).any()
    assert not Adapter(64)(torch.randn(5, 64)).any()


def test_adapters_and_prompts_that_are_0_still_learn() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(Architecture(**SMALL | ADAPTED))
    (encoder(torch.randn(2, 4, 32, 32)) * torch.randn(2, 32, 4, 4)).sum().backward()
    for name, parameter in encoder.named_parameters():
        if name.endswith((".up.weight", ".up.bias")) or name.startswith("prompt.shared."):
            assert parameter.grad is not None and parameter.grad.any(), name


def test_the_adapters_of_vit_h_have_52_531_200_parameters() -> None:
    with torch.device("meta"):
        model = ClassWiseSam(architecture(ModelConfig(name="sam_moe_1dot5b"), num_bands=3, num_classes=33))
    adapters = [parameter for name, parameter in model.named_parameters() if ".adapter_" in name]
    assert sum(parameter.numel() for parameter in adapters) == 52_531_200
    assert len(adapters) == 32 * 2 * 4


@pytest.mark.parametrize("name", ["sam_vit_h", "sam_moe_1dot5b"])
def test_adapters_stand_in_every_block_or_in_none(name: str) -> None:
    with torch.device("meta"):
        model = ClassWiseSam(architecture(ModelConfig(name=name), num_bands=3, num_classes=33))
    blocks = {
        ".".join(parameter.split(".")[2:4]) for parameter, _ in model.named_parameters() if ".adapter_" in parameter
    }
    adapted = name != "sam_vit_h"
    assert blocks == {f"{i}.adapter_{kind}" for i in range(32) for kind in ("attn", "mlp") if adapted}
    assert (model.image_encoder.prompt is not None) == adapted


# Where they stand


def test_an_adapter_is_a_bottleneck_of_a_quarter_with_gelu() -> None:
    adapter, x = Adapter(64), torch.randn(5, 64)
    _restless(adapter)
    assert adapter.down.weight.shape == (16, 64)
    expected = adapter.up.weight @ F.gelu(adapter.down.weight @ x[3] + adapter.down.bias) + adapter.up.bias
    torch.testing.assert_close(adapter(x)[3], expected)


def test_one_adapter_follows_attention_with_a_skip_and_one_stands_beside_the_mlp_at_half() -> None:
    torch.manual_seed(0)
    block, x = Block(Architecture(**SMALL | ADAPTED), 1), torch.randn(2, 4, 4, 64)
    _restless(block)
    assert block.adapter_attn is not None and block.adapter_mlp is not None
    with torch.no_grad():
        attended = block.attn(block.norm1(x))
        middle = x + attended + block.adapter_attn(attended)
        normed = block.norm2(middle)
        torch.testing.assert_close(block(x), middle + block.mlp(normed) + 0.5 * block.adapter_mlp(normed))


def test_the_prompt_of_a_block_sees_low_frequencies_and_tokens_through_its_own_layer() -> None:
    prompt = FrequencyPrompt(4, 64, depth=3, patch=8, share=0.25)
    _restless(prompt)
    image, tokens = torch.randn(2, 4, 32, 32), torch.randn(2, 4, 4, 64)
    assert prompt.spectrum.weight.shape == (2, 4, 8, 8)  # D/32
    with torch.no_grad():
        low = torch.from_numpy(_lowpass(image.numpy(), 16)).float()
        patches = low.unflatten(3, (4, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        seen = patches @ prompt.spectrum.weight.flatten(1).T + prompt.spectrum.bias
        start = seen + tokens @ prompt.embedding.weight.T + prompt.embedding.bias
        for index, layer in enumerate(prompt.layers):
            expected = prompt.shared(F.gelu(start @ layer.weight.T + layer.bias))
            torch.testing.assert_close(prompt(image, tokens)(index), expected, atol=1e-4, rtol=1e-4)


def test_prompts_are_added_before_each_block() -> None:
    torch.manual_seed(0)
    encoder, image = ImageEncoder(Architecture(**SMALL | ADAPTED)), torch.randn(1, 4, 32, 32)
    _restless(encoder)
    assert encoder.prompt is not None
    with torch.no_grad():
        tokens = encoder.patch_embed(image)
        prompts, x = encoder.prompt(image, tokens), tokens + encoder.pos_embed
        for index, block in enumerate(encoder.blocks):
            x = block(x + prompts(index))
        torch.testing.assert_close(encoder(image), encoder.neck(x.permute(0, 3, 1, 2)))


# The low frequencies


@pytest.mark.parametrize(
    ("size", "share", "side"), [(32, 0.25, 16), (32, 0.140625, 12), (48, 0.25, 24), (16, 0.015625, 2), (12, 1.0, 12)]
)
def test_low_frequencies_are_a_square_of_the_spectrum_around_its_centre(size: int, share: float, side: int) -> None:
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    low = low_frequencies(image, share)
    assert low.dtype == torch.float32
    np.testing.assert_allclose(low.numpy(), _lowpass(image.numpy(), side), atol=1e-5)


@pytest.mark.parametrize(("size", "share"), [(32, 0.25), (64, 0.0625), (64, 0.5625), (96, 0.25)])
def test_the_share_is_that_of_the_spectrums_area(size: int, share: float) -> None:
    pulse = torch.zeros(1, 1, size, size)
    pulse[0, 0, 5, 9] = 1.0  # all frequencies alike: what is left of it is the share of them that is kept
    assert low_frequencies(pulse, share)[0, 0, 5, 9].item() == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 1.0])
def test_low_frequencies_keep_constants(share: float) -> None:
    image = torch.tensor([3.0, -0.5])[None, :, None, None].expand(1, 2, 64, 64)
    torch.testing.assert_close(low_frequencies(image, share), image)


def test_low_frequencies_of_the_whole_spectrum_are_the_image() -> None:
    image = torch.randn(1, 2, 20, 20)
    torch.testing.assert_close(low_frequencies(image, 1.0), image, atol=1e-5, rtol=1e-4)


def test_low_frequencies_drop_what_changes_from_pixel_to_pixel() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    slow, fast = torch.cos(2 * torch.pi * 3 * x / 32), torch.cos(2 * torch.pi * 11 * y / 32)
    low = low_frequencies((slow + fast)[None, None], 0.25)
    torch.testing.assert_close(low[0, 0], slow, atol=1e-5, rtol=1e-4)


def test_bands_and_images_do_not_mix() -> None:
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(low_frequencies(image, 0.25)[1, 2], low_frequencies(image[1:, 2:], 0.25)[0, 0])


def test_low_frequencies_are_computed_in_float32_under_autocast() -> None:
    image = torch.randn(1, 2, 32, 32)
    exact = low_frequencies(image, 0.25)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(low_frequencies(image, 0.25), exact)
        half = low_frequencies(image.bfloat16(), 0.25)
    assert half.dtype == torch.float32
    assert torch.equal(half, low_frequencies(image.bfloat16().float(), 0.25))


def test_an_encoder_with_prompts_runs_under_bfloat16() -> None:
    torch.manual_seed(0)
    encoder, image = ImageEncoder(Architecture(**SMALL | ADAPTED | EXPERTS)), torch.randn(1, 4, 32, 32)
    _restless(encoder)
    exact = encoder(image)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(image)
    rough.float().square().mean().backward()
    assert 0 < (rough - exact).norm() < 0.1 * exact.norm()
    for name, parameter in encoder.named_parameters():
        if "adapter" in name or name.startswith("prompt."):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
