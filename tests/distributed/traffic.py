"""What a process sends to others in a step, counted by a wrapper around torch's collective operations."""

from typing import Any, ClassVar

from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops
from torch.utils._python_dispatch import TorchDispatchMode

from cwsam_cli.distributed.world import World
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
                size = CollectiveOp.get_comm_tensor_size(func, out, args, kwargs)
                ranks = CollectiveOp.get_process_group(func, args).size()
                self.sent[kind] += size * (ranks - 1) / ranks
        return out


def count_sent(world: World, cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Bytes that this process sends in one step of each case, by kind."""
    sent = {}
    for name, case in cases.items():
        config, learner = workers.begin(world, case)
        with Collectives() as mode:
            workers.step(world, config, learner, 0, world.size)
        sent[name] = mode.sent
    return sent
