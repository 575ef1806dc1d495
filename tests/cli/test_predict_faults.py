"""Whatever is killed while workers of a cluster make a map, the map becomes that of one process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio

from cwsam_cli.predict.workers import calls as worker
from tests.cli.conftest import invoke, succeed, write
from tests.clusters import quick_cluster

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")]

PIECES = 24


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.random.default_rng(0).integers(1, 255, (3, 256 * PIECES, 40)).astype(np.uint8)
    return write(tmp_path_factory.mktemp("scene") / "scene.tif", values)


@pytest.fixture(scope="module")
def whole(run: Any, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The pixels of one process's map."""
    path = tmp_path_factory.mktemp("one") / "map.tif"
    succeed(*line(run, scene, path, ""))
    return pixels(path)


def line(run: Any, scene: Path, output: Path, scheduler: str) -> tuple[Any, ...]:
    more = ("--scheduler", scheduler) if scheduler else ()
    return ("predict", scene, "-c", run.checkpoint, "-o", output, "--device", "cpu", "--batch-size", 4, *more)


def pixels(path: Path) -> bytes:
    with rasterio.open(path) as source:
        return bytes(source.read().tobytes())


@contextmanager
def started(*words: Any) -> "Iterator[subprocess.Popen[str]]":
    """Run a program until the block ends."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *map(str, words)]
    begin = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell in the background lets programs ignore it
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=begin) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for own in [*psutil.Process(process.pid).children(recursive=True), process]:
                    own.kill()


def wait_for_a_piece(output: Path, process: "subprocess.Popen[str]", more_than: int = 0) -> None:
    pieces = output.with_name(f".{output.name}.journal") / "0.pieces"
    deadline = time.monotonic() + 600
    while not pieces.exists() or pieces.stat().st_size <= more_than:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_that_is_killed_costs_only_its_work(run: Any, scene: Path, whole: bytes, tmp_path: Path) -> None:
    output = tmp_path / "map.tif"
    with started("-m", "cwsam_cli", *line(run, scene, output, "local"), "--gpus", 2) as client:
        wait_for_a_piece(output, client)
        children = psutil.Process(client.pid).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2 and not output.exists()
        workers[0].kill()
        assert client.wait(600) == 0
    assert pixels(output) == whole


def test_a_run_that_is_interrupted_or_killed_goes_on(
    run: Any, scene: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, real = tmp_path / "map.tif", worker.make_stretch

    def slowly(*given: Any, **named: Any) -> Any:
        time.sleep(1)
        return real(*given, **named)

    pieces = output.with_name(f".{output.name}.journal") / "0.pieces"
    with quick_cluster(protocol="tcp", host="127.0.0.1") as cluster:  # the client is another process
        command = line(run, scene, output, cluster.scheduler_address)
        with monkeypatch.context() as patched:
            patched.setattr(worker, "make_stretch", slowly)
            with started("-m", "cwsam_cli", *command) as client:
                wait_for_a_piece(output, client)
                client.send_signal(signal.SIGINT)
                assert client.wait(300) == 130
            kept = pieces.stat().st_size
            assert kept and not output.exists()
            with started("-m", "cwsam_cli", *command) as client:
                wait_for_a_piece(output, client, more_than=kept)
                client.kill()
            assert pieces.stat().st_size > kept and not output.exists()
        assert "piece(s) are finished" in succeed(*command).stderr
    assert pixels(output) == whole


def test_a_run_whose_scheduler_was_killed_goes_on_with_a_new_one(
    run: Any, scene: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cwsam_cli.journal import Journal

    output = tmp_path / "map.tif"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    command = line(run, scene, output, address)

    @contextmanager
    def cluster() -> "Iterator[subprocess.Popen[str]]":
        place = ("--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")
        with (
            started("-m", "distributed.cli.dask_scheduler", *place) as scheduler,
            started("-m", "distributed.cli.dask_worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard"),
        ):
            yield scheduler

    with cluster() as scheduler:
        real = Journal.appending

        @contextmanager
        def killing(self: Journal, rank: int = 0) -> Iterator[Any]:
            with real(self, rank) as append:

                def once(*given: Any, **named: Any) -> None:
                    append(*given, **named)
                    scheduler.kill()

                yield once

        with monkeypatch.context() as patched:
            patched.setattr(Journal, "appending", killing)
            result = invoke(*command)
        assert result.exit_code == 6 and "connection to the scheduler is lost" in result.stderr
    assert not output.exists()
    with cluster():
        assert "piece(s) are finished" in succeed(*command).stderr
    assert pixels(output) == whole
