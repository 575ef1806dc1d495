"""A pass over the data learns what is there, and measures each pixel once."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cwsam_cli.config.schema import FolderArgs, Loss, ModelArgs, TrainingSettings
from cwsam_cli.data.dataset import TileDataset
from cwsam_cli.data.manifest import Band
from cwsam_cli.errors import MachineError
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import Architecture
from cwsam_cli.taxonomy import Taxonomy, from_names
from cwsam_cli.train.loop import EpochResult, train_epoch, training_batches, validate

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(clip_grad_norm=None, workers=0)
CODES = from_names(["水体", "林地", "草地"], first=3)


class Oracle(nn.Module):
    """Sees the answer in the first band: its value is the class index."""

    def forward(self, image: Tensor) -> Tensor:
        return -((image[:, :1] - torch.arange(3.0).view(1, 3, 1, 1)) ** 2)


def _model() -> ClassWiseSam:
    torch.manual_seed(0)
    return ClassWiseSam(
        Architecture(
            embed_dim=16,
            depth=1,
            num_heads=2,
            global_attn_indexes=(0,),
            num_bands=2,
            num_classes=3,
            inp_size=32,
            patch_size=8,
            prompt_embed_dim=32,
            decoder_mlp_dim=32,
            detail_stem=True,
        )
    )


def _batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (B, 2, 32, 32) whose vertical stripes are their classes."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.arange(32) // 8 % 3).expand(size, 32, 32).contiguous()
    image = torch.stack([label - 1.0, (label == 2).float()], dim=1)
    return image + 0.1 * torch.randn(image.shape, generator=generator), label.to(torch.uint8)


def _train(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss = "ce",
    settings: TrainingSettings = SETTINGS,
    rate: Callable[[int], float] = lambda step: 0.1,
    first_step: int = 0,
    weights: Tensor | None = None,
) -> EpochResult:
    return train_epoch(
        model,
        batches,
        optimizer,
        rate,
        first_step=first_step,
        args=ModelArgs(loss=loss),
        settings=settings,
        weights=weights,
        device=CPU,
    )


def _after_one_epoch(
    batches: list[tuple[Tensor, Tensor]], settings: TrainingSettings
) -> tuple[list[Tensor], EpochResult]:
    model = _model()
    result = _train(model, batches, torch.optim.SGD(model.parameters()), settings=settings)
    return [parameter.detach() for parameter in model.parameters()], result


@pytest.mark.parametrize("loss", ["ce", "ce+dice", "ce+iou"])
def test_a_small_model_learns_one_batch_by_heart(loss: Loss) -> None:
    model, (image, label) = _model(), _batch(2)
    optimizer = torch.optim.AdamW(model.parameters())
    first = _train(model, [(image, label)], optimizer, loss=loss, rate=lambda step: 5e-3)
    last = _train(model, [(image, label)] * 60, optimizer, loss=loss, rate=lambda step: 5e-3)
    with torch.no_grad():
        right = (model(image).argmax(dim=1) == label).float().mean()
    assert first.loss > 0.9
    assert last.loss < first.loss
    assert right > 0.97


def test_accumulating_two_batches_equals_one_batch_of_both() -> None:
    (image, label) = _batch(4)
    whole, once = _after_one_epoch([(image, label)], SETTINGS)
    halves, twice = _after_one_epoch(
        [(image[:2], label[:2]), (image[2:], label[2:])], replace(SETTINGS, grad_accum_steps=2)
    )
    before = [parameter.detach() for parameter in _model().parameters()]
    assert (once.steps, twice.steps) == (1, 1)
    assert once.loss == pytest.approx(twice.loss, rel=1e-5)
    assert once.gradient_norm == pytest.approx(twice.gradient_norm, rel=1e-4)
    for one, other in zip(whole, halves, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert any(not torch.equal(start, one) for start, one in zip(before, whole, strict=True))


def test_batches_left_over_make_a_step_of_their_own() -> None:
    batch = _batch(1)
    after, result = _after_one_epoch([batch] * 3, replace(SETTINGS, grad_accum_steps=2))
    expected, _ = _after_one_epoch([batch] * 2, SETTINGS)
    assert result.steps == 2
    for one, other in zip(after, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_rates_are_asked_for_from_the_runs_own_step_on() -> None:
    model, asked = _model(), []

    def rate(step: int) -> float:
        asked.append(step)
        return 1 / step

    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    result = _train(model, [_batch(1)] * 3, optimizer, rate=rate, first_step=7)
    assert asked == [7, 8, 9]
    assert optimizer.param_groups[0]["lr"] == 1 / 9
    assert result.steps == 3


def test_clipping_shortens_the_step_but_not_the_reported_norm() -> None:
    before = [parameter.detach() for parameter in _model().parameters()]
    free, unclipped = _after_one_epoch([_batch(2)], SETTINGS)
    short, clipped = _after_one_epoch([_batch(2)], replace(SETTINGS, clip_grad_norm=1e-3))
    moved = [
        math.sqrt(sum(float(((one - start) ** 2).sum()) for one, start in zip(after, before, strict=True)))
        for after in (free, short)
    ]
    assert clipped.gradient_norm == unclipped.gradient_norm
    assert moved[0] == pytest.approx(0.1 * unclipped.gradient_norm, rel=1e-2)
    assert moved[1] == pytest.approx(0.1 * 1e-3, rel=1e-2)


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, grad_accum_steps=2)])
def test_a_loss_that_is_no_number_stops_before_the_weights_change(settings: TrainingSettings) -> None:
    model, (image, label) = _model(), _batch(1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MachineError, match="the loss is nan at step 4") as caught:
        _train(model, [(image * math.nan, label)], torch.optim.SGD(model.parameters()), settings=settings, first_step=4)
    assert (caught.value.exit_code, "lr" in caught.value.hint) == (6, True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_bfloat16_learns_too() -> None:
    model = _model()
    before = copy.deepcopy(model.state_dict())
    result = _train(
        model, [_batch(2)], torch.optim.SGD(model.parameters()), settings=replace(SETTINGS, precision="bf16")
    )
    assert math.isfinite(result.loss)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_class_weights_reach_the_loss() -> None:
    losses = []
    for weights in (None, torch.tensor([0.0, 0.0, 1.0])):
        model = _model()
        optimizer = torch.optim.SGD(model.parameters())
        losses.append(_train(model, [_batch(1)], optimizer, weights=weights).loss)
    assert losses[0] != pytest.approx(losses[1])


@pytest.fixture
def tiles(tmp_path: Path, make_raster: Callable[..., Path]) -> Callable[..., tuple[TileDataset, list[NDArray[Any]]]]:
    """A dataset of tiles of the given (height, width), and their label codes; the first band is the class index."""

    def make(*shapes: tuple[int, int], **options: Any) -> tuple[TileDataset, list[NDArray[Any]]]:
        rng = np.random.default_rng(0)
        labels = []
        for number, shape in enumerate(shapes):
            index = rng.integers(0, 3, shape)
            codes = (index + 3).astype(np.uint8)
            codes[rng.random(shape) < 0.2] = 255
            codes[rng.random(shape) < 0.1] = 9  # no class
            make_raster(f"images/{number}.tif", np.stack([index, index * 2]).astype(np.float32))
            make_raster(f"labels/{number}.tif", codes)
            labels.append(codes)
        args = FolderArgs(root_path_1=str(tmp_path / "images"), root_path_2=str(tmp_path / "labels"))
        bands = tuple(Band(name=name, mean=0.0, std=1.0) for name in ("index", "double"))
        taxonomy: Taxonomy = CODES
        return TileDataset(args, taxonomy, bands, 32, **options), labels

    return make


def _validate(model: nn.Module, dataset: TileDataset, precision: str = "fp32", batch_size: int = 3) -> NDArray[Any]:
    return validate(model, dataset, batch_size=batch_size, classes=3, device=CPU, precision=precision)


@pytest.mark.parametrize("shapes", [[(32, 32)], [(20, 32)], [(40, 70), (33, 31)], [(64, 96)]])
def test_validation_counts_every_labelled_pixel_once(tiles: Callable[..., Any], shapes: list[tuple[int, int]]) -> None:
    dataset, labels = tiles(*shapes)
    matrix = _validate(Oracle(), dataset)
    counts = [sum(int((codes == code).sum()) for codes in labels) for code in CODES.codes]
    assert matrix.tolist() == np.diag(counts).tolist()
    assert sum(counts) > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_validation_of_a_network_sums_to_the_labelled_pixels(tiles: Callable[..., Any], precision: str) -> None:
    dataset, labels = tiles((40, 50))
    model = _model().train()
    before = copy.deepcopy(model.state_dict())
    matrix = _validate(model, dataset, precision)
    assert matrix.sum() == np.isin(labels[0], CODES.codes).sum()
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_batch_size_does_not_change_the_matrix(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles((40, 50), (32, 32))
    model = _model()
    assert _validate(model, dataset, batch_size=1).tolist() == _validate(model, dataset, batch_size=5).tolist()


def test_an_epochs_batches_hold_every_tile_once_and_follow_from_seed_and_epoch(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles(*[(32, 32)] * 5, train=True)

    def epoch(number: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        return list(training_batches(dataset, 2, replace(SETTINGS, seed=seed), number))

    def sums(batches: list[tuple[Tensor, Tensor]]) -> Iterator[float]:
        for image, _ in batches:
            yield from image.sum(dim=(1, 2, 3)).tolist()

    first, again = epoch(1), epoch(1)
    assert [len(image) for image, _ in first] == [2, 2, 1]
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert sorted(sums(first)) == sorted(float(dataset[number][0].sum()) for number in range(5))
    orders = {tuple(sums(epoch(number, seed))) for number in range(4) for seed in range(4)}
    assert len(orders) > 4
