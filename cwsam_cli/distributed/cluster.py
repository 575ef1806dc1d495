"""Which processes make up a run, and whether somebody else started them.

torch is not loaded here: the command line asks who this process is before it says anything.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cluster:
    """How many processes, and where."""

    processes: int = 1
    """On this machine."""
    nodes: int = 1
    """Machines."""
    node_rank: int = 0
    """Which of them this is, from 0."""
    endpoint: str = ""
    """host:port on the first machine, where they meet."""
    device: str = "auto"
    timeout_s: float = 600.0
    """How long a process may stand still."""
    saves_when_ended: bool = False
    """SIGTERM and SIGUSR1 ask for an end as Ctrl-C does; else they end the processes at once."""
    hint_after_signal: str = "--resume goes on from its latest state"
    """The hint where a signal ended the run."""
    hint_after_stall: str = (
        "go on with --resume; a slow disk or machine may need more patience: training_settings.timeout_s"
    )
    """The hint where it stood still."""


def launcher_environment() -> dict[str, str]:
    """What a process must know that torchrun or SLURM started; empty where neither did."""
    here = os.environ
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if set(wanted) <= here.keys():
        return {name: here[name] for name in wanted} | {"LOCAL_RANK": here.get("LOCAL_RANK", "0")}
    if int(here.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # set by srun, for the steps it starts
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
    """The first host of SLURM's short form: `gpu[03-05,9],x` is gpu03."""
    name, bracket, rest = nodes.partition("[")
    if not bracket or "," in name:
        return name.partition(",")[0]
    return name + rest.split("]")[0].split(",")[0].split("-")[0]
