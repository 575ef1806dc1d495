"""A grown mixture begins where its source ended: twins of 1.5B → 10B at a few thousandths of the width."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cwsam_cli.config.schema import UpcycleConfig
from cwsam_cli.errors import CheckpointError
from cwsam_cli.model.growth import equal_bases, grow, is_mixture
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.model.weights import LoadReport, PretrainedWeights, load_pretrained
from tests.small import ARCH

DENSE: dict[str, Any] = ARCH | {"embed_dim": 32, "depth": 4, "global_attn_indexes": (1, 3), "decoder_mlp_dim": 48}
TWIN = DENSE | {
    "moe_start_layer_index": 2,
    "moe_num_expert_groups": 1,
    "moe_experts_per_group": 4,
    "moe_k_experts": 2,
}
"""As the 1.5B model: experts in the last two blocks."""
LARGE = TWIN | {"moe_start_layer_index": 1, "moe_num_expert_groups": 3, "moe_k_groups": 2, "moe_k_experts": 2}
"""As the 10B model: three groups, from an earlier block on."""

RGB, NAMES = ["red", "green", "blue"], ["water", "forest", "road", "field"]
PARTS = [f"{lin}_{kind}" for lin in ("lin1", "lin2") for kind in ("weight", "bias")]
COPY = {"method": "noise", "noise": 0.0}


def _source(shape: dict[str, Any], **changes: Any) -> ClassWiseSam:
    """Each tensor has a spread of its own."""
    torch.manual_seed(0)
    model = ClassWiseSam(Architecture(**shape | changes)).eval()
    for index, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.1 + 0.05 * (index % 5))
    return model


def _adopt(
    source: ClassWiseSam, shape: dict[str, Any], seed: int = 0, **upcycle: Any
) -> tuple[ClassWiseSam, LoadReport]:
    known = PretrainedWeights(source.state_dict(), RGB, NAMES, source.arch)
    model, report = load_pretrained(
        Architecture(**shape), known, band_names=RGB, class_names=NAMES, upcycle=UpcycleConfig(**upcycle), seed=seed
    )
    return model.eval(), report


def _grown(source: ClassWiseSam, shape: dict[str, Any], seed: int = 0, **upcycle: Any) -> ClassWiseSam:
    return _adopt(source, shape, seed, **upcycle)[0]


def _experts(model: ClassWiseSam, block: int, group: int) -> dict[str, Tensor]:
    prefix = f"image_encoder.blocks.{block}.mlp.groups.{group}."
    return {name.removeprefix(prefix): value for name, value in model.state_dict().items() if name.startswith(prefix)}


def _dense(model: ClassWiseSam, block: int) -> dict[str, Tensor]:
    prefix = f"image_encoder.blocks.{block}.mlp."
    return {
        name.removeprefix(prefix).replace(".", "_"): value
        for name, value in model.state_dict().items()
        if name.startswith(prefix)
    }


def _same_output(one: ClassWiseSam, other: ClassWiseSam) -> None:
    assert _change(one, other) < 1e-5


def _change(one: ClassWiseSam, other: ClassWiseSam) -> float:
    """Of the encoder's features or of the logits, whichever changes more, relative to their largest value."""
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        pairs = [(part(one), part(other)) for part in (lambda m: m.image_encoder(image), lambda m: m(image))]
    return max(float((after - before).abs().max() / before.abs().max()) for before, after in pairs)


def _random_group_routers(model: ClassWiseSam) -> None:
    for name, parameter in model.named_parameters():
        if "group_router" in name:
            nn.init.normal_(parameter, std=2.0)


def _bank(experts: int = 4, dim: int = 64, hidden: int = 128) -> dict[str, Tensor]:
    """Source weights of one layer, each tensor with a mean and spread of its own."""
    torch.manual_seed(0)
    return {
        "b.mlp.groups.0.lin1_weight": torch.randn(experts, hidden, dim) * 0.01 + 1,
        "b.mlp.groups.0.lin1_bias": torch.randn(experts, hidden) * 3,
        "b.mlp.groups.0.lin2_weight": torch.randn(experts, dim, hidden) * 0.5 - 2,
        "b.mlp.groups.0.lin2_bias": torch.randn(experts, dim) * 20,
        "b.mlp.routers.0.weight": torch.randn(experts, dim) * 0.3,
    }


