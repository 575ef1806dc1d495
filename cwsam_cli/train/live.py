"""Count the bytes of the tensors that are alive, on any device and on none.

A dispatch mode sees every storage that torch makes; the storage says itself when it goes.
Real CPU tensors and imagined ones (`imagine`) give the same count.
"""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True)
class Bytes:
    """What is alive beside a rank's own weights, gradients and optimizer state."""

    activations: int = 0
    """What the backward pass needs, and the gradients of weights until they are summed."""
    gathered: int = 0
    """Weights of other ranks, and copies of float32 weights in the format of the forward pass."""
    reducing: int = 0
    """Buffers in which gradients are summed over the ranks."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.activations + self.gathered + self.reducing


# What sharding allocates in these is not the model's own.
_WITHIN = {"unshard": "gathered", "wait_for_unshard": "gathered", "post_backward": "reducing"}


class LiveStorages(TorchDispatchMode):
    """While it is on, counts the storages that torch makes and has not freed.

    Args:
        model: its weights are there already and count for nothing; nor does a gradient once
            it is complete, on the rank that keeps it. It is then let go.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.worst = Bytes()
        """At the worst moment."""
        self.most_activations = 0
        """At the moment that was worst for them."""
        self._model = model
        self._kind = "activations"
        self._live = dict.fromkeys(("activations", "gathered", "reducing"), 0)
        self._sizes: dict[int, tuple[str, int]] = {}
        self._patches = ExitStack()

    def __enter__(self) -> "LiveStorages":
        """Begin to count."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._weights = {id(_local(tensor).untyped_storage()) for tensor in tensors}
        for weight in self._model.parameters():
            if weight.requires_grad:
                handle = weight.register_post_accumulate_grad_hook(_let_go)
                self._patches.callback(handle.remove)
        for name, kind in _WITHIN.items():
            marked = self._marking(getattr(FSDPParamGroup, name), kind)
            self._patches.enter_context(mock.patch.object(FSDPParamGroup, name, marked))
        resized = self._resizing(torch.UntypedStorage.resize_)
        self._patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", resized))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Count no longer."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        if func is torch.ops.prim.device.default:  # asked for all the time, and makes nothing
            return args[0].fake_device if isinstance(args[0], FakeTensor) else args[0].device
        if func is torch.ops.aten._grouped_mm.default and isinstance(args[0], FakeTensor):
            out = _grouped_mm_result(*args)
        else:
            out = func(*args, **(kwargs or {}))
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
            self._sizes[key] = kind, 0
        kind, before = self._sizes[key]
        self._sizes[key] = kind, size
        self._live[kind] += size - before
        if sum(self._live.values()) > self.worst.total:
            self.worst = Bytes(**self._live)
        self.most_activations = max(self.most_activations, self._live["activations"])

    def _freed(self, key: int) -> None:
        kind, size = self._sizes.pop(key)
        self._live[kind] -= size

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
        """Sharding frees gathered weights by making their storage empty."""

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
    """A grouped product of imagined tensors; torch's own rule for those knows bfloat16 only."""
    return a.new_empty((a.shape[0], b.shape[-1]) if b.dim() == 3 else (len(ends), a.shape[0], b.shape[-1]))
