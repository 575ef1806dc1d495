"""The expert layer against one dense MLP on the same token slots (the limit), and against two loops.

    python tests/benchmarks/experts.py [--quick]

CPU seconds, the median of pairs; a pair is timed back to back, so that a slow minute slows both.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from hardware import choose_precisions
from torch import Tensor, nn
from torch.nn import functional as F

from cwsam_cli.distributed.world import DTYPES
from cwsam_cli.model.experts import HierarchicalExperts

TOKENS = 1024


def usual_loop(layer: HierarchicalExperts, x: Tensor) -> Tensor:
    """What most code does: each expert on the tokens that a boolean mask picks for it."""
    weights, chosen = layer.route(x.float())
    out = torch.zeros_like(x)
    for number, (w1, b1, w2, b2) in enumerate(layer.separate):
        hit = chosen == number
        mask = hit.any(dim=1)
        if mask.any():
            weight = (weights * hit).sum(dim=1)[mask].to(x.dtype)
            out[mask] += F.linear(F.gelu(F.linear(x[mask], w1, b1)), w2, b2) * weight[:, None]
    return out


def careful_loop(layer: HierarchicalExperts, x: Tensor) -> Tensor:
    """The same with indices found once an expert, and one addition in place."""
    weights, chosen = layer.route(x.float())
    out = torch.zeros_like(x)
    for number, (w1, b1, w2, b2) in enumerate(layer.separate):
        token, slot = (chosen == number).nonzero(as_tuple=True)
        if len(token):
            served = F.linear(F.gelu(F.linear(x[token], w1, b1)), w2, b2)
            out.index_add_(0, token, served * weights[token, slot, None].to(x.dtype))
    return out


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(dim: int, groups: int, dtype: torch.dtype, *, skewed: bool, pairs: int) -> tuple[float, ...]:
    torch.manual_seed(0)
    top_groups, top_experts = (1, 4) if groups == 1 else (2, 2)
    layer = HierarchicalExperts(
        dim, 4 * dim, groups=groups, experts=16, top_groups=top_groups, top_experts=top_experts
    ).eval()
    layer.groups.to(dtype)
    if skewed:  # a fifth of the experts gets most of the tokens
        with torch.no_grad():
            for router in layer.routers:
                router.weight.mul_(20)
            if layer.group_router is not None:
                layer.group_router.bias[0] = 2.0
    layer.separate = [
        (
            group.lin1_weight[e].detach(),
            group.lin1_bias[e].detach(),
            group.lin2_weight[e].detach(),
            group.lin2_bias[e].detach(),
        )
        for group in layer.groups
        for e in range(16)
    ]
    dense = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)).to(dtype)
    x = torch.randn(TOKENS, dim, dtype=dtype)
    slots = torch.randn(TOKENS * top_groups * top_experts, dim, dtype=dtype)

    def run(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], object]:
        def step() -> object:
            with torch.inference_mode():
                return function(inputs)

        return step

    ours, limit = run(layer, x), run(dense, slots)
    usual, careful = run(lambda y: usual_loop(layer, y), x), run(lambda y: careful_loop(layer, y), x)
    rows = []
    for _ in range(pairs + 1):
        a, b, c, d = (cpu_seconds(function) for function in (ours, limit, usual, careful))
        rows.append((a / b, c / a, d / a, a))
    return tuple(statistics.median(column) for column in zip(*rows[1:], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # two threads wait for each other when anything else runs here
    pairs = 3 if quick else 9
    print(f"{'':44s} ×dense  usual ÷ ours careful ÷ ours   CPU ms")
    for dtype in (DTYPES[precision] for precision in choose_precisions()):
        for dim in (256, 1280):
            for groups in (1, 6):
                for skewed in (False, True):
                    ratio, usual, careful, seconds = measure(dim, groups, dtype, skewed=skewed, pairs=pairs)
                    name = f"{str(dtype)[6:]} D={dim} {16 * groups} experts {'skewed' if skewed else 'even'}"
                    print(f"{name:44s} {ratio:8.2f} {usual:12.2f} {careful:13.2f} {1000 * seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