def _tensor(
    name: str,
    source: dict[str, Tensor],
    *,
    shape: Sequence[int] = (),
    groups: int = 3,
    seed: int = 0,
    **upcycle: Any,
) -> Tensor:
    """One tensor grown; without a shape, that of group 0's."""
    size = torch.Size(shape) if shape else source[re.sub(r"s\.\d+\.", "s.0.", name)].shape
    made = grow(name, size, source, groups, UpcycleConfig(**upcycle), seed)
    assert made is not None and made.value.shape == size
    return made.value


# Rule 1: the same block's weights, exactly


def test_group_0_is_the_same_blocks_experts_bit_for_bit() -> None:
    source = _source(TWIN)
    model = _grown(source, LARGE)
    for block in (2, 3):
        for part, value in _experts(source, block, 0).items():
            assert torch.equal(_experts(model, block, 0)[part], value), (block, part)


def test_group_0_of_a_dense_block_is_exact_copies_of_its_mlp() -> None:
    source = _source(TWIN)
    model = _grown(source, LARGE)
    mlp = _dense(source, 1)
    assert set(mlp) == set(PARTS)
    for part, value in _experts(model, 1, 0).items():
        assert torch.equal(value, mlp[part].expand(4, *mlp[part].shape)), part


def test_all_that_is_no_mixture_is_loaded_bit_for_bit() -> None:
    source = _source(TWIN)
    ours, theirs = _grown(source, LARGE).state_dict(), source.state_dict()
    for name in ours:
        if not is_mixture(name):
            assert torch.equal(ours[name], theirs[name]), name


def test_a_mixture_of_the_same_shape_is_loaded_as_it_is() -> None:
    source = _source(LARGE)
    model, report = _adopt(source, LARGE)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    assert {row.how for row in report.rows} == {"loaded"}
    assert not report.grown


def test_groups_that_the_source_has_already_are_kept() -> None:
    source = _source(LARGE, moe_num_expert_groups=2)
    model = _grown(source, LARGE)
    for block in (1, 2, 3):
        for group in (0, 1):
            for part, value in _experts(source, block, group).items():
                assert torch.equal(_experts(model, block, group)[part], value), (block, group, part)
        assert not torch.equal(_experts(model, block, 2)["lin1_weight"], _experts(model, block, 1)["lin1_weight"])


# Rule 5: what is preserved exactly


@pytest.mark.parametrize("kept", [1, 2, 3])
@pytest.mark.parametrize("routers", ["grown", "random"])
def test_copies_preserve_the_function_for_any_groups_kept_and_any_group_router(kept: int, routers: str) -> None:
    source = _source(TWIN)
    model = _grown(source, LARGE | {"moe_k_groups": kept}, **COPY)
    if routers == "random":
        _random_group_routers(model)
    _same_output(source, model)


@pytest.mark.parametrize(("kg", "ke"), [(1, 1), (1, 4), (2, 3), (3, 1)])
def test_a_model_grown_from_dense_blocks_is_preserved_for_any_k(kg: int, ke: int) -> None:
    source = _source(DENSE)
    decoder = {"moe_decoder_experts": 3, "moe_decoder_k_experts": 2}
    model = _grown(source, LARGE | decoder | {"moe_k_groups": kg, "moe_k_experts": ke}, **COPY)
    _random_group_routers(model)
    _same_output(source, model)


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 1), (1, 3)])
def test_another_number_of_experts_kept_is_the_source_run_at_that_number(before: int, after: int) -> None:
    source = _source(TWIN, moe_k_experts=before)
    model = _grown(source, LARGE | {"moe_k_experts": after}, **COPY)
    _same_output(_source(TWIN, moe_k_experts=after), model)
    assert _change(source, model) > 1e-3


def test_noise_changes_the_function_a_little() -> None:
    source = _source(TWIN)
    little, much = (_change(source, _grown(source, LARGE, method="noise", noise=noise)) for noise in (0.02, 0.5))
    assert 1e-4 < little < 0.1
    assert much > 2 * little


# Rule 2: one group


@pytest.mark.parametrize("method", ["noise", "interpolate+noise"])
def test_with_one_group_expert_0_is_the_exact_copy_and_the_others_are_not(method: str) -> None:
    source = _source(DENSE)
    model = _grown(source, TWIN | {"moe_decoder_experts": 3, "moe_decoder_k_experts": 2}, method=method)
    experts = [(f"image_encoder.blocks.{block}.mlp", 4) for block in (2, 3)]
    experts += [(f"mask_decoder.transformer.layers.{layer}.mlp", 3) for layer in (0, 1)]
    theirs, ours = source.state_dict(), model.state_dict()
    for layer, count in experts:
        for lin in ("lin1", "lin2"):
            for kind in ("weight", "bias"):
                base, grown = theirs[f"{layer}.{lin}.{kind}"], ours[f"{layer}.groups.0.{lin}_{kind}"]
                assert len(grown) == count
                assert torch.equal(grown[0], base)
                apart = torch.pdist(grown.flatten(1)) / base.norm()
                assert 0.01 < apart.min() and apart.max() < 0.06, (layer, lin, kind)


