"""Load batches of tiles, in this process or in worker processes."""

import os
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from cwsam_cli.errors import CwsamError

if TYPE_CHECKING:  # it reads rasters, and training steps run without
    from cwsam_cli.dataset.samples import TileDataset

Batch = tuple[Tensor, Tensor]
"""Images (B, C, S, S) float32 and class indices (B, S, S) uint8; B may be 0."""


class BatchShare(Sampler[list[tuple[int, int]]]):
    """Sampler of one process's share of each batch in an epoch: sample numbers, each with a seed.

    Order and seeds depend only on the run's seed and the epoch, so any number of processes learns
    from the same batches. Batches are divided as evenly as possible. A share may be empty.

    Args:
        count: number of samples in the dataset.
        batch_size: samples per batch and process.
        seed: seed of the run.
        epoch: number of the epoch.
        rank: rank of this process.
        size: number of processes.
        samples_done: samples of the epoch to skip, because a run learned from them before an interruption.
        probabilities: probability of each sample, (count,). If given, `count` samples are drawn with
            replacement.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        rank: int = 0,
        size: int = 1,
        samples_done: int = 0,
        probabilities: NDArray[np.float64] | None = None,
    ) -> None:
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(count) if probabilities is None else rng.choice(count, count, p=probabilities)
        samples = list(zip(order.tolist(), rng.integers(2**62, size=count).tolist(), strict=True))
        full_batch = batch_size * size
        self._batches = [
            batch[len(batch) * rank // size : len(batch) * (rank + 1) // size]
            for batch in (samples[start : start + full_batch] for start in range(samples_done, count, full_batch))
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self._batches)


def load_batches(
    dataset: "TileDataset", batches: Sequence[Sequence[int]] | BatchShare, *, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Yield batches in the given order.

    Args:
        dataset: dataset of tiles.
        batches: sample numbers of each batch. `BatchShare` adds a seed to each number.
        workers: number of processes that read tiles; 0 reads them in this process.
        pin_memory: whether to put batches in page-locked memory, from which GPUs copy faster.

    Raises:
        DataError: a tile is damaged.
    """
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type] # torch's annotation allows numbers only
        collate_fn=dataset.collate,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts,
        multiprocessing_context="fork"
        if workers and os.name == "posix"
        else None,  # a spawned worker would import torch again
        pin_memory=pin_memory,
        generator=torch.Generator(),  # otherwise torch draws from the generator of the routers' noise
    )
    try:
        yield from loader
    except CwsamError as error:  # a worker's error message is a whole traceback
        last = str(error).strip().splitlines()[-1].partition("Error: ")[2]
        raise (type(error)(last, hint=error.hint or "tile the scenes again") if last else error) from None


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C in a worker, because the training process ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
