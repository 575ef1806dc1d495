"""Somebody's weights become a model's: each tensor is taken, changed or missed, and the report says which."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.config.schema import UpcycleConfig
from cwsam_cli.errors import CheckpointError
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.model.weights import LoadReport, PretrainedWeights, ReportRow, load_pretrained, make_weights, rgb_bands
from tests.small import ARCH

SMALL: dict[str, Any] = ARCH | {"embed_dim": 32, "depth": 4, "global_attn_indexes": (1, 3), "decoder_mlp_dim": 48}
EXPERTS: dict[str, Any] = {
    "moe_num_expert_groups": 2,
    "moe_experts_per_group": 3,
    "moe_start_layer_index": 2,
    "moe_k_experts": 1,
}
RGB, NAMES = ["red", "green", "blue"], ["water", "forest", "road", "field"]
LINEAR = ("weight", "bias")
FILTERS = "image_encoder.patch_embed.proj.weight"
TOKENS = "mask_decoder.class_tokens.weight"
MATRIX = "positional_encoding_gaussian_matrix"


def _segment_anything(
    dim: int = 32, depth: int = 4, heads: int = 2, everywhere: Sequence[int] = (1, 3), grid: int = 8, window: int = 2
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Segment Anything's own file, scaled down."""
    out, hidden = 32, 48
    shapes: dict[str, tuple[int, ...]] = {
        "image_encoder.pos_embed": (1, grid, grid, dim),
        FILTERS: (dim, 3, 8, 8),
        "image_encoder.patch_embed.proj.bias": (dim,),
        "image_encoder.neck.0.weight": (out, dim, 1, 1),
        "image_encoder.neck.2.weight": (out, out, 3, 3),
    }

    def linear(name: str, into: int, of: int) -> None:
        shapes.update({f"{name}.weight": (into, of), f"{name}.bias": (into,)})

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    norm("image_encoder.neck.1", out), norm("image_encoder.neck.3", out)
    for index in range(depth):
        block, side = f"image_encoder.blocks.{index}", grid if index in everywhere else window
        norm(f"{block}.norm1", dim), norm(f"{block}.norm2", dim)
        linear(f"{block}.attn.qkv", 3 * dim, dim), linear(f"{block}.attn.proj", dim, dim)
        linear(f"{block}.mlp.lin1", 4 * dim, dim), linear(f"{block}.mlp.lin2", dim, 4 * dim)
        shapes |= {f"{block}.attn.rel_pos_{axis}": (2 * side - 1, dim // heads) for axis in "hw"}

    shapes |= {f"prompt_encoder.pe_layer.{MATRIX}": (2, out // 2)}
    shapes |= {f"prompt_encoder.point_embeddings.{index}.weight": (1, out) for index in range(4)}
    shapes |= {f"prompt_encoder.{name}.weight": (1, out) for name in ("not_a_point_embed", "no_mask_embed")}
    for layer in (0, 1, 3, 4, 6):
        norm(f"prompt_encoder.mask_downscaling.{layer}", 4)

    def attention(name: str, inner: int) -> None:
        for part in "qkv":
            linear(f"{name}.{part}_proj", inner, out)
        linear(f"{name}.out_proj", out, inner)

    for index in (0, 1):
        layer_name = f"mask_decoder.transformer.layers.{index}"
        attention(f"{layer_name}.self_attn", out)
        for which in ("cross_attn_token_to_image", "cross_attn_image_to_token"):
            attention(f"{layer_name}.{which}", out // 2)
        linear(f"{layer_name}.mlp.lin1", hidden, out), linear(f"{layer_name}.mlp.lin2", out, hidden)
        for number in range(1, 5):
            norm(f"{layer_name}.norm{number}", out)
    attention("mask_decoder.transformer.final_attn_token_to_image", out // 2)
    norm("mask_decoder.transformer.norm_final_attn", out)
    shapes |= {"mask_decoder.iou_token.weight": (1, out), "mask_decoder.mask_tokens.weight": (4, out)}
    shapes |= {"mask_decoder.output_upscaling.0.weight": (out, out // 4, 2, 2)}
    shapes |= {"mask_decoder.output_upscaling.0.bias": (out // 4,)}
    norm("mask_decoder.output_upscaling.1", out // 4)
    shapes |= {"mask_decoder.output_upscaling.3.weight": (out // 4, out // 8, 2, 2)}
    shapes |= {"mask_decoder.output_upscaling.3.bias": (out // 8,)}
    for mask in range(4):
        for layer, into in enumerate((out, out, out // 8)):
            linear(f"mask_decoder.output_hypernetworks_mlps.{mask}.layers.{layer}", into, out)
    for layer, into in enumerate((out, out, 4)):
        linear(f"mask_decoder.iou_prediction_head.layers.{layer}", into, out)
    return shapes


def _official(**changes: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in _segment_anything(**changes).items()}


def _adopt(
    source: PretrainedWeights | dict[str, Tensor],
    *,
    bands: Sequence[str] = RGB,
    classes: Sequence[str] = NAMES,
    seed: int = 0,
    **changes: Any,
) -> tuple[ClassWiseSam, LoadReport]:
    arch = Architecture(**SMALL | {"num_bands": len(bands), "num_classes": len(classes)} | changes)
    known = source if isinstance(source, PretrainedWeights) else PretrainedWeights(source)
    return load_pretrained(arch, known, band_names=bands, class_names=classes, upcycle=UpcycleConfig(), seed=seed)


def _ours(bands: Sequence[str] = RGB, classes: Sequence[str] = NAMES, **changes: Any) -> PretrainedWeights:
    """A checkpoint of ours with random weights."""
    torch.manual_seed(0)
    arch = Architecture(**SMALL | {"num_bands": len(bands), "num_classes": len(classes)} | changes)
    model = ClassWiseSam(arch)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return PretrainedWeights(model.state_dict(), list(bands), list(classes), arch)


def _rows(report: LoadReport) -> dict[str, ReportRow]:
    assert len({row.name for row in report.rows}) == len(report.rows), "a tensor has two rows"
    return {row.name: row for row in report.rows}


def test_the_names_here_are_those_of_the_official_files() -> None:
    assert len(_segment_anything(depth=32, everywhere=(7, 15, 23, 31))) == 594
    assert len(_segment_anything(depth=12)) == 314


# The report


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bands": ["nir", "red", "green", "blue"]},
        {"adaptor": "adaptor", "input_type": "fft", "detail_stem": True},
        EXPERTS,
        {"moe_decoder_experts": 4},
    ],
)
def test_every_tensor_of_the_model_and_of_the_file_has_exactly_one_row(changes: dict[str, Any]) -> None:
    official = _official()
    model, report = _adopt(official, **changes)
    rows = _rows(report)
    unused = {name for name, row in rows.items() if row.how == "unused"}
    assert {name for name, row in rows.items() if row.how != "unused"} == set(model.state_dict())
    assert unused <= set(official)
    dropped = ("prompt_encoder.", "mask_decoder.iou_", "mask_decoder.output_hypernetworks_mlps.")
    assert unused == {
        name
        for name in official
        if name.startswith(dropped) and MATRIX not in name and "output_hypernetworks_mlps.0" not in name
    }


def test_an_official_file_at_its_own_size_loads_or_is_remapped() -> None:
    official = _official()
    model, report = _adopt(official, inp_size=64)
    rows, ours = _rows(report), model.state_dict()
    remapped = {name for name in ours if name not in official}
    assert {name for name, row in rows.items() if row.how == "loaded"} == set(ours) - remapped
    assert {name for name, row in rows.items() if row.how == "remapped"} == remapped
    assert remapped == {TOKENS, f"mask_decoder.pe_layer.{MATRIX}"} | {
        f"mask_decoder.class_hypernetwork.layers.{layer}.{kind}" for layer in range(3) for kind in LINEAR
    }
    assert all(torch.equal(ours[name], official[name]) for name in set(ours) - remapped)
    assert report.loaded_share == 1.0


def test_what_the_file_has_not_is_missing_and_starts_as_in_a_new_model() -> None:
    model, report = _adopt(
        {name: value for name, value in _official().items() if name != "image_encoder.pos_embed"},
        adaptor="adaptor",
        input_type="fft",
        detail_stem=True,
    )
    missing = {name for name, row in _rows(report).items() if row.how == "missing"}
    assert missing == {
        name
        for name in model.state_dict()
        if ".adapter_" in name or ".prompt." in name or ".detail_stem." in name or name.endswith("pos_embed")
    }
    torch.manual_seed(0)
    new, ours = ClassWiseSam(model.arch).state_dict(), model.state_dict()
    for name in missing:
        tolerance = 4 / new[name].numel() ** 0.5
        spread, expected = (tensor.std(correction=0).item() for tensor in (ours[name], new[name]))
        assert spread == pytest.approx(expected, rel=tolerance), name
        assert ours[name].isfinite().all()
        if name.endswith((".up.weight", ".up.bias", ".shared.weight", ".shared.bias", ".norm.bias")):
            assert not ours[name].any(), name
    assert torch.equal(ours["mask_decoder.detail_stem.join.norm.weight"], torch.ones(4))
    assert 0.5 < report.loaded_share < 1


def test_a_file_of_the_encoder_alone_leaves_a_decoder_that_works() -> None:
    encoder = {name: value for name, value in _official().items() if name.startswith("image_encoder.")}
    model, report = _adopt(encoder)
    missing = [name for name, row in _rows(report).items() if row.how == "missing"]
    assert sorted(missing) == sorted(name for name in model.state_dict() if name.startswith("mask_decoder."))
    assert model.mask_decoder.class_tokens.weight.std().item() == pytest.approx(1, rel=0.2)
    assert model.mask_decoder.pe_layer.positional_encoding_gaussian_matrix.std().item() == pytest.approx(1, rel=0.4)
    logits = model(torch.randn(1, 3, 32, 32))
    assert logits.isfinite().all() and logits.std() > 0
    logits.sum().backward()
    assert model.mask_decoder.class_tokens.weight.grad is not None


def test_what_starts_anew_follows_from_the_seed() -> None:
    encoder = {name: value for name, value in _official().items() if name.startswith("image_encoder.")}
    one, again, other = (_adopt(encoder, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one[TOKENS], other[TOKENS])


def test_a_mixture_reports_experts_as_replicated_and_how_many() -> None:
    model, report = _adopt(_official(), **EXPERTS)
    rows = _rows(report)
    experts = {name for name in model.state_dict() if ".mlp.groups." in name}
    assert {name for name, row in rows.items() if row.how == "replicated"} == experts
    for name in experts:
        assert "3 experts" in rows[name].note, name
    assert report.grown
    assert not _adopt(_official())[1].grown


def test_the_share_counts_values_and_the_summary_counts_tensors() -> None:
    encoder = {name: value for name, value in _official().items() if name.startswith("image_encoder.")}
    model, report = _adopt(encoder)
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    expected = sum(size for name, size in sizes.items() if name.startswith("image_encoder.")) / sum(sizes.values())
    assert report.loaded_share == pytest.approx(expected, rel=1e-6)
    counts = {how: sum(row.how == how for row in report.rows) for how in ("loaded", "resized", "missing")}
    assert all(f"{count} {how}" in report.summary() for how, count in counts.items())
    assert f"{100 * expected:.1f} %" in report.summary()


# Resized


def test_only_position_tables_of_the_whole_image_are_resized() -> None:
    official = _official()
    model, report = _adopt(official)
    ours, rows = model.state_dict(), _rows(report)
    resized = {"image_encoder.pos_embed"} | {
        f"image_encoder.blocks.{index}.attn.rel_pos_{axis}" for index in (1, 3) for axis in "hw"
    }
    assert {name for name, row in rows.items() if row.how == "resized"} == resized
    assert rows["image_encoder.pos_embed"].note == "(1, 8, 8, 32) to (1, 4, 4, 32)"
    assert rows["image_encoder.blocks.3.attn.rel_pos_w"].note == "(15, 16) to (7, 16)"
    for index in (0, 2):
        name = f"image_encoder.blocks.{index}.attn.rel_pos_h"
        assert rows[name].how == "loaded"
        assert torch.equal(ours[name], official[name])


@pytest.mark.parametrize("inp_size", [32, 48, 96])
def test_relative_positions_are_interpolated_linearly(inp_size: int) -> None:
    official, name = _official(), "image_encoder.blocks.1.attn.rel_pos_h"
    ours = _adopt(official, inp_size=inp_size)[0].state_dict()[name]
    length = 2 * (inp_size // 8) - 1
    assert ours.shape == (length, 16)
    where = (np.arange(length) + 0.5) * 15 / length - 0.5
    for column in range(16):
        expected = np.interp(where, np.arange(15), official[name][:, column].numpy())
        np.testing.assert_allclose(ours[:, column].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("inp_size", [32, 96])
def test_the_position_embedding_keeps_constants_and_slopes(inp_size: int) -> None:
    official, side = _official(), inp_size // 8
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    table = official["image_encoder.pos_embed"]
    table[0, ..., 0], table[0, ..., 1], table[0, ..., 2] = 5.0, x, y
    ours = _adopt(official, inp_size=inp_size)[0].image_encoder.pos_embed[0].detach()
    assert ours.shape == (side, side, 32)
    torch.testing.assert_close(ours[..., 0], torch.full((side, side), 5.0))
    centre = (torch.arange(float(side)) + 0.5) * 8 / side - 0.5
    border = side // 4  # there the filter sees the table's end
    slope = ours[border:-border, border:-border, 1]
    torch.testing.assert_close(slope, centre[None, border:-border].expand_as(slope), atol=0.05, rtol=0)
    torch.testing.assert_close(ours[..., 1], ours[..., 2].T)


# Remapped


def test_what_is_drawn_does_not_count_as_the_checkpoints() -> None:
    model, report = _adopt(_official(), **EXPERTS)
    rows = _rows(report)
    routers = {name for name in model.state_dict() if "router" in name}
    assert {name for name, row in rows.items() if row.how == "drawn"} == routers
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    own = sum(sizes[name] for name, row in rows.items() if row.how in ("drawn", "missing"))
    assert report.loaded_share == pytest.approx(1 - own / sum(sizes.values()))
    assert f"{len(routers)} drawn" in report.summary()


def test_the_position_matrix_tokens_and_hypernetwork_are_remapped_with_their_origin() -> None:
    official = _official()
    model, report = _adopt(official)
    ours, rows = model.state_dict(), _rows(report)
    matrix = f"mask_decoder.pe_layer.{MATRIX}"
    assert torch.equal(ours[matrix], official[f"prompt_encoder.pe_layer.{MATRIX}"])
    mask_tokens = official["mask_decoder.mask_tokens.weight"]
    noise = ours[TOKENS] - mask_tokens[:1]
    assert noise.std().item() == pytest.approx(0.5 * mask_tokens.std().item(), rel=0.2)
    assert len({tuple(row) for row in noise.tolist()}) == 4  # equal tokens would learn nothing behind a frozen decoder
    assert f"prompt_encoder.pe_layer.{MATRIX}" in rows[matrix].note
    assert "mask_decoder.mask_tokens.weight" in rows[TOKENS].note
    for layer in range(3):
        for kind in LINEAR:
            name = f"mask_decoder.class_hypernetwork.layers.{layer}.{kind}"
            origin = f"mask_decoder.output_hypernetworks_mlps.0.layers.{layer}.{kind}"
            assert torch.equal(ours[name], official[origin])
            assert (rows[name].how, rows[name].note) == ("remapped", f"from {origin}")


def test_the_position_code_of_the_decoder_is_segment_anythings() -> None:
    official = _official()
    model, _ = _adopt(official)
    code = model.mask_decoder.pe_layer(2, 4).detach().unflatten(0, (2, 4))
    at = 2 * torch.tensor([(1 + 0.5) / 4, (0 + 0.5) / 2]) - 1  # x, y of the first row's second patch
    angle = 2 * torch.pi * at @ official[f"prompt_encoder.pe_layer.{MATRIX}"]
    torch.testing.assert_close(code[0, 1], torch.cat([angle.sin(), angle.cos()]), atol=1e-5, rtol=1e-4)


# Bands


@pytest.mark.parametrize(
    "bands",
    [
        ["red", "green", "blue", "nir"],
        ["B2 Blue", "B3 Green", "B4 Red", "B8 NIR", "B11 SWIR"],
        ["nir", "swir", "green", "red", "blue"],
        ["blue", "green", "red"],
    ],
)
def test_rgb_filters_go_to_the_bands_of_that_name_and_other_bands_start_from_their_mean(bands: list[str]) -> None:
    official = _official()
    model, report = _adopt(official, bands=bands)
    ours = model.image_encoder.patch_embed.proj.weight
    assert ours.shape == (32, len(bands), 8, 8)
    for index, band in enumerate(bands):
        color = next((i for i, name in enumerate(RGB) if name in band.lower()), None)
        expected = official[FILTERS].mean(dim=1) if color is None else official[FILTERS][:, color]
        torch.testing.assert_close(ours[:, index], expected, atol=1e-6, rtol=1e-6)
    row = _rows(report)[FILTERS]
    assert row.how == "remapped"
    for band in bands:
        named = any(name in band.lower() for name in RGB)
        assert (band in row.note) == named


def test_bands_without_names_of_colors_are_red_green_blue_first() -> None:
    official = _official()
    ours = _adopt(official, bands=["band 1", "band 2", "band 3", "band 4"])[0].image_encoder.patch_embed.proj.weight
    assert torch.equal(ours[:, :3], official[FILTERS])
    torch.testing.assert_close(ours[:, 3], official[FILTERS].mean(dim=1))


@pytest.mark.parametrize(
    ("names", "colors"),
    [
        (["red", "green", "blue"], {0: 0, 1: 1, 2: 2}),
        (["B2 blue", "B3 green", "B4 red", "B5 nir"], {2: 0, 1: 1, 0: 2}),
        (["nir", "red", "green"], {1: 0, 2: 1}),
        (["red edge", "red_edge_2", "red"], {2: 0}),
        (["band_1", "band_2", "band_3", "band_4"], {0: 0, 1: 1, 2: 2}),
        (["vv", "vh"], {}),
        (["pan"], {}),
    ],
)
def test_colours_are_found_by_name_or_are_the_first_three_bands(names: list[str], colors: dict[int, int]) -> None:
    assert rgb_bands(names) == colors


def test_bands_of_our_own_checkpoints_are_matched_by_name() -> None:
    source = _ours(["nir", "red", "thermal"], adaptor="adaptor", input_type="fft", detail_stem=True)
    theirs = source.weights
    changes = {"adaptor": "adaptor", "input_type": "fft", "detail_stem": True}
    model, report = _adopt(source, bands=["red", "swir", "nir"], **changes)
    ours = model.state_dict()
    for name in (FILTERS, "image_encoder.prompt.spectrum.weight", "mask_decoder.detail_stem.reduce.weight"):
        assert torch.equal(ours[name][:, 0], theirs[name][:, 1])
        torch.testing.assert_close(ours[name][:, 1], theirs[name].mean(dim=1))
        assert torch.equal(ours[name][:, 2], theirs[name][:, 0])
        row = _rows(report)[name]
        assert row.how == "remapped" and "red" in row.note and "nir" in row.note and "swir" not in row.note
    assert report.remarks == []


def test_bands_of_other_names_are_taken_by_position_with_a_remark() -> None:
    source = _ours(["a", "b", "c"])
    model, report = _adopt(source, bands=["d", "e", "f", "g"])
    ours = model.image_encoder.patch_embed.proj.weight
    assert torch.equal(ours[:, :3], source.weights[FILTERS])
    torch.testing.assert_close(ours[:, 3], source.weights[FILTERS].mean(dim=1))
    (remark,) = report.remarks
    assert "position" in remark


def test_the_same_bands_are_loaded_as_they_are() -> None:
    source = _ours(["nir", "red"])
    model, report = _adopt(source, bands=["nir", "red"])
    assert torch.equal(model.image_encoder.patch_embed.proj.weight, source.weights[FILTERS])
    assert _rows(report)[FILTERS].how == "loaded"


# Classes


def test_class_tokens_are_matched_by_name_and_new_classes_start_from_the_mean() -> None:
    source = _ours(classes=["water", "forest", "road", "field", "cloud"])
    model, report = _adopt(source, classes=["field", "snow", "water"])
    ours, theirs = model.mask_decoder.class_tokens.weight, source.weights[TOKENS]
    assert torch.equal(ours[0], theirs[3])
    torch.testing.assert_close(ours[1], theirs.mean(dim=0))
    assert torch.equal(ours[2], theirs[0])
    assert _rows(report)[TOKENS].how == "remapped"
    (remark,) = report.remarks
    matched, new, left = remark.split(";")
    assert "2 matched by name" in matched
    assert "snow" in new and "water" not in new
    assert all(name in left for name in ("forest", "road", "cloud")) and "field" not in left


def test_the_same_classes_in_another_order_keep_their_tokens() -> None:
    source = _ours()
    model, report = _adopt(source, classes=NAMES[::-1])
    assert torch.equal(model.mask_decoder.class_tokens.weight, source.weights[TOKENS].flip(0))
    assert _rows(report)[TOKENS].how == "remapped"


def test_a_class_matched_by_name_gives_the_same_logits_in_a_table_of_one_order_or_another() -> None:
    source = _ours()
    same, turned = _adopt(source)[0].eval(), _adopt(source, classes=NAMES[::-1])[0].eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = same(image)
        tolerance = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(turned(image).flip(1), expected, atol=tolerance, rtol=1e-4)


def test_our_own_checkpoint_of_the_same_shape_is_loaded_whole() -> None:
    source = _ours()
    model, report = _adopt(source)
    assert all(torch.equal(value, source.weights[name]) for name, value in model.state_dict().items())
    assert {row.how for row in report.rows} == {"loaded"}
    assert (report.loaded_share, report.remarks) == (1.0, [])


# What does not fit


def test_less_than_half_of_a_checkpoint_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"use only \d+ % of the checkpoint") as caught:
        _adopt(_official(depth=12), depth=4)
    assert caught.value.exit_code == 5
    assert "model.name" in caught.value.hint


def test_more_than_half_of_a_checkpoint_is_enough_and_the_rest_is_unused() -> None:
    _, report = _adopt(_official(depth=5), depth=4)
    unused = [name for name, row in _rows(report).items() if row.how == "unused" and name.startswith("image_encoder.")]
    assert len(unused) == 14 and all(".blocks.4." in name for name in unused)


def test_foreign_tensors_that_outweigh_the_model_are_an_error() -> None:
    small = _official()
    size = sum(value.numel() for value in small.values())
    with pytest.raises(CheckpointError, match=r"only 4\d % of the checkpoint"):
        _adopt(small | {"text_encoder.weight": torch.zeros(int(1.1 * size))})


@pytest.mark.parametrize(
    ("file", "changes"), [({"dim": 64}, {}), ({}, {"num_heads": 4}), ({}, {"prompt_embed_dim": 64})]
)
def test_another_width_is_an_error_that_names_the_tensor_and_both_shapes(
    file: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(
        CheckpointError, match=r"`\S+` is \([\d, ]+\) in the checkpoint, but the model needs \("
    ) as caught:
        _adopt(_official(**file), **changes)
    assert caught.value.exit_code == 5
    assert "model.name" in caught.value.hint


# Memory


def test_loaded_tensors_are_the_sources_own_and_no_copies() -> None:
    official = _official()
    model, report = _adopt(official, **EXPERTS)
    ours = model.state_dict()
    loaded = [name for name, row in _rows(report).items() if row.how == "loaded"]
    assert len(loaded) > 80
    for name in loaded:
        assert ours[name].data_ptr() == official[name].data_ptr(), name


def test_no_two_parameters_of_a_model_share_their_storage() -> None:
    model, _ = _adopt(
        _official(),
        bands=["red", "green", "blue", "nir"],
        classes=[*NAMES, "cloud", "snow"],
        **EXPERTS,
        moe_decoder_experts=4,
    )
    pointers = [parameter.untyped_storage().data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)
    for name, parameter in model.named_parameters():
        assert parameter.is_contiguous(), name
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4, name


def test_weights_are_made_one_by_one_in_the_models_number_format() -> None:
    half = {name: value.bfloat16() for name, value in _official().items()}
    report = LoadReport()
    made = make_weights(
        Architecture(**SMALL),
        PretrainedWeights(half),
        report,
        band_names=RGB,
        class_names=NAMES,
        upcycle=UpcycleConfig(),
    )
    name, tensor = next(made)
    assert len(report.rows) == 1
    rest = dict(made)
    assert {tensor.dtype, *(value.dtype for value in rest.values())} == {torch.float32}
    assert {name, *rest} == set(ClassWiseSam(Architecture(**SMALL)).state_dict())


def test_an_adopted_model_learns() -> None:
    model, _ = _adopt(_official(), **EXPERTS)
    image, label = torch.randn(2, 3, 32, 32), torch.randint(4, (2, 32, 32))
    F.cross_entropy(model.train()(image), label).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad and parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
