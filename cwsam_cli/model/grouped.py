"""Linear layers of several experts on rows that are sorted by expert, as grouped matrix products.

# S rows, E experts

The number of operations does not depend on the number of experts, and nothing here reads a value on the host.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK_BYTES = 1 << 18
"""Rows that get their biases at once on a CPU. The copies of the biases then stay in its cache."""


def grouped_linear(
    x: Tensor, numbers: Tensor, ends: Tensor, weight: Tensor, bias: Tensor, parameters: Sequence[Tensor]
) -> Tensor:
    """Apply each expert's linear layer to its rows.

    Args:
        x: rows (S, in), sorted by expert; S may be 0.
        numbers: number of each row's expert (S,).
        ends: end of each expert's rows (E,) int32.
        weight: values of the weights (E, out, in).
        bias: values of the biases (E, out).
        parameters: the parts of `weight`, then as many parts of `bias`. The gradients go to them.

    Returns:
        Rows (S, out).
    """
    out: Tensor = _GroupedLinear.apply(x, numbers, ends, weight, bias, *parameters)
    return out


class _GroupedLinear(torch.autograd.Function):
    """Autograd function of `grouped_linear`.

    The bias's gradient is a grouped product with a row of ones. On a CPU it takes half the time of a loop over experts.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, numbers: Tensor, ends: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
    ) -> Tensor:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        ctx.save_for_backward(x, ends, weight)
        ctx.parts = [(part.shape[0], part.dtype) for part in parameters]
        if not x.shape[0]:
            return x.new_empty(0, bias.shape[1])
        out = _multiply(x, weight.transpose(1, 2), ends)
        for rows, own in _blocks(out, numbers):
            rows.add_(bias.index_select(0, own))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the rows and the parameters."""
        x, ends, weight = ctx.saved_tensors
        grad = grad.contiguous()
        learns = ctx.needs_input_grad[5:]
        half = len(learns) // 2
        grads: list[Tensor | None] = [None] * len(learns)
        if any(learns[:half]):
            total = _multiply(grad.t(), x, ends) if x.shape[0] else torch.zeros_like(weight)
            grads[:half] = total.split([experts for experts, _ in ctx.parts[:half]])
        if any(learns[half:]):
            total = _sum_rows(grad, ends)
            grads[half:] = total.split([experts for experts, _ in ctx.parts[half:]])
        shares = not all(learns)  # a view would keep the gradients of frozen parts in memory
        grads = [
            part.to(dtype, copy=shares) if part is not None and needed else None
            for part, needed, (_, dtype) in zip(grads, learns, ctx.parts, strict=True)
        ]
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = _multiply(grad, weight, ends) if x.shape[0] else torch.zeros_like(x)
        return to_x, None, None, None, None, *grads


def _blocks(x: Tensor, numbers: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut rows into blocks that a CPU's cache holds. On other devices, all rows are one block."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return iter([(x, numbers)])
    rows = max(1, _BLOCK_BYTES // (x.shape[1] * x.element_size()))
    return zip(x.split(rows), numbers.split(rows), strict=True)


def _sum_rows(x: Tensor, ends: Tensor) -> Tensor:
    """Sum the rows (S, D) of each expert: (E, D)."""
    rows, aligned = x.shape[0], 16 // x.element_size()  # strides must be multiples of 16 bytes
    if not rows:
        return x.new_zeros(len(ends), x.shape[1])
    if x.device.type == "cpu":
        ones = x.new_ones(1, rows + -rows % aligned)[:, :rows]
    else:  # each expert's ones must begin at a multiple of 16 bytes, too
        ones = x.new_ones(rows, aligned).t()
    return _multiply(ones, x, ends)[:, 0]


def _multiply(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    if torch.compiler.is_compiling() and a.dtype != torch.bfloat16:
        return _multiply_in_graph(a, b, ends)
    return F.grouped_mm(a, b, offs=ends)


@torch.library.custom_op("cwsam::grouped_mm", mutates_args=())
def _multiply_in_graph(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    """Multiply in a graph. torch 2.13 compiles and exports its own grouped product in bf16 only."""
    return F.grouped_mm(a, b, offs=ends)


@_multiply_in_graph.register_fake
def _(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    return a.new_empty(*([len(ends)] if b.ndim == 2 else []), a.shape[0], b.shape[-1])
