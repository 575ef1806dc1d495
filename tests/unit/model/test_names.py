"""Files of ClassWise-SAM-Adapter start a model: shared layers compute the same, and the rest is listed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.checkpoints.pretrained import open_pretrained
from cwsam_cli.config.schema import UpcycleConfig
from cwsam_cli.model.attention import Attention
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.model.weights import LoadReport, load_pretrained
from tests.small import ARCH

DIM, HEADS, OUT, CLASSES, DEPTH, PATCH, SIDE = 64, 2, 32, 5, 2, 8, 32
GRID = SIDE // PATCH
ADAPTED = {"adaptor": "adaptor", "input_type": "fft"}


def names_and_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file of the public code, scaled down. Each is spelt as that code spells it."""
    shapes: dict[str, tuple[int, ...]] = {
        "pe_layer.positional_encoding_gaussian_matrix": (2, OUT // 2),
        "no_mask_embed.weight": (1, OUT),
        "image_encoder.pos_embed": (1, GRID, GRID, DIM),
        "image_encoder.neck.0.weight": (OUT, DIM, 1, 1),
        "image_encoder.neck.2.weight": (OUT, OUT, 3, 3),
        "mask_decoder.iou_token.weight": (1, OUT),
        "mask_decoder.mask_tokens.weight": (4, OUT),
    }

    def layer(name: str, *weight: int, bias: int | None = None) -> None:
        shapes.update({f"{name}.weight": weight, f"{name}.bias": (bias or weight[0],)})

    layer("image_encoder.patch_embed.proj", DIM, 3, PATCH, PATCH)
    narrow = DIM // 32
    prompt = "image_encoder.prompt_generator"
    layer(f"{prompt}.shared_mlp", DIM, narrow)
    layer(f"{prompt}.embedding_generator", narrow, DIM)
    layer(f"{prompt}.prompt_generator.proj", narrow, 3, PATCH, PATCH)
    layer("image_encoder.neck.1", OUT), layer("image_encoder.neck.3", OUT)
    for index in range(DEPTH):
        block = f"image_encoder.blocks.{index}"
        layer(f"{prompt}.lightweight_mlp_{index}.0", narrow, narrow)
        layer(f"{block}.norm1", DIM), layer(f"{block}.norm2", DIM)
        layer(f"{block}.attn.qkv", 3 * DIM, DIM), layer(f"{block}.attn.proj", DIM, DIM)
        layer(f"{block}.mlp.lin1", 4 * DIM, DIM), layer(f"{block}.mlp.lin2", DIM, 4 * DIM)
        shapes |= {f"{block}.attn.rel_pos_{axis}": (2 * GRID - 1, DIM // HEADS) for axis in "hw"}
        for adapter in ("MLP_Adapter", "Space_Adapter", "Depth_Adapter"):
            layer(f"{block}.{adapter}.D_fc1", DIM // 4, DIM), layer(f"{block}.{adapter}.D_fc2", DIM, DIM // 4)

    def attention(name: str, inner: int) -> None:
        for part in "qkv":
            layer(f"{name}.{part}_proj", inner, OUT)
        layer(f"{name}.out_proj", OUT, inner)

    for index in (0, 1):
        own = f"mask_decoder.transformer.layers.{index}"
        attention(f"{own}.self_attn", OUT)
        attention(f"{own}.cross_attn_token_to_image", OUT // 2)
        attention(f"{own}.cross_attn_image_to_token", OUT // 2)
        layer(f"{own}.mlp.lin1", 48, OUT), layer(f"{own}.mlp.lin2", OUT, 48)
        for number in range(1, 5):
            layer(f"{own}.norm{number}", OUT)
    attention("mask_decoder.transformer.final_attn_token_to_image", OUT // 2)
    layer("mask_decoder.transformer.norm_final_attn", OUT)
    layer("mask_decoder.output_upscaling.0", OUT, OUT // 4, 2, 2, bias=OUT // 4)
    layer("mask_decoder.output_upscaling.1", OUT // 4)
    layer("mask_decoder.output_upscaling.3", OUT // 4, OUT // 8, 2, 2, bias=OUT // 8)
    for mask in range(4):
        for number, into in enumerate((OUT, OUT, OUT // 8)):
            layer(f"mask_decoder.output_hypernetworks_mlps.{mask}.layers.{number}", into, OUT)
    for number, into in enumerate((OUT, OUT, 4)):
        layer(f"mask_decoder.iou_prediction_head.layers.{number}", into, OUT)
    layer("mask_decoder.cls_upscaling.0", OUT // 4, OUT // 4, 2, 2)
    layer("mask_decoder.cls_upscaling.1", OUT // 4)
    layer("mask_decoder.cls_upscaling.3", OUT * CLASSES // 8, OUT // 4, 7, 7)
    return shapes


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in names_and_shapes().items()}


def start(theirs: dict[str, Tensor], folder: Path, **changes: object) -> tuple[ClassWiseSam, LoadReport]:
    torch.save(theirs, folder / "model_epoch_best.pth")
    numbers = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "global_attn_indexes": (0, 1), "inp_size": SIDE}
    rest = {"prompt_embed_dim": OUT, "decoder_mlp_dim": 48, "num_bands": 3, "num_classes": CLASSES, "patch_size": PATCH}
    return load_pretrained(
        Architecture(**ARCH | numbers | rest | changes),
        open_pretrained(str(folder / "model_epoch_best.pth")),
        band_names=["red", "green", "blue"],
        class_names=[f"class {number}" for number in range(CLASSES)],
        upcycle=UpcycleConfig(),
    )


def encode(weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """Compute the features that the public code gives to its decoder, from weights under its names."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def convolve(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=PATCH).permute(0, 2, 3, 1)

    def adapter(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.D_fc2", F.gelu(linear(f"{name}.D_fc1", x)))

    spectrum = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1))
    kept, half = torch.zeros_like(spectrum), SIDE // 4  # a quarter of the area
    middle = slice(SIDE // 2 - half, SIDE // 2 + half)
    kept[..., middle, middle] = spectrum[..., middle, middle]
    low = torch.fft.ifft2(torch.fft.ifftshift(kept, dim=(-2, -1))).real.abs()
    x = convolve("image_encoder.patch_embed.proj", image)
    prompt = "image_encoder.prompt_generator"
    mixed = convolve(f"{prompt}.prompt_generator.proj", low) + linear(f"{prompt}.embedding_generator", x)
    x = x + weights["image_encoder.pos_embed"]
    for index in range(DEPTH):
        block = f"image_encoder.blocks.{index}"
        x = x + linear(f"{prompt}.shared_mlp", F.gelu(linear(f"{prompt}.lightweight_mlp_{index}.0", mixed)))
        attention = Attention(DIM, HEADS, (GRID, GRID))
        prefix = f"{block}.attn."
        attention.load_state_dict({n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)})
        attended = attention(norm(f"{block}.norm1", x))
        x = x + attended + adapter(f"{block}.Space_Adapter", attended)
        normed = norm(f"{block}.norm2", x)
        inner = linear(f"{block}.mlp.lin2", F.gelu(linear(f"{block}.mlp.lin1", normed)))
        x = x + inner + 0.5 * adapter(f"{block}.MLP_Adapter", normed)
    for convolution, own in ((0, 1), (2, 3)):
        filters = weights[f"image_encoder.neck.{convolution}.weight"]
        x = F.conv2d(x.permute(0, 3, 1, 2), filters, padding=convolution // 2).permute(0, 2, 3, 1)
        x = norm(f"image_encoder.neck.{own}", x)
    return (x + weights["no_mask_embed.weight"]).permute(0, 3, 1, 2)


def test_the_decoder_sees_the_features_that_the_public_code_computes(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    model, _ = start(theirs, tmp_path, **ADAPTED)
    image = 3 + 0.2 * torch.randn(2, 3, SIDE, SIDE)  # its low frequencies are above 0, where |x| = x
    with torch.no_grad():
        torch.testing.assert_close(model.image_encoder(image), encode(theirs, image), atol=1e-4, rtol=1e-4)


def test_below_zero_the_prompts_differ_because_the_public_code_takes_absolute_values(
    theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    model, _ = start(theirs, tmp_path, **ADAPTED)
    image = -3 + 0.2 * torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        assert not torch.allclose(model.image_encoder(image), encode(theirs, image), atol=1e-2)


def test_all_of_the_model_but_class_tokens_is_the_files(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    model, report = start(theirs, tmp_path, **ADAPTED)
    assert report.loaded_share == 1.0
    ours, hyper = model.state_dict(), "mask_decoder.output_hypernetworks_mlps.0.layers.2.weight"
    assert torch.equal(ours["mask_decoder.class_hypernetwork.layers.2.weight"], theirs[hyper])
    code = "pe_layer.positional_encoding_gaussian_matrix"
    assert torch.equal(ours[f"mask_decoder.{code}"], theirs[code])
    decoder = [name for name in ours if name.startswith(("mask_decoder.transformer", "mask_decoder.output_up"))]
    assert len(decoder) == 88 and all(torch.equal(ours[name], theirs[name]) for name in decoder)


def test_tensors_that_find_no_place_are_listed_in_a_warning(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    _, report = start(theirs, tmp_path, **ADAPTED)
    unused = {row.name for row in report.rows if row.how == "unused"}
    left = (".Depth_Adapter.", ".cls_upscaling.", ".iou_", "mlps.1.", "mlps.2.", "mlps.3.")
    assert unused == {name for name in theirs if any(part in name for part in left)}
    (remark,) = report.remarks
    assert remark.startswith(
        f"the weights of ClassWise-SAM-Adapter have {len(unused)} tensors that this model does not"
    )
    for part in ("image_encoder.blocks.*.Depth_Adapter (8)", "mask_decoder.cls_upscaling (6)"):
        assert part in remark


@pytest.mark.parametrize(
    ("mode", "lost", "lacking"),
    [
        ({}, "image_encoder.blocks.*.Space_Adapter (8)", "adapters and no frequency prompt"),
        ({"input_type": "fft"}, "image_encoder.blocks.*.Space_Adapter (8)", "adapters"),
        ({"adaptor": "adaptor"}, "image_encoder.prompt_generator (10)", "frequency prompt"),
    ],
)
def test_a_model_without_adapters_or_prompt_says_that_its_encoder_differs(
    theirs: dict[str, Tensor], tmp_path: Path, mode: dict[str, str], lost: str, lacking: str
) -> None:
    _, report = start(theirs, tmp_path, **mode)
    assert lost in report.remarks[0]
    assert f"the model has no {lacking}, so its encoder differs" in report.remarks[1]
    assert '--set "model.args.encoder_mode={adaptor: adaptor, input_type: fft}"' in report.remarks[1]


def test_such_a_model_learns(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    model, _ = start(theirs, tmp_path, **ADAPTED)
    logits = model(torch.randn(1, 3, SIDE, SIDE))
    nn.functional.cross_entropy(logits, torch.randint(CLASSES, (1, SIDE, SIDE))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len({tuple(token) for token in model.mask_decoder.class_tokens.weight.tolist()}) == CLASSES
