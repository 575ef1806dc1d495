"""Every class goes to all splits where blocks allow, and buffers cost little ground."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from cwsam_cli.dataset.manifest import SPLITS
from cwsam_cli.tile.split.assignment import Neighbours, assign, assign_folds


def test_classes_are_shared_out_evenly() -> None:
    # Half of the blocks hold only class 0, half only class 1: chance alone would often part them badly.
    histograms = np.array([[1000, 0]] * 20 + [[0, 1000]] * 20)
    splits = np.array(assign(histograms, (50, 25, 25), seed=0))
    for half in (splits[:20], splits[20:]):
        assert Counter(half.tolist()) == {"train": 10, "val": 5, "test": 5}


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_stands_in_one_block_goes_to_training(seed: int) -> None:
    histograms = np.full((12, 3), 500)
    histograms[:, 2] = 0
    histograms[seed, 2] = 3
    assert assign(histograms, (40, 30, 30), seed=seed)[seed] == "train"


def test_no_class_is_missing_from_training_even_if_shares_suffer() -> None:
    histograms = np.array([[2000, 0], [1000, 3], [1000, 0]])
    assert assign(histograms, (50, 25, 25), seed=0)[1] == "train"


def test_another_seed_gives_another_split() -> None:
    histograms = np.random.default_rng(0).integers(1, 100, (40, 4))
    assert len({tuple(assign(histograms, (70, 15, 15), seed=seed)) for seed in range(4)}) == 4


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (1, (70, 15, 15), (1, 0, 0)),
        (2, (70, 15, 15), (1, 1, 0)),
        (3, (70, 15, 15), (1, 1, 1)),
        (10, (70, 30, 0), (7, 3, 0)),
        (10, (80, 0, 20), (8, 0, 2)),
        (5, (1, 0, 0), (5, 0, 0)),
        (100, (0.7, 0.2, 0.1), (70, 20, 10)),
    ],
)
def test_every_wanted_split_gets_its_blocks(
    count: int, shares: tuple[float, ...], expected: tuple[int, int, int]
) -> None:
    splits = assign(np.full((count, 2), 10), shares, seed=0)
    assert tuple(splits.count(split) for split in SPLITS) == expected


def test_a_class_that_nobody_labelled_does_not_matter() -> None:
    histograms = np.random.default_rng(0).integers(1, 100, (20, 2))
    wider = np.concatenate([histograms, np.zeros((20, 3), np.int64)], axis=1)
    assert assign(wider, (70, 15, 15), seed=1) == assign(histograms, (70, 15, 15), seed=1)


def lattice(rows: int, cols: int, lost: float = 1.0) -> Neighbours:
    """Blocks of a rectangle, each beside up to eight others."""
    number = np.arange(rows * cols).reshape(rows, cols)
    pairs = [
        (number[r, c], number[r + dr, c + dc])
        for r in range(rows)
        for c in range(cols)
        for dr in (-1, 0, 1)
        for dc in (-1, 0, 1)
        if (dr, dc) != (0, 0) and 0 <= r + dr < rows and 0 <= c + dc < cols
    ]
    ours, theirs = np.array(pairs).T
    return Neighbours(ours, theirs, np.full(len(ours), lost))


def trained(splits: list[str], neighbours: Neighbours) -> int:
    """How many training blocks have no neighbour in another split."""
    part: NDArray[np.str_] = np.array(splits)
    beside = np.unique(neighbours.ours[part[neighbours.theirs] != "train"])
    return len(set(np.flatnonzero(part == "train").tolist()) - set(beside.tolist()))


def test_held_out_blocks_move_together_where_a_buffer_costs_whole_blocks() -> None:
    histograms, near = np.full((30, 2), 10), lattice(5, 6)
    careless = trained(assign(histograms, (70, 15, 15), seed=0), near)
    assert trained(assign(histograms, (70, 15, 15), seed=0, neighbours=near), near) >= max(10, careless + 5)


@pytest.mark.parametrize("seed", range(3))
def test_validation_is_seldom_beside_the_test(seed: int) -> None:
    near = lattice(8, 8)
    splits = np.array(assign(np.full((64, 2), 10), (70, 15, 15), seed=seed, neighbours=near))
    beside = np.unique(near.ours[(splits[near.ours] == "val") & (splits[near.theirs] == "test")])
    assert len(beside) < (splits == "val").sum() / 2


def test_blocks_of_an_earlier_run_keep_their_split() -> None:
    histograms = np.random.default_rng(0).integers(1, 100, (30, 3))
    before = assign(histograms[:20], (60, 20, 20), seed=0)
    after = assign(histograms, (60, 20, 20), seed=1, kept=[*before, *[None] * 10])
    assert after[:20] == before
    assert Counter(after) == {"train": 18, "val": 6, "test": 6}


def test_new_blocks_are_trained_on_where_held_out_ground_is_plenty() -> None:
    kept = ["test"] * 5 + ["val"] * 4 + [None] * 3
    assert assign(np.full((12, 2), 10), (70, 15, 15), seed=0, kept=kept)[9:] == ["train"] * 3


def test_folds_are_equal_and_share_every_class() -> None:
    histograms = np.array([[1000, 0]] * 20 + [[0, 1000]] * 20)
    folds = np.array(assign_folds(histograms, 5, seed=0))
    for half in (folds[:20], folds[20:]):
        assert Counter(half.tolist()) == dict.fromkeys(range(5), 4)
    assert assign_folds(histograms, 5, seed=0) == folds.tolist()


def test_ten_thousand_blocks_are_divided_within_seconds() -> None:
    import time

    histograms = np.random.default_rng(0).integers(1, 100, (10_000, 8))
    start = time.process_time()
    assign(histograms, (70, 15, 15), seed=0, neighbours=lattice(100, 100, 0.1))
    assert time.process_time() - start < 10
