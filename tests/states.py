"""States of a run, written and read by tests."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cwsam_cli.distributed.world import World
from cwsam_cli.train.state import OptimizerRecord, StateRecord, StateWriter, read_index, read_tensors, shapes

WORLD = World(torch.device("cpu"))


def plain_state(**changes: Any) -> StateRecord:
    """What `state.json` says of a run of one process that has not begun."""
    return StateRecord(
        **{
            "processes": 1,
            "identity": {},
            "progress": {},
            "optimizer": OptimizerRecord(steps={}, cut={}),
            "average": [],
            "averaged_steps": 0,
            "scaler": None,
        }
        | changes
    )


def save_state(folder: Path, tensors: dict[str, Tensor], **changes: Any) -> None:
    """Write a state and wait until it is whole."""
    writer = StateWriter(folder, WORLD)
    writer.write(tensors, plain_state(**changes))
    writer.wait()


def fill(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Read tensors of a state into those given."""
    read_tensors(folder, tensors, read_index(folder))


def state_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and number format of every tensor of a state."""
    return shapes(read_index(folder))


def state_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a state."""
    tensors = {name: torch.empty(shape, dtype=kind) for name, (shape, kind) in state_shapes(folder).items()}
    fill(folder, tensors)
    return tensors
