"""Move pixels to the model's device and finished rows back, so that neither the device nor the host waits.

Pixels go up on a stream of their own, from pinned memory, while the model works. Finished rows come down into pinned
memory, and the host takes them one step later. On the CPU nothing is copied.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


def _streams(device: torch.device) -> Any:
    """Torch's module for the streams of a device; None where there are none."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return module if hasattr(module, "Stream") else None


def _record(module: Any, stream: Any) -> Any:
    """Record an event on a stream. The host sleeps while it waits for an event of CUDA, instead of spinning."""
    event = module.Event(blocking=True) if module is torch.cuda else module.Event()
    event.record(stream)
    return event


def use_device(device: torch.device) -> None:
    """Make this thread use a device; a new thread begins with the first one."""
    if device.index is not None and _streams(device) is not None:
        _streams(device).set_device(device)


def _pinned(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")


def staging(target: Tensor) -> Tensor:
    """Return memory of the host to fill before it is copied to `target`: on the CPU, `target` itself."""
    return target if target.is_cpu else _pinned(target)


class UploadStream:
    """Stream beside the one in which the model computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module = _streams(device)
        self._stream = self._module.Stream(device) if self._module else None

    def enter(self) -> AbstractContextManager[Any]:
        """Make this thread's operations part of the stream, inside the `with` statement."""
        return self._module.stream(self._stream) if self._module else nullcontext()

    def mark(self) -> Any:
        """Return an event that happens after the operations so far; see `wait`."""
        return None if self._module is None else _record(self._module, self._stream)

    def wait(self, event: Any, *tensors: Tensor) -> None:
        """Make the device wait for an event before it uses tensors in this thread's own stream."""
        if self._module is not None:
            own = self._module.current_stream(self.device)
            own.wait_event(event)
            for tensor in tensors:  # else their memory could serve the next upload while the model still reads it
                tensor.record_stream(own)


class Pace:
    """Keeps the host from running ahead of the device: images of batches that wait would take its memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module = _streams(device)
        self._events: deque[Any] = deque()

    def after_batch(self) -> None:
        """Wait until the device has finished the batch before the one that was just started."""
        if self._module is not None:
            self._events.append(_record(self._module, self._module.current_stream(self.device)))
            if len(self._events) > 1:
                self._events.popleft().synchronize()


def hand_over(items: Iterable[tuple[T, Sequence[Tensor]]]) -> Iterator[tuple[T, list[NDArray[Any]]]]:
    """Bring tensors to the host, each item's when the next item has been started.

    Args:
        items: what the host knows, and tensors on a device.
    """
    before: tuple[T, list[Tensor], Any] | None = None
    for known, tensors in items:
        device = tensors[0].device
        module = _streams(device)
        is_queued = module is not None
        here = [each if each.is_cpu else _pinned(each).copy_(each, non_blocking=is_queued) for each in tensors]
        event = _record(module, module.current_stream(device)) if is_queued else None
        if before is not None:
            yield _arrived(*before)
        before = known, here, event
    if before is not None:
        yield _arrived(*before)


def _arrived(known: T, tensors: list[Tensor], event: Any) -> tuple[T, list[NDArray[Any]]]:
    if event is not None:
        event.synchronize()
    return known, [tensor.numpy() for tensor in tensors]
