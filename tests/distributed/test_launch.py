"""Two processes start, answer, and end together, whatever ends them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cwsam_cli.distributed.cluster import Cluster, _first_host
from cwsam_cli.distributed.launch import launch
from cwsam_cli.distributed.watchdog import Heartbeat, find_culprits
from cwsam_cli.errors import DataError, MachineError
from tests.distributed import workers

pytestmark = pytest.mark.timeout(1200)

HANGING_S = 300
"""Only what hangs takes as long."""


@pytest.fixture(autouse=True)
def _of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark the processes that this test starts: other tests may kill theirs at the same time."""
    monkeypatch.setenv("CWSAM_TEST_PROCESS", str(os.getpid()))


def on_two(worker: Any, *arguments: Any, timeout_s: float = HANGING_S) -> Any:
    return launch(worker, *arguments, cluster=Cluster(processes=2, device="cpu", timeout_s=timeout_s))


def orphans() -> list[str]:
    """Processes that outlive a launch: ranks and their server."""
    mine = os.getpid()
    mark = f"CWSAM_TEST_PROCESS={mine}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode()
            is_ours = mark in (folder / "environ").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if is_ours and "multiprocessing." in line and "resource_tracker" not in line and parent in (1, mine):
            found.append(line)
    return found


def test_the_first_process_answers_for_all() -> None:
    assert on_two(workers.add_ranks, 3) == (0, 2, 7.0)


def test_each_launch_has_its_own_environment_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    for value in ("first", "second"):
        monkeypatch.setenv("CWSAM_TEST_VALUE", value)
        assert on_two(workers.read_environment, "CWSAM_TEST_VALUE") == value
        assert orphans() == []
    assert (os.environ["PYTHONPATH"], "PYTHONSAFEPATH" in os.environ) == ("/of/the/user", False)


def test_a_package_of_the_same_name_in_the_current_folder_is_not_imported(tmp_path: Path) -> None:
    for name in ("cwsam_cli", "numpy"):
        (tmp_path / "current" / name).mkdir(parents=True)
        (tmp_path / "current" / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    script = tmp_path / "run.py"
    script.write_text(
        "from tests.distributed import workers\n"
        "from cwsam_cli.distributed.cluster import Cluster\n"
        "from cwsam_cli.distributed.launch import launch\n"
        "if __name__ == '__main__':\n"
        "    print(launch(workers.add_ranks, 3, cluster=Cluster(processes=2, device='cpu')))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "current",
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=HANGING_S,
    )
    assert (done.stdout, done.returncode) == ("(0, 2, 7.0)\n", 0), done.stderr


def test_one_process_needs_no_process_group() -> None:
    assert launch(workers.add_ranks, 3, cluster=Cluster(device="cpu")) == (0, 1, 3.0)


def test_an_error_of_any_process_is_the_runs_error() -> None:
    with pytest.raises(DataError, match=r"`tile.tif` is damaged") as caught:
        on_two(workers.fail_on_one)
    assert caught.value.hint == "tile again"


def test_a_bug_keeps_its_traceback_and_its_rank() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)rank 1: .*AssertionError: a slip"):
        on_two(workers.bug_on_one)


def test_a_cause_that_speaks_of_the_network_is_kept() -> None:
    with pytest.raises(RuntimeError, match="NCCL error: Duplicate GPU detected"):
        on_two(workers.complain_of_the_network)


@pytest.mark.slow
def test_losing_contact_is_told_where_nothing_else_is() -> None:
    with pytest.raises(MachineError, match=r"lost contact with another process: .*Connection closed by peer"):
        on_two(workers.lose_contact)


def test_a_killed_process_ends_the_run_and_is_named() -> None:
    started = time.monotonic()
    with pytest.raises(MachineError, match=r"rank 1 .* was killed by SIGKILL"):
        on_two(workers.die_on_one)
    assert time.monotonic() - started < 60
    assert orphans() == []


@pytest.mark.slow
@pytest.mark.parametrize(("worker", "rank"), [(workers.sleep_on_one, 1), (workers.stop_on_zero, 0)])
def test_a_process_that_stands_still_is_blamed_not_its_victim(worker: Any, rank: int) -> None:
    with pytest.raises(MachineError, match=rf"^rank {rank} .* stopped answering"):
        on_two(worker, timeout_s=6)
    assert orphans() == []


