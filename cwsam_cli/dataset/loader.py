"""Load batches of tiles, in this process or in worker processes."""

import os
import signal
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cwsam_cli.dataset.samples import BatchShare, TileDataset
from cwsam_cli.errors import CwsamError

Batch = tuple[Tensor, Tensor]
"""Images (B, C, S, S) float32 and class indices (B, S, S) uint8; B may be 0."""


def load_batches(
    dataset: TileDataset, batches: Sequence[Sequence[int]] | BatchShare, *, workers: int, pin_memory: bool
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
