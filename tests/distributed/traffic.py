"""What a process sends to others in a step, counted by a wrapper around torch's collective operations."""

from typing import Any, ClassVar

import torch
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops
from torch.utils._python_dispatch import TorchDispatchMode

from cwsam_cli.distributed.world import World
from cwsam_cli.plan.simulate import run_tracked_passes
from tests.distributed import workers


class Collectives(TorchDispatchMode):
    """Bytes that this process sends, by kind, as torch's own table sizes its operations."""

    KINDS: ClassVar[dict[str, str]] = {
        "allgather": "all_gather",
        "reduce_scatter": "reduce_scatter",
        "alltoall": "all_to_all",
    }

    def __init__(self) -> None:
        super().__init__()
        self.sent = dict.fromkeys(self.KINDS.values(), 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for word, kind in self.KINDS.items():
            if func in collective_ops and word in func.name():
                # of an exchange, the table has the larger of what is sent and what arrives
                exchanged = kind == "all_to_all"
                size = args[1].nbytes if exchanged else CollectiveOp.get_comm_tensor_size(func, out, args, kwargs)
                ranks = CollectiveOp.get_process_group(func, args).size()
                self.sent[kind] += size * (ranks - 1) / ranks
        return out


def count_sent(world: World, cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Bytes that a process sends in one step of each case, by kind: the mean, since loads differ."""
    sent = {}
    for name, case in cases.items():
        config, learner = workers.begin(world, case)
        with Collectives() as mode:
            workers.step(world, config, learner, 0, world.size)
        mean = world.total(torch.tensor([*mode.sent.values()], dtype=torch.float64)) / world.size
        sent[name] = dict(zip(mode.sent, mean.tolist(), strict=True))
    return sent


def count_live(world: World, case: dict[str, Any]) -> int:
    """Live bytes of a step at its peak, besides weights, gradients and optimizer: the larger of the processes'."""
    config, learner = workers.begin(world, case)
    live = run_tracked_passes(
        learner.model,
        workers.micro_batches(world, config, 0, world.size),
        gpus=world.size,
        args=config.model.args,
        settings=config.training_settings,
    )
    own = torch.zeros(world.size, dtype=torch.float64)
    own[world.rank] = live.worst.total
    return int(world.total(own).max())


def count(world: World, sent: dict[str, dict[str, Any]], live: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Both, since processes take long to start."""
    return count_sent(world, sent), count_live(world, live)
