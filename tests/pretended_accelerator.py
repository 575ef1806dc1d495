"""A pretended accelerator, for tests on machines without one.

Its tensors say that they are on `pgpu:0`, and they compute on the CPU. As on a real GPU, an
operation that mixes them with tensors on the CPU is an error. Zero-dimensional tensors may be
mixed. `COUNT` counts what makes a real GPU slow:

    up, down      bytes copied to the device and back; `ups` and `downs` say how often
    reads         values that the host needed (`item`, `tolist`, `nonzero`, a boolean index, ...);
                  each of them makes the host wait for the device
    waits         times that the host waited for the device on purpose (`synchronize`)
    operations    about the number of kernels

A process keeps the device until it ends. Tests therefore pass a function to the fixture
`accelerated`, which runs it in another process:

    def count_reads() -> int:
        model = Model().to(DEVICE)
        COUNT.clear()
        model(torch.zeros(1, 3, 32, 32, device=DEVICE))
        return COUNT["reads"]

    def test_a_forward_pass_reads_nothing(accelerated) -> None:
        assert accelerated(count_reads) == 0

Whole commands work with `--device pgpu`. The device does not imitate time, several devices,
process groups, torch.compile, or the demands of fused CUDA kernels.
Source: torch.utils.backend_registration (experimental; torch 2.9 and later, tried with 2.13).
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pgpu"
DEVICE = f"{NAME}:0"
COUNT: collections.Counter[str] = collections.Counter()

_MEMORY = 4 << 30  # bytes of the device
_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense.default,
    _aten._unique2.default,
    _aten.bincount.default,  # CUDA reads the largest value
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten.repeat_interleave.Tensor,
    _aten.unique_consecutive.default,
}
_MULTIPLY = (
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d", "conv2d", "conv_transpose2d.input",
    "scaled_dot_product_attention",
)  # fmt: skip
"""Operations that autocast runs in the lower precision."""
_SUM_UP = (
    "binary_cross_entropy_with_logits", "cross_entropy_loss", "exp", "group_norm", "layer_norm", "log",
    "log_softmax.int", "nll_loss", "pow.Tensor_Scalar", "rsqrt", "softmax.int",
)  # fmt: skip
"""Operations that CUDA's autocast runs in float32."""


def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function where tensors can be made on the device. The device exists from then on in this process."""
    with on():
        COUNT.clear()
        return function(*arguments)


@contextlib.contextmanager
def on() -> Iterator[None]:
    """Tensors can be made on the device inside the `with` statement, in this thread."""
    _register()
    with _Factories(), torch.autograd.set_multithreading_enabled(False):  # another thread would leave the mode
        yield


class _Stream:
    """Stream or event. All work is done at once and in order, so its methods do nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        COUNT["waits"] += 1


class _Module(backend_registration._DummyBackendModule):
    """The module `torch.pgpu`."""

    Stream = Event = staticmethod(lambda *_, **__: _Stream())

    def current_stream(self, *_: Any) -> Any:
        return _Stream()

    default_stream = current_stream

    def stream(self, *_: Any) -> Any:
        return contextlib.nullcontext()

    def set_device(self, device: Any) -> None:
        assert torch.device(device) == torch.device(DEVICE)

    def synchronize(self, *_: Any) -> None:
        COUNT["waits"] += 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    def get_device_properties(self, *_: Any) -> Any:
        return SimpleNamespace(name="pretended accelerator", total_memory=_MEMORY)

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        return _MEMORY, _MEMORY

    def memory_allocated(self, *_: Any) -> int:
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def reset_peak_memory_stats(self, *_: Any) -> None:
        pass

    empty_cache = reset_peak_memory_stats


