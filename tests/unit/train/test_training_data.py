"""What a run learns from: labels are counted where that is needed, and once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cwsam_cli.config.schema import (
    DatasetConfig,
    FolderArgs,
    FolderDataset,
    ModelArgs,
    ModelConfig,
    RunConfig,
)
from cwsam_cli.dataset.statistics import class_weights
from cwsam_cli.distributed.world import World
from cwsam_cli.errors import ConfigError, DataError
from cwsam_cli.train import training_data
from cwsam_cli.train.training_data import prepare_data

WORLD = World(torch.device("cpu"))
PIXELS = [[900, 100], [1000, 0], [500, 500]]  # of each tile by class; the third class is nowhere


@pytest.fixture
def config(make_raster: Callable[..., Path], tmp_path: Path) -> Callable[..., RunConfig]:
    """A run on three training tiles and one of validation; code 2, the third class, stands nowhere."""
    for split, tiles in (("train", PIXELS), ("val", PIXELS[:1])):
        for number, (zeros, ones) in enumerate(tiles):
            codes = np.full(1024, 255, np.uint8)
            codes[:zeros], codes[zeros : zeros + ones] = 0, 1
            make_raster(f"labels/{split}/{number}.tif", codes.reshape(32, 32))
            make_raster(f"images/{split}/{number}.tif", np.ones((3, 32, 32), np.uint8))

    def make(*, sampler: Any = None, loss_weight: Any = None, ignore_bg: bool = False) -> RunConfig:
        def section(split: str, **options: Any) -> DatasetConfig:
            args = FolderArgs(
                root_path_1=str(tmp_path / "images" / split),
                root_path_2=str(tmp_path / "labels" / split),
                classes=["bare", "grass", "ice"],
                ignore_bg=ignore_bg,
            )
            return DatasetConfig(dataset=FolderDataset(args=args), **options)

        return RunConfig(
            train_dataset=section("train", sampler=sampler),
            val_dataset=section("val"),
            model=ModelConfig(name="sam_tiny", args=ModelArgs(inp_size=32, loss_weight=loss_weight)),
        )

    return make


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every counting of the labels."""
    calls, count = [], training_data.count_class_pixels

    def counting(*arguments: Any) -> Any:
        calls.append(1)
        return count(*arguments)

    monkeypatch.setattr(training_data, "count_class_pixels", counting)
    return calls


def test_labels_are_not_counted_where_nothing_asks_for_it(config: Callable[..., RunConfig], counted: list[int]) -> None:
    data = prepare_data(config(loss_weight=[1, 2, 3]), WORLD)
    assert counted == []
    assert data.probabilities is None and data.weights is not None
    assert data.weights.tolist() == [1, 2, 3]
    assert prepare_data(config(), WORLD).weights is None


def test_balance_and_weights_come_from_one_count(config: Callable[..., RunConfig], counted: list[int]) -> None:
    data = prepare_data(config(sampler="balanced", loss_weight="auto"), WORLD)
    assert counted == [1]
    assert data.weights is not None and data.probabilities is not None
    torch.testing.assert_close(data.weights, torch.tensor(class_weights([2400, 600, 0])))
    expected = [(900 / 2400 + 100 / 600) / 2, (1000 / 2400) / 2, (500 / 2400 + 500 / 600) / 2]
    assert data.probabilities == pytest.approx(expected)


def test_ignored_background_is_hidden_and_counts_for_nothing(config: Callable[..., RunConfig]) -> None:
    data = prepare_data(config(sampler="balanced", loss_weight="auto", ignore_bg=True), WORLD)
    assert data.hidden_class == 0
    assert data.weights is not None and data.probabilities is not None
    assert data.weights.tolist() == pytest.approx([0, 1, 0])
    assert data.probabilities == pytest.approx([100 / 600, 0, 500 / 600])
    assert prepare_data(config(), WORLD).hidden_class is None


@pytest.mark.parametrize("options", [{"sampler": "balanced"}, {"loss_weight": "auto"}])
def test_tiles_without_a_labelled_pixel_cannot_be_balanced(
    config: Callable[..., RunConfig], make_raster: Callable[..., Path], options: dict[str, Any]
) -> None:
    chosen = config(**options)
    for number in range(3):
        make_raster(f"labels/train/{number}.tif", np.full((32, 32), 255, np.uint8))
    with pytest.raises(DataError, match="no labelled pixel") as caught:
        prepare_data(chosen, WORLD)
    assert caught.value.exit_code == 4 and caught.value.hint


def test_weights_must_be_one_a_class(config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="has 2 weights for 3 classes"):
        prepare_data(config(loss_weight=[1, 2]), WORLD)


def test_background_is_ignored_in_both_datasets_or_in_neither(config: Callable[..., RunConfig]) -> None:
    one, other = config(), config(ignore_bg=True)
    with pytest.raises(ConfigError, match="`ignore_bg` differs"):
        prepare_data(replace(one, val_dataset=other.val_dataset), WORLD)


def test_a_fold_of_the_training_tiles_is_validation(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"0"}, {"1", "2"}
    monkeypatch.setattr(
        training_data, "split_by_fold", lambda root, fold: names if (root, fold) == (tmp_path, 3) else None
    )
    plain = config()
    data = prepare_data(replace(plain, train_dataset=replace(plain.train_dataset, fold=3)), WORLD)
    assert [[image.name for image, _ in part.pairs] for part in (data.training, data.validation)] == [
        ["0.tif"],
        ["1.tif", "2.tif"],
    ]
    assert data.training.train and not data.validation.train