def start_counting(tmp_path: Path, options: str = "") -> "subprocess.Popen[str]":
    """Start a program whose two processes write `running` into the folder and count until they are asked to stop."""
    script = (
        "from tests.distributed import workers\n"
        "from cwsam_cli.distributed.cluster import Cluster\n"
        "from cwsam_cli.distributed.launch import launch\n"
        f"launch(workers.count_until_asked, {str(tmp_path)!r}, cluster=Cluster(processes=2, device='cpu', {options}))\n"
    )
    path = tmp_path / "run.py"
    path.write_text("if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in script.splitlines()))
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    words = [sys.executable, str(path)]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(event: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not event() and time.monotonic() < deadline:
        time.sleep(0.1)
    return event()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_launcher(end: signal.Signals, tmp_path: Path) -> None:
    process = start_counting(tmp_path)
    assert wait_until((tmp_path / "running").exists, HANGING_S)
    process.send_signal(end)
    _, stderr = process.communicate(timeout=HANGING_S)
    assert process.returncode != 0
    if end != signal.SIGKILL:
        assert {signal.SIGINT: "KeyboardInterrupt", signal.SIGTERM: "ended by SIGTERM"}[end] in stderr
    assert wait_until(lambda: orphans() == [], 60), orphans()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_lets_them_finish(number: signal.Signals, tmp_path: Path) -> None:
    """As SLURM sends it. What starts the processes must survive it, or they would be killed."""
    process = start_counting(tmp_path, "saves_when_ended=True")
    assert wait_until((tmp_path / "running").exists, HANGING_S)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=HANGING_S)
    assert process.returncode != 0 and "KeyboardInterrupt" in stderr and "MachineError" not in stderr
    assert wait_until(lambda: orphans() == [], 60), orphans()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux starts processes from a server")
@pytest.mark.parametrize(
    ("number", "what"),
    [
        (signal.SIGINT, "KeyboardInterrupt"),
        (signal.SIGTERM, "the run was ended by SIGTERM"),
        (signal.SIGUSR1, "the run was ended by SIGUSR1"),
    ],
)
def test_a_signal_while_the_processes_start_ends_the_run(number: signal.Signals, what: str, tmp_path: Path) -> None:
    process = start_counting(tmp_path, "saves_when_ended=True")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def server_runs() -> bool:
        lines = (Path(f"/proc/{child}/cmdline") for child in children.read_text().split())
        return any("multiprocessing.forkserver" in line.read_text() for line in lines)

    assert wait_until(server_runs, HANGING_S)
    os.killpg(process.pid, number)  # as a terminal does, or SLURM
    _, stderr = process.communicate(timeout=HANGING_S)
    assert process.returncode != 0 and what in stderr.splitlines()[-1]
    assert not (tmp_path / "running").exists()
    assert wait_until(lambda: orphans() == [], 60), orphans()


def test_who_no_longer_publishes_has_stopped_who_is_behind_is_to_blame() -> None:
    def signs(*pairs: tuple[int, int]) -> list[Heartbeat]:
        return [Heartbeat(beats, serial, 10 + rank, "host") for rank, (beats, serial) in enumerate(pairs)]

    assert [rank for rank, _ in find_culprits(signs((5, 1), (5, 1)), signs((5, 2), (5, 1)))] == [1]
    assert [rank for rank, _ in find_culprits(signs((5, 1), (4, 1)), signs((5, 2), (4, 2)))] == [1]
    assert find_culprits(signs((5, 1), (5, 1)), signs((5, 2), (5, 2))) == []


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu[03-05,9],x", "gpu03"), ("gpu7", "gpu7"), ("a,b", "a"), ("n[1,4]", "n1")]
)
def test_slurms_short_form_of_hosts(nodes: str, first: str) -> None:
    assert _first_host(nodes) == first


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("machine", [0, 1])
@pytest.mark.parametrize("what", ["process", "launcher"])
def test_what_ends_on_one_machine_ends_on_the_others_that_do_not_hear_of_it(
    what: str, machine: int, tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from tests.distributed import workers\n"
        "from cwsam_cli.errors import MachineError\n"
        "from cwsam_cli.distributed.cluster import Cluster\n"
        "from cwsam_cli.distributed.launch import launch\n"
        "if __name__ == '__main__':\n"
        "    cluster = Cluster(nodes=2, node_rank=int(sys.argv[1]), endpoint=sys.argv[2], device='cpu')\n"
        "    try:\n"
        f"        dying = {machine if what == 'process' else None}\n"
        f"        launch(workers.wait_for_nobody, {str(tmp_path)!r}, dying, cluster=cluster)\n"
        "    except MachineError as error:\n"
        "        print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, str(script)]
    endpoint = f"127.0.0.1:{free_port()}"
    machines = [
        subprocess.Popen([*words, str(rank), endpoint], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    if what == "launcher":
        deadline = time.monotonic() + HANGING_S
        while len(list(tmp_path.glob("running*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        machines[machine].terminate()
    told = [process.communicate(timeout=HANGING_S)[0] for process in machines]
    why = (
        rf"rank {machine} \(process \d+\) was killed by SIGKILL"
        if what == "process"
        else "the run was ended by SIGTERM"
    )
    for text in told:
        assert re.match(why, text), told
    assert f"(on {socket.gethostname()})" in told[1 - machine]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torchrun", "srun", "nodes"])
def test_processes_that_others_started_are_joined(how: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tests.distributed import workers\n"
        "from cwsam_cli.distributed.cluster import Cluster\n"
        "from cwsam_cli.distributed.launch import launch\n"
        "if __name__ == '__main__':\n"
        "    nodes = dict(nodes=2, node_rank=int(sys.argv[2]), endpoint=sys.argv[3]) if len(sys.argv) > 3 else {}\n"
        "    result = launch(workers.add_ranks, 3, cluster=Cluster(device='cpu', **nodes))\n"
        "    if result is not None:\n"
        "        open(sys.argv[1], 'a').write(f'{result}\\n')\n"
    )
    script, told = tmp_path / "run.py", tmp_path / "told"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    port = free_port()
    python = [sys.executable, str(script), str(told)]
    if how == "torchrun":
        started = [([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *python[1:]], {})]
    elif how == "nodes":
        started = [([*python, str(rank), f"127.0.0.1:{port}"], {}) for rank in range(2)]
    else:
        slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "MASTER_PORT": str(port)}
        started = [(python, slurm | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}) for rank in range(2)]
    processes = [subprocess.Popen(words, env=environment | extra) for words, extra in started]
    assert [process.wait(timeout=HANGING_S) for process in processes] == [0] * len(processes)
    assert told.read_text() == "(0, 2, 7.0)\n"


@pytest.mark.slow
def test_under_torchrun_an_error_is_told_once() -> None:
    words = ["-m", "torch.distributed.run", "--nproc_per_node=3", "-m", "cwsam_cli", "train", "--config", "nowhere"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=HANGING_S)
    assert done.returncode != 0
    assert done.stderr.count("error: there is no configuration `nowhere`") == 1
