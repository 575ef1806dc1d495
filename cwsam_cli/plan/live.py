"""Count the bytes of live tensors, real or fake, and the work of the operations that make them.

A dispatch mode sees every storage that torch makes, and a finalizer reports when it is freed.
Real CPU tensors and the fake ones of `simulate` give the same count.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, wraps
from itertools import groupby, pairwise
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cwsam_cli.plan.work import StepWork, WorkCounter


@dataclass(frozen=True, slots=True)
class LiveBytes:
    """Live bytes of a rank, besides its own weights, gradients and optimizer state."""

    activations: int = 0
    """Tensors that the backward pass needs, and gradients of weights until they are summed."""
    gathered: int = 0
    """Gathered weights of other ranks, and copies of weights in the format of the forward pass."""
    reducing: int = 0
    """Buffers in which gradients are summed over the ranks."""

    @property
    def total(self) -> int:
        """Sum of the three kinds."""
        return self.activations + self.gathered + self.reducing


_KINDS = ("activations", "gathered", "reducing")
# Kinds of the storages that these methods of FSDP allocate.
_WITHIN = {"unshard": "gathered", "wait_for_unshard": "gathered", "post_backward": "reducing"}


class LiveStorages(TorchDispatchMode):
    """Dispatch mode that counts the live storages that torch makes while it is active.

    Args:
        model: the model. Its weights are not counted. A complete gradient is not counted either, and
            is freed at once.
        blocks: parts of the model that run one after the other. The last one runs once and includes
            everything after it.
        order: numbers of the blocks in the order in which a deeper model runs them. The changes of a
            block's forward pass, and of its backward pass, are repeated for each place it has there.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module] = (), order: Sequence[int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._blocks = model, blocks
        self._order = range(len(blocks)) if order is None else order
        self._kind = "activations"
        self._block = 0
        self._passes = 0
        self._changes: list[tuple[str, int, int]] = []  # kind, bytes, block that made the storage
        self._begun: list[tuple[int, tuple[int, bool], int]] = []  # changes so far, (pass, is backward), block
        self._sizes: dict[int, tuple[str, int, int]] = {}
        self._work = WorkCounter()
        self._patches = ExitStack()

    @property
    def worst(self) -> LiveBytes:
        """Live bytes at the peak of their sum."""
        alive = self._alive()
        return LiveBytes(*alive[alive.sum(axis=1).argmax()].tolist())

    @property
    def most_activations(self) -> int:
        """Largest live bytes of activations at any moment."""
        return int(self._alive()[:, 0].max())

    def work(self, batches: int = 1) -> StepWork:
        """Sum the work of a step of so many batches; see `WorkCounter.total`."""
        return self._work.total(Counter(self._order), batches)

    def _alive(self) -> NDArray[np.int64]:
        """Compute the live bytes of each kind after every change, (N, 3)."""
        changes = np.zeros((len(self._changes), len(_KINDS)), np.int64)
        for row, (kind, size, _) in enumerate(self._changes):
            changes[row, _KINDS.index(kind)] = size
        begun = [*self._begun, (len(changes), (0, False), 0)]
        often = Counter(self._order)
        for (start, (_, backward), block), (end, _, _) in pairwise(begun):
            if not backward and block == len(self._blocks) - 1:  # autocast frees its copies for all blocks at its end
                changes[start:end] *= np.array([[often[born]] for _, _, born in self._changes[start:end]])
        parts = [np.zeros((1, len(_KINDS)), np.int64), changes[: begun[0][0]]]
        for (_, backward), passed in groupby(pairwise(begun), key=lambda ends: ends[0][1]):
            own = {block: changes[start:end] for (start, _, block), (end, _, _) in passed}
            order = reversed(self._order) if backward else self._order
            parts += [own[block] for block in order if block in own]
        return np.concatenate(parts).cumsum(axis=0)

    def __enter__(self) -> "LiveStorages":
        """Start to count."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._weights = {id(_local(tensor).untyped_storage()) for tensor in tensors}
        for weight in self._model.parameters():
            if weight.requires_grad:
                handle = weight.register_post_accumulate_grad_hook(_let_go)
                self._patches.callback(handle.remove)
        for number, block in enumerate(self._blocks):
            for handle in (
                block.register_forward_pre_hook(partial(self._begin, number, False), prepend=True),
                block.register_forward_hook(partial(self._await_backward, number), prepend=True),
            ):
                self._patches.callback(handle.remove)
        for name, kind in _WITHIN.items():
            marked = self._marking(getattr(FSDPParamGroup, name), kind)
            self._patches.enter_context(mock.patch.object(FSDPParamGroup, name, marked))
        resized = self._resizing(torch.UntypedStorage.resize_)
        self._patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", resized))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop to count."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages it made."""
        if func is torch.ops.prim.device.default:  # called very often, and makes no storage
            return args[0].fake_device if isinstance(args[0], FakeTensor) else args[0].device
        if func is torch.ops.aten._grouped_mm.default and isinstance(args[0], FakeTensor):
            out = _grouped_mm_result(*args)
        else:
            out = func(*args, **(kwargs or {}))
        self._work.add(func, args, out)
        cast = func is torch.ops.aten._to_copy.default and self._is_weight(args[0].untyped_storage())
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage(), "gathered" if cast else self._kind)
        return out

    def _is_weight(self, storage: torch.UntypedStorage) -> bool:
        key = id(storage)
        return key in self._weights or (key in self._sizes and self._sizes[key][0] == "gathered")

    def _count(self, storage: torch.UntypedStorage, kind: str) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._weights:
            return
        if key not in self._sizes:
            weakref.finalize(storage, self._freed, key).atexit = False
            self._sizes[key] = kind, 0, self._block
        kind, before, block = self._sizes[key]
        if size != before:
            self._sizes[key] = kind, size, block
            self._changes.append((kind, size - before, block))

    def _freed(self, key: int) -> None:
        kind, size, block = self._sizes.pop(key)
        self._changes.append((kind, -size, block))

    def _begin(self, block: int, backward: bool, *_: Any) -> None:
        self._block = block
        self._passes += block == 0 and not backward
        self._begun.append((len(self._changes), (self._passes, backward), block))
        self._work.begin(self._passes, block)

    def _await_backward(self, block: int, _module: nn.Module, _given: Any, out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(partial(self._begin, block, True))

    def _marking(self, method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        @wraps(method)
        def marked(*args: Any, **kwargs: Any) -> Any:
            before, self._kind = self._kind, kind
            try:
                return method(*args, **kwargs)
            finally:
                self._kind = before

        return marked

    def _resizing(self, resize: Callable[..., Any]) -> Callable[..., Any]:
        """Count resized storages, because FSDP frees gathered weights by resizing them to 0."""

        @wraps(resize)
        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            out = resize(storage, size)
            if id(storage) in self._sizes:
                self._count(storage, self._kind)
            return out

        return resized


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _let_go(weight: Tensor) -> None:
    weight.grad = None


def _grouped_mm_result(a: Tensor, b: Tensor, ends: Tensor, *_: Any) -> Tensor:
    """Make the result of a grouped product of fake tensors. torch's own rule supports only bfloat16."""
    return a.new_empty((a.shape[0], b.shape[-1]) if b.dim() == 3 else (len(ends), a.shape[0], b.shape[-1]))