# Rule 3: experts of new groups


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_noise_is_relative_to_the_spread_of_each_tensor(part: str, noise: float) -> None:
    source = _bank(dim=256, hidden=512)
    base = source[f"b.mlp.groups.0.{part}"]
    new = _tensor(f"b.mlp.groups.2.{part}", source, method="noise", noise=noise)
    for expert in range(4):
        change = new[expert] - base[expert]
        tolerance = 4 / (2 * change.numel()) ** 0.5  # four standard errors
        assert (change.std() / base[expert].std()).item() == pytest.approx(noise, rel=tolerance)
        assert change.mean().abs() < 4 * change.std() / change.numel() ** 0.5


def test_noise_comes_on_top_of_interpolation() -> None:
    source, name = _bank(), "b.mlp.groups.1.lin2_weight"
    smooth = _tensor(name, source, method="interpolate")
    rough = _tensor(name, source, method="interpolate+noise", noise=0.02)
    assert ((rough - smooth).std() / source["b.mlp.groups.0.lin2_weight"].std()).item() == pytest.approx(0.02, rel=0.05)


def _parents(new: Tensor, base: Tensor) -> tuple[int, int, float]:
    """Which two base experts a new one lies between, and its share of the first; twice the same for a copy."""
    for only in range(len(base)):
        if torch.allclose(new, base[only], rtol=1e-5, atol=1e-6):
            return only, only, 1.0
    for first in range(len(base)):
        for second in range(first + 1, len(base)):
            direction, offset = (base[first] - base[second]).flatten(), (new - base[second]).flatten()
            alpha = float(offset @ direction / (direction @ direction))
            if (offset - alpha * direction).norm() < 1e-3 * direction.norm():
                return first, second, alpha
    raise AssertionError("it lies between no two base experts")


@pytest.mark.parametrize("seed", range(3))
def test_interpolated_experts_lie_between_two_of_the_same_block_alike_in_all_four_tensors(seed: int) -> None:
    source = _bank()
    shares = []
    for group in (1, 2):
        grown = {
            part: _tensor(f"b.mlp.groups.{group}.{part}", source, method="interpolate", seed=seed) for part in PARTS
        }
        for expert in range(4):
            found = [_parents(grown[part][expert], source[f"b.mlp.groups.0.{part}"]) for part in PARTS]
            assert len({(first, second) for first, second, _ in found}) == 1
            assert found == [(*found[0][:2], pytest.approx(found[0][2], abs=1e-3))] * 4
            if found[0][0] != found[0][1]:
                shares.append(found[0][2])
    assert len(shares) >= 4
    assert all(0.2 <= share <= 0.8 for share in shares)
    assert max(shares) - min(shares) > 0.1


def test_where_all_base_experts_are_equal_interpolation_changes_nothing_and_the_report_says_so() -> None:
    source = _source(TWIN)
    model, report = _adopt(source, LARGE, method="interpolate")
    for group in (1, 2):
        for part, value in _experts(model, 1, group).items():
            torch.testing.assert_close(value, _experts(model, 1, 0)[part])
        assert not torch.allclose(
            _experts(model, 2, group)["lin1_weight"], _experts(model, 2, 0)["lin1_weight"], atol=0.01
        )
    (remark,) = report.remarks
    assert remark.startswith("image_encoder.blocks.1.mlp") and "the new ones are equal too" in remark
    assert equal_bases(source.state_dict(), "image_encoder.blocks.1.mlp")
    assert not equal_bases(source.state_dict(), "image_encoder.blocks.2.mlp")


@pytest.mark.parametrize("method", ["noise", "interpolate", "interpolate+noise"])
def test_new_experts_differ_from_each_other_and_group_0_never_changes(method: str) -> None:
    source = _source(TWIN)
    model = _grown(source, LARGE, method=method)
    for block in (2, 3):
        assert torch.equal(_experts(model, block, 0)["lin1_weight"], _experts(source, block, 0)["lin1_weight"])
        one, other = (_experts(model, block, group)["lin1_weight"] for group in (1, 2))
        assert not torch.equal(one, other)