class _Tensor(torch.Tensor):
    """Tensor of the device. `inner` has its values, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Self:
        outer = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(DEVICE),
        )
        outer.inner = inner
        return outer

    def __repr__(self) -> str:
        return f"pgpu({self.inner!r})"

    def data_ptr(self) -> int:  # torch would return the offset of a view, and take the tensor for one with memory
        return 0

    def tolist(self) -> Any:  # torch refuses it for subclasses
        COUNT["reads"] += 1
        COUNT["down"] += self.inner.nbytes
        COUNT["downs"] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Factories(TorchDispatchMode):
    """Makes `torch.empty(..., device=DEVICE)` and the like, and pins memory by leaving it as it is."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten._pin_memory.default:
            return args[0]
        return _run(func, args, kwargs or {})


def _outer(value: Any) -> Any:
    return _Tensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, _Tensor) else value


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, _Tensor) else value


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _count_copy(source: torch.Tensor, *, to_device: bool) -> None:
    if isinstance(source, _Tensor) != to_device:
        way = "up" if to_device else "down"
        COUNT[way] += source.numel() * source.element_size()
        COUNT[way + "s"] += 1


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, and count it if a tensor of the device takes part."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    ours = any(isinstance(tensor, _Tensor) for tensor in tensors)
    device = kwargs.get("device")
    to_device = ours if device is None else _is_ours(device)
    inner = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if _is_ours(device):  # replaced, not dropped: without a device, `empty_like` of a meta tensor stays meta
        inner["device"] = torch.device("cpu")

    if func is _aten._to_copy.default:
        _count_copy(args[0], to_device=to_device)
        result = func(_inner(args[0]), **inner)
        return _outer(result) if to_device else result
    if func is _aten.copy_.default:
        _count_copy(args[1], to_device=isinstance(args[0], _Tensor))
        _inner(args[0]).copy_(_inner(args[1]))
        return args[0]

    if ours:
        COUNT["operations"] += 1
        has_mask = func in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func in _READS or has_mask:
            COUNT["reads"] += 1
        strangers = [tuple(t.shape) for t in tensors if not isinstance(t, _Tensor) and t.dim()]
        if strangers and func is not _aten.index.Tensor:  # an index of a CUDA tensor may be on the CPU
            raise RuntimeError(f"{func}: tensors of shape {strangers} are on the CPU, others on {DEVICE}")
    result = func(*tree_map(_inner, args), **tree_map(_inner, inner))
    if not to_device:
        return result
    result = tree_map(_outer, result)
    aliases = any(argument.alias_info for argument in func._schema.arguments)
    return return_and_correct_aliasing(func, args, kwargs, result) if ours and aliases else result


def _autocast(op: Any, dtype: torch.dtype | None = None) -> Any:
    """Make the kernel that casts its arguments and calls `op`; None casts to the dtype of autocast."""

    def cast(value: Any, dtype: torch.dtype) -> Any:
        eligible = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if eligible else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            to = dtype or torch.get_autocast_dtype(NAME)
            return op(*tree_map(lambda v: cast(v, to), args), **tree_map(lambda v: cast(v, to), kwargs))

    return kernel


def _new(make: Callable[..., torch.Tensor], *size: Any, dtype: torch.dtype | None = None, **_: Any) -> _Tensor:
    return _Tensor(make(*size, dtype=dtype))


@functools.cache
def _register() -> tuple[torch.library.Library, torch.library.Library]:
    """Register the device, the few kernels that torch calls past `__torch_dispatch__`, and autocast.

    Returns:
        What must live as long as the registration.
    """
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("empty.memory_format", functools.partial(_new, torch.empty), "PrivateUse1")
    kernels.impl("empty_strided", functools.partial(_new, torch.empty_strided), "PrivateUse1")
    kernels.impl("_copy_from", lambda source, to, _=False: _run(_aten.copy_.default, (to, source), {}), "PrivateUse1")
    for names, dtype in ((_MULTIPLY, None), (_SUM_UP, torch.float32)):
        for name in names:
            base, _, overload = name.partition(".")
            op = getattr(getattr(_aten, base), overload or "default")
            kernels.impl(name, _autocast(op, dtype), "AutocastPrivateUse1")
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return kernels, rest
