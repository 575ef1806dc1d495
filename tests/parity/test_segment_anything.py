"""Number for number against another implementation of Segment Anything, `transformers`' SamModel."""

import re

import pytest
import torch
from torch.nn import functional as F
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamVisionConfig

from cwsam_cli.config.schema import UpcycleConfig
from cwsam_cli.model.decoder import TwoWayTransformer
from cwsam_cli.model.encoder import ImageEncoder
from cwsam_cli.model.variants import VARIANTS, Architecture
from cwsam_cli.model.weights import PretrainedWeights, load_pretrained

ATOL = 1e-4

_RENAMED = (
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"image_encoder\.layers\.", "image_encoder.blocks."),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.layer_norm2", "neck.3"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"layer_norm(\d)", r"norm\1"),
    (r"mask_decoder\.upscale_conv1", "mask_decoder.output_upscaling.0"),
    (r"mask_decoder\.upscale_norm", "mask_decoder.output_upscaling.1"),
    (r"mask_decoder\.upscale_layer_norm", "mask_decoder.output_upscaling.1"),
    (r"mask_decoder\.upscale_conv2", "mask_decoder.output_upscaling.3"),
    (r"(mlps\.\d|head)\.layers\.0", r"\1.layers.1"),
    (r"(mlps\.\d|head)\.proj_in", r"\1.layers.0"),
    (r"(mlps\.\d|head)\.proj_out", r"\1.layers.2"),
    (
        r"^shared_image_embedding\.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
)


def official_names(state):
    """A transformers state dict under the names of Segment Anything's own files."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def reference(arch: Architecture) -> SamModel:
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=arch.embed_dim,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.num_heads,
        image_size=arch.inp_size,
        patch_size=arch.patch_size,
        window_size=arch.window_size,
        global_attn_indexes=list(arch.global_attn_indexes),
        output_channels=arch.prompt_embed_dim,
        mlp_dim=4 * arch.embed_dim,
        num_channels=arch.num_bands,
    )
    # Segment Anything's decoder norms have torch's default eps; transformers' default is another.
    decoder = SamMaskDecoderConfig(layer_norm_eps=1e-5)
    model = SamModel(SamConfig(vision_config=vision.to_dict(), mask_decoder_config=decoder.to_dict())).eval()
    with torch.no_grad():  # zeros would hide a wrong position table
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name or parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def small(**changes) -> Architecture:
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "window_size": 4, "prompt_embed_dim": 16}
    shape |= {"global_attn_indexes": (1,), "num_bands": 3, "num_classes": 2, "inp_size": 64}
    return Architecture(**shape | changes)


def assert_encoders_agree(arch: Architecture) -> None:
    theirs = reference(arch)
    ours = ImageEncoder(arch).eval()
    weights = official_names(theirs.state_dict())
    own = {name: weights[f"image_encoder.{name}"] for name in ours.state_dict()}
    ours.load_state_dict(own)
    image = torch.randn(1, arch.num_bands, arch.inp_size, arch.inp_size)
    with torch.no_grad():
        expected = theirs.vision_encoder(image).last_hidden_state
        assert (ours(image) - expected).abs().max() < ATOL
    with_gradient = ours(image)  # the other form of attention
    assert (with_gradient.detach() - expected).abs().max() < ATOL


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"global_attn_indexes": (0, 1)}, id="global blocks"),
        pytest.param({"global_attn_indexes": ()}, id="windows"),
        pytest.param({"global_attn_indexes": (), "window_size": 3}, id="windows with padding"),
        pytest.param({"num_bands": 5}, id="five bands"),
    ],
)
def test_a_small_encoder_agrees(changes):
    assert_encoders_agree(small(**changes))


def vit_b(size: int) -> Architecture:
    return Architecture(**VARIANTS["sam_vit_b"], num_bands=3, num_classes=3, inp_size=size)


@pytest.mark.slow
def test_vit_b_agrees_at_1024_pixels():
    assert_encoders_agree(vit_b(1024))


def test_vit_b_agrees_at_512_pixels_after_resizing():
    full = reference(vit_b(1024)).state_dict()
    weights = official_names(full)
    ours, report = load_pretrained(
        vit_b(512),
        PretrainedWeights(weights),
        band_names=["red", "green", "blue"],
        class_names=["a", "b", "c"],
        upcycle=UpcycleConfig(),
    )
    how = {row.name: row.how for row in report.rows}
    assert how["image_encoder.pos_embed"] == "resized"
    assert how["image_encoder.blocks.2.attn.rel_pos_h"] == "resized"
    assert how["image_encoder.blocks.0.attn.rel_pos_h"] == "loaded"

    theirs = reference(vit_b(512))
    resized = dict(full)
    grid = full["vision_encoder.pos_embed"].permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (32, 32), mode="bicubic", antialias=True, align_corners=False)
    resized["vision_encoder.pos_embed"] = grid.permute(0, 2, 3, 1)
    for name, parameter in theirs.vision_encoder.named_parameters():
        if "rel_pos" in name:  # transformers resizes the tables itself when they are longer than needed
            *path, leaf = name.split(".")
            module = theirs.vision_encoder.get_submodule(".".join(path))
            setattr(module, leaf, torch.nn.Parameter(full[f"vision_encoder.{name}"].clone()))
        else:
            parameter.data.copy_(resized[f"vision_encoder.{name}"])
    image = torch.randn(1, 3, 512, 512)
    with torch.inference_mode():
        expected = theirs.vision_encoder(image).last_hidden_state
        assert (ours.eval().image_encoder(image) - expected).abs().max() < ATOL


def test_the_two_way_transformer_agrees():
    arch = small(prompt_embed_dim=256, decoder_mlp_dim=2048)
    theirs = reference(arch).mask_decoder.transformer
    ours = TwoWayTransformer(arch).eval()
    weights = official_names({f"mask_decoder.transformer.{k}": v for k, v in theirs.state_dict().items()})
    ours.load_state_dict({name.removeprefix("mask_decoder.transformer."): v for name, v in weights.items()})
    features, position, tokens = (
        torch.randn(2, 256, 8, 8),
        torch.randn(1, 256, 8, 8).expand(2, -1, -1, -1),
        torch.randn(2, 5, 256),
    )
    with torch.no_grad():
        expected = theirs(
            point_embeddings=tokens[:, None],
            image_embeddings=features,
            image_positional_embeddings=position,
            attention_similarity=None,
        )
        mixed, image = ours(features.flatten(2).mT, position.flatten(2).mT, tokens)
    assert (mixed - expected[0][:, 0]).abs().max() < ATOL
    assert (image - expected[1][:, 0]).abs().max() < ATOL


def test_an_official_checkpoint_leaves_only_prompts_and_quality_unused():
    """Keys of Segment Anything's file: all of the encoder and the transformer load, one of four masks' heads."""
    weights = official_names(reference(small(prompt_embed_dim=256)).state_dict())
    arch = small(prompt_embed_dim=256, num_classes=4)
    _, report = load_pretrained(
        arch,
        PretrainedWeights(weights),
        band_names=["red", "green", "blue"],
        class_names=list("abcd"),
        upcycle=UpcycleConfig(),
    )
    assert {row.how for row in report.rows} == {"loaded", "remapped", "unused"}
    unused = [row.name for row in report.rows if row.how == "unused"]
    allowed = ("prompt_encoder.", "mask_decoder.iou_", "mask_decoder.output_hypernetworks_mlps.")
    assert [name for name in unused if not name.startswith(allowed)] == []
    assert "mask_decoder.output_hypernetworks_mlps.0.layers.0.weight" not in unused
