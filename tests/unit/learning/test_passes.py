"""An epoch holds every tile once, whoever reads it, and validation measures each pixel once."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cwsam_cli.config.schema import FolderArgs, TrainingSettings
from cwsam_cli.dataset.loader import Batch
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.dataset.samples import TileDataset
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import DataError
from cwsam_cli.learning.loop import training_steps
from cwsam_cli.metrics.validation import validate
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.taxonomy import Taxonomy, from_names
from tests.small import small

WORLD = World(torch.device("cpu"))
SETTINGS = TrainingSettings(clip_grad_norm=None, workers=0)
CODES = from_names(["水体", "林地", "草地"], first=3)


class Oracle(nn.Module):
    """Sees the answer in the first band: its value is the class index."""

    def forward(self, image: Tensor) -> Tensor:
        return -((image[:, :1] - torch.arange(3.0).view(1, 3, 1, 1)) ** 2)


def _model() -> ClassWiseSam:
    torch.manual_seed(0)
    return ClassWiseSam(small(depth=1, global_attn_indexes=(0,), num_bands=2, num_classes=3, detail_stem=True))


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


@dataclass(frozen=True, slots=True)
class Alone(World):
    """One process of several, whose sums are its own share."""

    def total(self, values: Tensor) -> Tensor:
        """Its own."""
        return values


def _alone(rank: int, size: int) -> World:
    return Alone(torch.device("cpu"), rank, size)


def _validate(
    model: nn.Module, dataset: TileDataset, precision: str = "fp32", batch_size: int = 3, world: World = WORLD
) -> NDArray[Any]:
    return validate(model, dataset, world, batch_size=batch_size, classes=3, precision=precision)


@pytest.mark.parametrize("shapes", [[(32, 32)], [(20, 32)], [(40, 70), (33, 31)], [(64, 96)]])
def test_validation_counts_every_labelled_pixel_once(tiles: Callable[..., Any], shapes: list[tuple[int, int]]) -> None:
    dataset, labels = tiles(*shapes)
    matrix = _validate(Oracle(), dataset)
    counts = [sum(int((codes == code).sum()) for codes in labels) for code in CODES.codes]
    assert matrix.tolist() == np.diag(counts).tolist()
    assert sum(counts) > 0


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_shares_of_a_validation_add_up_to_the_whole(tiles: Callable[..., Any], processes: int, batch_size: int) -> None:
    dataset, _ = tiles((40, 70), (33, 31))  # nine squares
    passes = []

    class Counting(Oracle):
        def forward(self, image: Tensor) -> Tensor:
            passes[-1].append(len(image))
            return super().forward(image)

    total = np.zeros((3, 3), np.int64)
    for rank in range(processes):
        passes.append([])
        total += _validate(Counting(), dataset, batch_size=batch_size, world=_alone(rank, processes))
    assert total.tolist() == _validate(Oracle(), dataset).tolist()
    assert len({len(own) for own in passes}) == 1  # sharded weights are gathered together
    assert sum(map(sum, passes)) == len(dataset)


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


def test_a_hidden_class_is_never_predicted(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles((40, 50))
    matrix = validate(Oracle(), dataset, WORLD, batch_size=2, classes=3, precision="fp32", hidden_class=1)
    assert matrix[:, 1].sum() == 0
    assert matrix.sum() == _validate(Oracle(), dataset).sum()


Steps = list[list[Batch]]


def _steps(dataset: TileDataset, batch_size: int = 2, *, epoch: int = 1, world: World = WORLD, **options: Any) -> Steps:
    settings = replace(SETTINGS, **{key: options.pop(key) for key in ("seed", "grad_accum_steps") if key in options})
    return list(training_steps(dataset, batch_size, settings, epoch, world, **options))


def _sums(steps: Steps) -> Iterator[float]:
    """A number an image, by which it is known again."""
    for step in steps:
        for image, _ in step:
            yield from image.sum(dim=(1, 2, 3)).tolist()


def test_an_epochs_batches_hold_every_tile_once_and_follow_from_seed_and_epoch(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles(*[(32, 32)] * 5, train=True)
    first, again = _steps(dataset), _steps(dataset)
    assert [[len(image) for image, _ in step] for step in first] == [[2], [2], [1]]
    for one, other in zip(first, again, strict=True):
        for (image, label), (image_again, label_again) in zip(one, other, strict=True):
            assert torch.equal(image, image_again) and torch.equal(label, label_again)
    assert sorted(_sums(first)) == sorted(float(dataset[number][0].sum()) for number in range(5))
    orders = {tuple(_sums(_steps(dataset, epoch=epoch, seed=seed))) for epoch in range(4) for seed in range(4)}
    assert len(orders) > 4


def test_batches_left_over_make_a_step_of_their_own(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles(*[(32, 32)] * 5, train=True)
    steps = _steps(dataset, grad_accum_steps=2)
    assert [[len(image) for image, _ in step] for step in steps] == [[2, 2], [1]]
    assert list(_sums(steps)) == list(_sums(_steps(dataset)))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_have_equally_many_batches_and_together_those_of_one(
    tiles: Callable[..., Any], processes: int
) -> None:
    dataset, _ = tiles(*[(32, 32)] * 7, train=True)
    shares = [_steps(dataset, 1, world=_alone(rank, processes)) for rank in range(processes)]
    assert len({len(steps) for steps in shares}) == 1
    alone = _steps(dataset, processes)
    for step, parts in zip(alone, zip(*shares, strict=True), strict=True):
        images = torch.cat([image for part in parts for image, _ in part])
        assert torch.equal(images, step[0][0])
    empty = [image for steps in shares for step in steps for image, _ in step if not len(image)]
    assert empty and all(image.shape == (0, 2, 32, 32) for image in empty)


def test_an_epoch_goes_on_where_it_was_interrupted(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles(*[(32, 32)] * 7, train=True)
    whole = list(_sums(_steps(dataset, grad_accum_steps=2)))
    assert list(_sums(_steps(dataset, grad_accum_steps=2, samples_done=4))) == whole[4:]


def test_unlikely_tiles_are_left_out_of_a_balanced_epoch(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles(*[(32, 32)] * 5, train=True)
    steps = _steps(dataset, probabilities=np.array([0, 0, 1.0, 0, 0]))
    assert set(_sums(steps)) == {float(dataset[2][0].sum())}
    assert sum(len(image) for step in steps for image, _ in step) == 5


def test_reading_tiles_draws_no_random_number_of_the_run(tiles: Callable[..., Any]) -> None:
    dataset, _ = tiles((32, 32), train=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _steps(dataset)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_tile_is_named_whoever_reads_it(tiles: Callable[..., Any], tmp_path: Path, workers: int) -> None:
    dataset, _ = tiles((32, 32), (32, 32), train=True)
    path = tmp_path / "images" / "1.tif"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"^`[^`]*1\.tif`[^\n]*$") as caught:
        list(training_steps(dataset, 1, replace(SETTINGS, workers=workers), 0, WORLD))
    assert caught.value.hint and caught.value.exit_code == 4
