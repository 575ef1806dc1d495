"""The portable network computes the probabilities of the checkpoint, from the scene's own values."""

import dataclasses
from typing import Any

import pytest
import torch

from cwsam_cli.checkpoints.calibration import Calibration
from cwsam_cli.checkpoints.checkpoint import Checkpoint
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.export.network import GatheredExperts, PortableNetwork
from cwsam_cli.model.experts import ExpertGroup, HierarchicalExperts
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.taxonomy import from_names
from tests.small import small

MIXTURE: dict[str, Any] = {
    "embed_dim": 32,
    "moe_num_expert_groups": 2,
    "moe_experts_per_group": 2,
    "moe_k_groups": 1,
    "moe_k_experts": 1,
    "moe_start_layer_index": 1,
    "moe_decoder_experts": 2,
    "moe_decoder_k_experts": 1,
    "detail_stem": True,
    "adaptor": "adaptor",
    "input_type": "fft",
}


def checkpoint(**changes: Any) -> Checkpoint:
    torch.manual_seed(0)
    arch = small(**MIXTURE)
    return dataclasses.replace(
        Checkpoint(
            weights=ClassWiseSam(arch).state_dict(),
            architecture=arch,
            taxonomy=from_names(["nothing", "水体", "forest", "road"]),
            bands=tuple(
                Band(name=name, mean=mean, std=20.0 + mean) for name, mean in (("r", 90.0), ("g", 80), ("b", 70))
            ),
            dtype="uint8",
            gsd_m=30.0,
            ignore_background=False,
            epoch=1,
            metrics={},
        ),
        **changes,
    )


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(1)).float()


def normalized(about: Checkpoint) -> torch.Tensor:
    mean, std = (torch.tensor([getattr(band, name) for band in about.bands])[:, None, None] for name in ("mean", "std"))
    return (pixels() - mean) / std


@torch.no_grad()
@pytest.mark.parametrize("divisor", [1.0, 255.0])
def test_probabilities_are_those_of_the_checkpoint(divisor: float) -> None:
    about = checkpoint()
    wanted = about.model()(normalized(about)).softmax(dim=1)
    found = PortableNetwork(about, divisor)(pixels() / divisor)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert wanted.std() > 0.001


@torch.no_grad()
def test_experts_gather_their_tokens_also_where_some_have_none() -> None:
    torch.manual_seed(0)
    layer = HierarchicalExperts(16, 32, groups=2, experts=8, top_groups=1, top_experts=2)
    for number in (1, 3, 40):
        x = torch.randn(2, number, 16)
        wanted = layer(x)
        torch.testing.assert_close(GatheredExperts(_copy(layer))(x), wanted, rtol=0, atol=1e-6)


def _copy(layer: HierarchicalExperts) -> HierarchicalExperts:
    copy = HierarchicalExperts(16, 32, groups=2, experts=8, top_groups=1, top_experts=2)
    copy.load_state_dict(layer.state_dict())
    return copy


@torch.no_grad()
def test_a_calibrated_checkpoint_gives_calibrated_probabilities() -> None:
    calibration = Calibration(temperature=2.5, data="d", pixels=1, weights_sha256="")
    about = checkpoint(calibration=calibration)
    wanted = (about.model()(normalized(about)) / 2.5).softmax(dim=1)
    torch.testing.assert_close(PortableNetwork(about)(pixels()), wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_hidden_class_has_probability_0_and_the_others_sum_to_1() -> None:
    found = PortableNetwork(checkpoint(ignore_background=True))(pixels())
    assert (found[:, 0] == 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 32, 32))


@torch.no_grad()
def test_nodata_counts_as_the_mean_and_outliers_are_clipped() -> None:
    image = pixels()
    image[:, 0, :4], image[:, 1, 5] = torch.nan, 1e30
    found = PortableNetwork(checkpoint())(image)
    image[:, 0, :4], image[:, 1, 5] = 90.0, 80 + 10 * 100.0
    torch.testing.assert_close(found, PortableNetwork(checkpoint())(image))


def test_no_stack_of_experts_is_left() -> None:
    modules = list(PortableNetwork(checkpoint()).modules())
    assert len([module for module in modules if isinstance(module, GatheredExperts)]) == 3
    assert not [module for module in modules if isinstance(module, ExpertGroup)]
