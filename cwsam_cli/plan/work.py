"""Count the work of a simulated step: operations, memory traffic and bytes sent to other ranks.

Every operation of torch counts as one kernel, which reads its arguments and writes its results.
Views cost nothing. Without `torch.compile`, this is how a GPU runs a step.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed.fsdp  # defines the operations of sharding
from torch import Tensor
from torch.distributed import ProcessGroup, get_process_group_ranks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from cwsam_cli.plan.cards import MACHINE

Kind = Literal["all_gather", "reduce_scatter", "all_to_all"]

_aten = torch.ops.aten
_NO_WORK = {
    _aten._unsafe_view.default,
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
}
_FLOPS = flop_registry | {
    _aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
    _aten._grouped_mm: lambda a, b, *_, **__: 2 * a.numel() * b.shape[-1],
}
_COPY_IN = torch.ops.fsdp.all_gather_copy_in.default
_COLLECTIVES: dict[Any, Kind] = {
    torch.ops.c10d._allgather_base_.default: "all_gather",
    torch.ops.c10d._reduce_scatter_base_.default: "reduce_scatter",
    torch.ops.c10d.alltoall_base_.default: "all_to_all",
}


class Kernel(NamedTuple):
    """Work of one operation."""

    flops: int
    """Floating-point operations of a product or convolution; 0 for other kernels."""
    moved: int
    """Bytes read and written."""
    is_float32: bool
    """Whether the first argument is float32."""


class Message(NamedTuple):
    """Kind of a collective operation between ranks."""

    kind: Kind
    neighbours: int | None
    """Number of its ranks on each machine; None if all of them are on one machine."""


@dataclass(frozen=True, slots=True)
class SentBytes:
    """Bytes that a rank sends to other ranks in a step, by kind. It receives as many.

    Sums of counters and norms, some kilobytes per step, are left out.
    """

    all_gather: int = 0
    """Weights, gathered for forward and backward passes."""
    reduce_scatter: int = 0
    """Gradients, summed over the ranks."""
    all_to_all: int = 0
    """Tokens and their gradients, sent to the ranks of their experts and back."""

    @property
    def total(self) -> int:
        """Sum of the three kinds."""
        return self.all_gather + self.reduce_scatter + self.all_to_all


@dataclass(frozen=True, slots=True)
class StepWork:
    """Work of one rank in a step, without the optimizer's update."""

    kernels: dict[Kernel, int]
    """Number of kernels of each amount of work."""
    messages: dict[Message, int]
    """Bytes that the rank sends, by kind of message."""

    @property
    def sent(self) -> SentBytes:
        """Sum the bytes by kind of operation."""
        sums: Counter[str] = Counter()
        for message, size in self.messages.items():
            sums[message.kind] += size
        return SentBytes(**sums)


class WorkCounter:
    """Counter of a step's work. Parts of the step are counted apart, so that a part can stand for several."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int | None, Counter[Kernel | Message]]] = [(0, None, Counter())]

    def begin(self, number: int, block: int) -> None:
        """Begin a part: the forward or backward pass of a block in the numbered pass of the step, from 1."""
        self._parts.append((number, block, Counter()))

    def add(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """Count one operation that torch has run."""
        counts = self._parts[-1][2]
        if func in _COLLECTIVES:
            group = ProcessGroup.unbox(args[2])
            ranks = get_process_group_ranks(group)
            machines = {rank // MACHINE for rank in ranks}
            message = Message(_COLLECTIVES[func], len(ranks) // len(machines) if len(machines) > 1 else None)
            given = _size(args[1]) * (1 if message.kind != "all_gather" else len(ranks))
            counts[message] += given * (len(ranks) - 1) // len(ranks)
        elif not func.is_view and func not in _NO_WORK:
            if func is _COPY_IN:  # it gets the whole buffer of gathered weights, and writes one rank's share of it
                read = written = _tensors(args[0])
            else:
                read, written = _tensors(args), _tensors(_written(func, args) if out is None else out)
            if read or written:
                flops = _FLOPS[func._overloadpacket](*args, out_val=out) if func._overloadpacket in _FLOPS else 0
                is_float32 = (read or written)[0].dtype == torch.float32
                counts[Kernel(flops, sum(map(_size, [*read, *written])), is_float32)] += 1

    def total(self, often: Counter[int], batches: int) -> StepWork:
        """Sum the work of a step.

        Args:
            often: how many blocks each block stands for.
            batches: number of batches of the step. Batches beyond the counted ones cost as much as the last but
                one of these.
        """
        counts: Counter[Kernel | Message] = Counter()
        last = max(number for number, _, _ in self._parts)
        for number, block, part in self._parts:
            times = (1 if block is None else often[block]) * (1 + (batches - last if number == last - 1 else 0))
            for key, count in part.items():
                counts[key] += times * count
        return StepWork(
            {key: count for key, count in counts.items() if isinstance(key, Kernel)},
            {key: count for key, count in counts.items() if isinstance(key, Message)},
        )


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _written(func: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments that an operation without results writes to."""
    return [value for argument, value in zip(func._schema.arguments, args, strict=False) if argument.is_write]


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor's values. Values that are repeated without a copy count once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