# Rule 4: routers


def test_the_sources_router_becomes_group_0s_row_for_row() -> None:
    source = _source(TWIN)
    model = _grown(source, LARGE)
    for block in (2, 3):
        name = f"image_encoder.blocks.{block}.mlp.routers.0.weight"
        assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_routers_of_new_groups_are_group_0s_row_for_row_with_relative_noise() -> None:
    source = _bank(experts=16, dim=256)
    base = source["b.mlp.routers.0.weight"]
    made = [_tensor(f"b.mlp.routers.{group}.weight", source, noise=0.02) for group in (1, 2)]
    for router in made:
        assert ((router - base).std() / base.std()).item() == pytest.approx(0.02, rel=0.05)
        assert ((router - base).std(dim=1) < 0.03 * base.std()).all()
    assert not torch.equal(*made)
    exact = _tensor("b.mlp.routers.1.weight", source, method="noise", noise=0.0)
    assert torch.equal(exact, base)


def test_after_a_dense_block_all_groups_share_a_fresh_router_up_to_noise() -> None:
    source = {"b.mlp.lin1.weight": torch.randn(512, 256)}
    fresh, second, third = (
        _tensor(f"b.mlp.routers.{group}.weight", source, shape=[16, 256], noise=0.02) for group in range(3)
    )
    assert fresh.std().item() == pytest.approx(0.02, rel=0.05)
    assert fresh.mean().abs() < 0.001
    for router in (second, third):
        assert ((router - fresh).std() / fresh.std()).item() == pytest.approx(0.02, rel=0.05)


