"""Describe the processes of a run, and detect whether torchrun or SLURM started them.

This module does not load torch, because the command line needs the rank before its first message.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cluster:
    """Number and place of a run's processes."""

    processes: int = 1
    """Processes per machine."""
    nodes: int = 1
    """Number of machines."""
    node_rank: int = 0
    """Number of this machine, from 0."""
    endpoint: str = ""
    """`host:port` on the first machine, where all machines connect."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto`."""
    timeout_s: float = 600.0
    """Seconds that a process may make no progress before the run is ended."""
    saves_when_ended: bool = False
    """SIGTERM and SIGUSR1 let the current step finish, like Ctrl-C. Otherwise they end the processes at once."""
    hint_after_signal: str = "continue from its latest state with --resume"
    """Hint after a signal ended the run."""
    hint_after_stall: str = "continue with --resume; if a disk or machine is slow, raise training_settings.timeout_s"
    """Hint after the run stopped making progress."""


def launcher_environment() -> dict[str, str]:
    """Read the rank and addresses that torchrun or SLURM gave this process.

    Returns:
        RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; empty if neither started the process.
    """
    here = os.environ
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if set(wanted) <= here.keys():
        return {name: here[name] for name in wanted} | {"LOCAL_RANK": here.get("LOCAL_RANK", "0")}
    if int(here.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # srun sets this for the steps it starts
        job = int(here.get("SLURM_JOB_ID", "0"))
        return {
            "RANK": here["SLURM_PROCID"],
            "WORLD_SIZE": here["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": here.get("SLURM_LOCALID", "0"),
            "MASTER_ADDR": here.get("MASTER_ADDR") or _first_host(here.get("SLURM_STEP_NODELIST", "127.0.0.1")),
            "MASTER_PORT": here.get("MASTER_PORT") or str(20_000 + job % 20_000),
        }
    return {}


def _first_host(nodes: str) -> str:
    """Return the first host of SLURM's short form: `gpu[03-05,9],x` gives gpu03."""
    name, bracket, rest = nodes.partition("[")
    if not bracket or "," in name:
        return name.partition(",")[0]
    return name + rest.split("]")[0].split(",")[0].split("-")[0]
