"""The order in which samples are learned from, and how processes share them."""

from itertools import chain
from typing import Any

import numpy as np
import pytest

from cwsam_cli.dataset.loader import BatchShare

Key = tuple[int, int]


def _shares(count: int, batch_size: int, processes: int, **options: Any) -> list[list[list[Key]]]:
    """Each process's batches of an epoch."""
    options = {"seed": 3, "epoch": 2} | options
    return [list(BatchShare(count, batch_size, rank=rank, size=processes, **options)) for rank in range(processes)]


def _batches(shares: list[list[list[Key]]]) -> list[list[Key]]:
    """The batches of all processes together, in the order of the ranks."""
    return [list(chain(*parts)) for parts in zip(*shares, strict=True)]


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("count", [1, 7, 50])
def test_an_epoch_visits_every_sample_once_whoever_does(count: int, batch_size: int, processes: int) -> None:
    shares = _shares(count, batch_size, processes)
    keys = [key for batches in shares for batch in batches for key in batch]
    assert sorted(number for number, _ in keys) == list(range(count))
    assert len({seed for _, seed in keys}) == count
    assert {len(batches) for batches in shares} == {-(-count // (batch_size * processes))}
    assert len(BatchShare(count, batch_size, seed=3, epoch=2, size=processes)) == len(shares[0])


@pytest.mark.parametrize(("batch_size", "processes"), [(30, 1), (15, 2), (10, 3), (6, 5)])
def test_any_number_of_processes_learns_from_the_same_batches(batch_size: int, processes: int) -> None:
    (alone,) = _shares(77, 30, 1)
    assert _batches(_shares(77, batch_size, processes)) == alone
    assert [len(batch) for batch in alone] == [30, 30, 17]


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_a_batch_is_shared_out_as_evenly_as_can_be(processes: int) -> None:
    for count in range(1, 4 * processes):
        sizes = [[len(batch) for batch in batches] for batches in _shares(count, 2, processes)]
        assert all(max(parts) - min(parts) <= 1 for parts in zip(*sizes, strict=True))


def test_a_share_may_be_empty_but_is_there() -> None:
    shares = _shares(9, 2, 4)  # eight samples, then one
    assert [[len(batch) for batch in batches] for batches in shares] == [[2, 0], [2, 0], [2, 0], [2, 1]]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_was_had_before_an_interruption_is_left_out_and_the_rest_follows(processes: int, steps: int) -> None:
    whole = _batches(_shares(50, 5, processes))
    samples_done = sum(len(batch) for batch in whole[:steps])
    assert _batches(_shares(50, 5, processes, samples_done=samples_done)) == whole[steps:]


def test_another_number_of_processes_goes_on_where_the_first_one_stopped() -> None:
    (alone,) = _shares(50, 6, 1)
    assert alone[:3] + _batches(_shares(50, 3, 2, samples_done=18)) == alone


def test_nothing_is_left_of_an_epoch_that_was_had() -> None:
    assert _shares(50, 6, 2, samples_done=50) == [[], []]


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): _shares(50, 7, 1, seed=seed, epoch=epoch)[0] for seed in (0, 1) for epoch in (0, 1)}
    numbers = {key: tuple(number for number, _ in chain(*order)) for key, order in orders.items()}
    assert len(set(numbers.values())) == 4
    assert len({frozenset(seed for _, seed in chain(*order)) for order in orders.values()}) == 4
    assert orders[1, 1] == _shares(50, 7, 1, seed=1, epoch=1)[0]


def test_a_balanced_epoch_draws_as_many_as_there_are_by_their_chances() -> None:
    probabilities = np.array([0.2, 0.1, 0.4, 0.0, 0.3])
    drawn = [
        number
        for epoch in range(400)
        for batch in _shares(5, 2, 1, epoch=epoch, probabilities=probabilities)[0]
        for number, _ in batch
    ]
    assert len(drawn) == 400 * 5
    counts = np.bincount(drawn, minlength=5)
    assert counts[3] == 0
    assert counts / len(drawn) == pytest.approx(probabilities, abs=0.04)


@pytest.mark.parametrize("processes", [2, 3])
def test_drawn_samples_are_shared_out_as_others_are(processes: int) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(40))
    (alone,) = _shares(40, 12, 1, probabilities=probabilities)
    assert _batches(_shares(40, 12 // processes, processes, probabilities=probabilities)) == alone
    assert _batches(_shares(40, 12 // processes, processes, probabilities=probabilities, samples_done=12)) == alone[1:]
    assert len({seed for batch in alone for _, seed in batch}) == 40  # a tile drawn twice shows two squares