def test_the_group_router_starts_small_and_favours_group_0() -> None:
    source = _bank(dim=512)
    weight = _tensor("b.mlp.group_router.weight", source, shape=[6, 512], groups=6)
    bias = _tensor("b.mlp.group_router.bias", source, shape=[6], groups=6)
    assert bias.tolist() == [4.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (weight.std(dim=1) > 0.015).all()  # zeros would tie the new groups


def test_with_two_groups_kept_group_0_weighs_about_98_percent_and_the_second_place_is_shared() -> None:
    source = _bank(dim=256)
    weight = _tensor("b.mlp.group_router.weight", source, shape=[6, 256], groups=6)
    bias = _tensor("b.mlp.group_router.bias", source, shape=[6], groups=6)
    tokens = torch.randn(1000, 256, generator=torch.Generator().manual_seed(0))
    best, index = (tokens @ weight.T + bias).softmax(dim=1).topk(2, dim=1)
    assert index[:, 0].unique().tolist() == [0]
    assert (best[:, 0] / best.sum(dim=1)).mean().item() == pytest.approx(0.98, abs=0.01)
    assert index[:, 1].unique().tolist() == [1, 2, 3, 4, 5]


def test_a_learned_group_router_keeps_its_rows_when_groups_are_added() -> None:
    source = _source(LARGE)
    grown, report = _adopt(source, LARGE | {"moe_num_expert_groups": 5})
    before, after = source.state_dict(), grown.state_dict()
    rows = {row.name: row for row in report.rows}
    for block in (1, 2, 3):
        weight, bias = (f"image_encoder.blocks.{block}.mlp.group_router.{kind}" for kind in ("weight", "bias"))
        assert torch.equal(after[weight][:3], before[weight])
        assert after[weight][3:].std().item() == pytest.approx(0.02, rel=0.4)
        assert torch.equal(after[bias][:3], before[bias])
        assert after[bias][3:].tolist() == [before[bias].min().item()] * 2
        assert rows[weight].how == "replicated" and "keeps 3 groups' rows, 2 are new" in rows[weight].note


def test_more_groups_beside_a_learned_router_change_the_output_little() -> None:
    source = _source(LARGE)
    for name, parameter in source.named_parameters():
        if name.endswith("group_router.bias"):  # a router that has learnt to prefer two of its groups
            parameter.data = torch.tensor([0.0, 6.0, 5.0])
    assert _change(source, _grown(source, LARGE | {"moe_num_expert_groups": 5})) < 0.05


# Fewer experts than the source


def test_a_dense_block_in_place_of_a_mixture_starts_as_its_first_expert_and_the_report_says_so() -> None:
    source = _source(TWIN, moe_start_layer_index=1)
    grown, report = _adopt(source, TWIN)
    expert = {name: value[0] for name, value in _experts(source, 1, 0).items()}
    dense = _dense(grown, 1)
    assert dense.keys() == expert.keys()
    assert all(torch.equal(dense[name], expert[name]) for name in dense)
    rows = {row.name: row for row in report.rows}
    assert rows["image_encoder.blocks.1.mlp.lin1.weight"].how == "remapped"
    assert [remark for remark in report.remarks if "blocks.1.mlp" in remark and "the output changes" in remark]


def test_a_layer_with_one_group_has_no_group_router_to_grow() -> None:
    model = _grown(_source(DENSE), TWIN)
    assert not [name for name in model.state_dict() if "group_router" in name]


# The same result for everyone


def test_the_same_seed_grows_the_same_model_and_another_seed_another() -> None:
    source = _source(TWIN)
    one = _grown(source, LARGE, seed=1).state_dict()
    again, other = _grown(source, LARGE, seed=1).state_dict(), _grown(source, LARGE, seed=2).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    new = [name for name in one if ".groups.1." in name or ".groups.2." in name or ".group_router.weight" in name]
    new += [name for name in one if ".routers.1." in name or ".blocks.1.mlp.routers.0" in name]
    assert len(new) == 3 * 8 + 3 + 3 + 1
    assert all(not torch.equal(one[name], other[name]) for name in new)


@pytest.mark.parametrize("method", ["noise", "interpolate+noise"])
def test_a_tensor_is_the_same_in_any_order_and_whatever_was_drawn_before(method: str) -> None:
    source = _bank() | {"c.mlp.lin1.weight": torch.randn(128, 64)}
    names: dict[str, Sequence[int]] = {f"b.mlp.groups.{group}.{part}": () for group in (1, 2) for part in PARTS}
    names |= {f"b.mlp.routers.{group}.weight": () for group in (1, 2)}
    names |= {f"c.mlp.routers.{group}.weight": (4, 64) for group in range(3)}
    names |= {"b.mlp.group_router.weight": (3, 64)}
    forwards = {name: _tensor(name, source, shape=names[name], method=method) for name in names}
    torch.manual_seed(999)
    backwards = {name: _tensor(name, source, shape=names[name], method=method) for name in reversed(names)}
    for name in names:
        assert torch.equal(forwards[name], backwards[name]), name


def test_growing_new_groups_leaves_the_source_as_it_was() -> None:
    source = _bank()
    before = {name: value.clone() for name, value in source.items()}
    for name in [f"b.mlp.groups.1.{part}" for part in PARTS] + ["b.mlp.routers.1.weight"]:
        _tensor(name, source, **COPY).add_(1)
    assert all(torch.equal(source[name], before[name]) for name in source)


# What does not fit


def test_another_width_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"`b\.mlp\.groups\.0\.lin1_weight` is \(4, 128, 64\)") as caught:
        grow("b.mlp.groups.1.lin1_weight", torch.Size([4, 128, 32]), _bank(), 3, UpcycleConfig(), 0)
    assert caught.value.exit_code == 5
    assert "not the width" in caught.value.hint


def test_another_number_of_experts_in_a_group_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"has 4 experts, but `.+` needs 6") as caught:
        _grown(_source(TWIN), LARGE | {"moe_experts_per_group": 6})
    assert caught.value.exit_code == 5
    assert "moe_experts_per_group" in caught.value.hint


def test_a_layer_that_the_source_has_not_is_not_grown() -> None:
    for name, shape in (
        ("c.mlp.groups.1.lin1_weight", (4, 128, 64)),
        ("c.mlp.routers.0.weight", (4, 64)),
        ("c.mlp.group_router.weight", (3, 64)),
    ):
        assert grow(name, torch.Size(shape), _bank(), 3, UpcycleConfig(), 0) is None


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("image_encoder.blocks.3.mlp.groups.11.lin2_bias", True),
        ("image_encoder.blocks.3.mlp.routers.5.weight", True),
        ("image_encoder.blocks.3.mlp.group_router.bias", True),
        ("mask_decoder.transformer.layers.0.mlp.groups.0.lin1_weight", True),
        ("mask_decoder.transformer.layers.0.mlp.routers.0.weight", True),
        ("image_encoder.blocks.3.mlp.lin1.weight", False),
        ("image_encoder.blocks.3.adapter_mlp.up.weight", False),
        ("mask_decoder.class_hypernetwork.layers.0.weight", False),
    ],
)
def test_experts_and_routers_are_known_by_their_names(name: str, belongs: bool) -> None:
    assert is_mixture(name) == belongs
