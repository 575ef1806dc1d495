"""Describe which part of a weight each process holds, also for processes of an earlier run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Division of a weight over processes."""

    processes: int = 1
    cut: int = 0
    """Dimension along which FSDP divides the weight."""
    expert_parallel: int = 1
    """Number of consecutive processes over which the weight's experts, its first dimension, are distributed."""

    def part(self, shape: tuple[int, ...], rank: int) -> tuple[list[int], list[int]]:
        """Return the first index of a process's part in each dimension, and the index after its last."""
        start, stop = [0] * len(shape), list(shape)
        if self.expert_parallel > 1:
            experts = shape[0] // self.expert_parallel
            start[0] = rank % self.expert_parallel * experts
            stop[0] = start[0] + experts
        first, last = start[self.cut], stop[self.cut]
        rows = -(-(last - first) * self.expert_parallel // self.processes)
        start[self.cut] = min(first + rank // self.expert_parallel * rows, last)
        stop[self.cut] = min(start[self.cut] + rows, last)
        return start, stop

    def slices(self, shape: tuple[int, ...], rank: int) -> tuple[slice, ...]:
        """Return the part as slices of the whole weight."""
        return tuple(map(slice, *self.part(shape, rank)))


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is one part of a tensor that several processes hold, without the import of torch's sharding."""
    return hasattr(tensor, "device_mesh")


def layout_of(weight: Tensor) -> Layout:
    """Return the layout of a weight that `parallelize` has sharded, or of a whole weight."""
    if not is_sharded(weight):
        return Layout()
    cut = getattr(weight.placements[0], "dim", 0)  # a replicated weight is not cut
    return Layout(weight.device_mesh.size(), cut, weight.device_mesh.size(1) if weight.device_mesh.ndim == 2 else 1)
