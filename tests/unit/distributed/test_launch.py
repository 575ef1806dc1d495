"""How one process finds out what it is, and how it hears Ctrl-C."""

import signal

import pytest
import torch
from torch import Tensor

from cwsam_cli.distributed.cluster import Cluster, launcher_environment
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.world import Interruption, World, choose_device
from cwsam_cli.errors import MachineError, UsageError

STARTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if nobody had started this process but the user."""
    for name in (*STARTED, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_nothing_is_joined(environment: pytest.MonkeyPatch) -> None:
    assert launcher_environment() == {}


def test_what_torchrun_started_is_joined(environment: pytest.MonkeyPatch) -> None:
    for name, value in zip(STARTED, ("3", "8", "1", "host", "1234"), strict=True):
        environment.setenv(name, value)
    assert launcher_environment() == dict(zip(STARTED, ("3", "8", "1", "host", "1234"), strict=True))


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_half_of_torchruns_variables_are_none(environment: pytest.MonkeyPatch, missing: str) -> None:
    for name in STARTED:
        environment.setenv(name, "1")
    environment.delenv(missing)
    assert launcher_environment() == {}


def _slurm(environment: pytest.MonkeyPatch, **variables: str) -> None:
    named = {"STEP_NUM_TASKS": "8", "PROCID": "5", "LOCALID": "1", "JOB_ID": "77", "STEP_NODELIST": "gpu[03-04]"}
    for name, value in (named | variables).items():
        environment.setenv(f"SLURM_{name}", value)


def test_what_slurm_started_is_joined(environment: pytest.MonkeyPatch) -> None:
    _slurm(environment)
    place = launcher_environment()
    assert {name: place[name] for name in STARTED[:4]} == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu03",
    }
    assert 1024 < int(place["MASTER_PORT"]) < 65536
    _slurm(environment, PROCID="6")
    assert launcher_environment()["MASTER_PORT"] == place["MASTER_PORT"]  # all processes of a job meet at one place
    _slurm(environment, JOB_ID="78")
    assert launcher_environment()["MASTER_PORT"] != place["MASTER_PORT"]


def test_a_place_to_meet_may_be_given_under_slurm(environment: pytest.MonkeyPatch) -> None:
    _slurm(environment)
    environment.setenv("MASTER_ADDR", "here")
    environment.setenv("MASTER_PORT", "4321")
    assert (launcher_environment()["MASTER_ADDR"], launcher_environment()["MASTER_PORT"]) == ("here", "4321")


def test_one_task_of_slurm_is_one_process(environment: pytest.MonkeyPatch) -> None:
    _slurm(environment, STEP_NUM_TASKS="1")
    assert launcher_environment() == {}


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "meta:x"])
def test_a_device_that_is_not_here_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=rf"no device `{name}` here") as caught:
        choose_device(name)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_the_cpu_is_always_here() -> None:
    assert choose_device("cpu") == torch.device("cpu")


# --- one process ---


def test_one_process_is_the_main_one_and_its_sums_are_its_own() -> None:
    world, values = World(torch.device("cpu")), torch.tensor([1.0, 2.0])
    assert world.is_main
    assert torch.equal(world.total(values), torch.tensor([1.0, 2.0]))
    assert world.agree("mine") == "mine"
    world.beat()
    world.barrier()


def _sum(world: World, values: Tensor, factor: int) -> float:
    return float(world.total(values).sum()) * factor


def test_a_worker_gets_its_world_and_its_arguments() -> None:
    assert launch(_sum, torch.ones(4), 3, cluster=Cluster(device="cpu")) == 12


def _ask(world: World) -> list[bool]:
    asked = [world.interruption.is_requested]
    signal.raise_signal(signal.SIGINT)
    return [*asked, world.interruption.is_requested]


def test_ctrl_c_is_a_wish_while_a_worker_runs_and_what_it_was_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert launch(_ask, cluster=Cluster(device="cpu")) == [False, True]
    assert signal.getsignal(signal.SIGINT) is before


def _fail(world: World) -> None:
    raise UsageError("no", hint="yes")


def test_a_workers_error_leaves_ctrl_c_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UsageError):
        launch(_fail, cluster=Cluster(device="cpu"))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once_but_an_echo_of_the_first_does_not() -> None:
    wish = Interruption()
    wish(signal.SIGINT, None)
    wish(signal.SIGINT, None)  # terminal and launcher pass on the same one
    assert wish.is_requested
    wish.when -= 2
    with pytest.raises(KeyboardInterrupt):
        wish(signal.SIGINT, None)


@pytest.mark.parametrize("endpoint", ["", "first", "first:", "first:0", "first:70000", "first:port"])
def test_machines_need_a_place_to_meet(environment: pytest.MonkeyPatch, endpoint: str) -> None:
    with pytest.raises(UsageError, match=rf"--rdzv-endpoint HOST:PORT, not `{endpoint}`"):
        launch(print, cluster=Cluster(nodes=2, endpoint=endpoint, device="cpu"))


def test_a_place_where_nobody_answers_is_named(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match=r"cannot connect at `127\.0\.0\.1:1`"):
        launch(print, cluster=Cluster(nodes=2, node_rank=1, endpoint="127.0.0.1:1", device="cpu", timeout_s=1))
