"""Workers of a Dask cluster make the maps of one process to the byte, and a failure costs one scene at most."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from cwsam_cli.journal import folder_of
from cwsam_cli.predict.plan import MapPlan
from cwsam_cli.predict.workers import calls as worker
from cwsam_cli.predict.workers import fleet
from tests.cli.conftest import invoke
from tests.clusters import quick_cluster

Cwsam = Callable[..., Result]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with quick_cluster() as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def scenes(make_raster: Any) -> list[Path]:
    rng = np.random.default_rng(0)
    shapes = {"a": (900, 40), "b": (90, 60), "c": (300, 40)}
    return [
        make_raster(f"scenes/{name}.tif", rng.integers(1, 255, (3, *shape)).astype(np.uint8))
        for name, shape in shapes.items()
    ]


def files(folder: str | Path) -> dict[str, bytes]:
    """All files of a folder, and nothing of a run that has not ended."""
    assert not [path for path in Path(folder).iterdir() if path.is_dir()]
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_maps_of_a_cluster_are_those_of_one_process_and_a_failing_scene_stops_no_other(
    cwsam: Cwsam, run: Any, scenes: list[Path], scheduler: str
) -> None:
    common = ("predict", "scenes", "-c", run.checkpoint, "--confidence", "--json")
    cwsam(*common, "-o", "one")
    Path("scenes/aa.tif").write_text("junk")
    result = invoke(*common, "-o", "out", "--scheduler", scheduler)
    told = json.loads(result.stdout)
    assert result.exit_code == 4
    assert [Path(made["path"]).stem for made in told["maps"]] == ["a", "b", "c"]
    assert [Path(scene).stem for scene in told["failed"]] == ["aa"]
    assert files("out") == files("one")
    told = json.loads(invoke(*common, "-o", "out", "--scheduler", scheduler).stdout)
    assert len(told["present"]) == 3


def test_one_scene_is_cut_into_stretches_and_gives_the_same_map(
    cwsam: Cwsam, run: Any, scenes: list[Path], scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int, int]] = []
    real = worker.make_stretch

    def counting(plan: MapPlan, score: Any, stretch: tuple[int, int, int], **named: Any) -> Any:
        made.append(stretch)
        return real(plan, score, stretch, **named)

    monkeypatch.setattr(worker, "make_stretch", counting)
    common = ("predict", scenes[0], "-c", run.checkpoint)
    cwsam(*common, "-o", "out/map.tif", "--scheduler", scheduler)
    assert sorted(made) == [(0, row, row) for row in range(4)]
    cwsam(*common, "-o", "one/map.tif")
    assert files("out") == files("one")


def test_a_run_that_lost_its_scheduler_goes_on_without_it(
    cwsam: Cwsam, run: Any, scenes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = quick_cluster(1)
    real, left = worker.make_stretch, [None]
    journal = folder_of(Path("out/map.tif"))

    def losing(*given: Any, **named: Any) -> Any:
        if not left:
            deadline = time.monotonic() + 30
            while not any(path.stat().st_size for path in journal.glob("*.pieces")) and time.monotonic() < deadline:
                time.sleep(0.02)
            cluster.loop.add_callback(cluster.scheduler.close)
            time.sleep(0.5)
        else:
            left.pop()
        return real(*given, **named)

    monkeypatch.setattr(worker, "make_stretch", losing)
    monkeypatch.setattr(fleet, "_stretch_length", lambda *_: 1)
    common = ("predict", scenes[0], "-c", run.checkpoint)
    result = invoke(*common, "-o", "out/map.tif", "--scheduler", cluster.scheduler_address)
    assert result.exit_code == 6
    assert "connection to the scheduler is lost" in result.stderr and "same command continues" in result.stderr
    assert "1 piece(s) are finished" in cwsam(*common, "-o", "out/map.tif").stderr
    cwsam(*common, "-o", "one/map.tif")
    assert files("out") == files("one")


def test_a_worker_that_sees_another_scene_or_checkpoint_is_told(
    cwsam: Cwsam, run: Any, scenes: list[Path], scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    real = fleet.plan_on
    common = ("predict", scenes[1], "-c", run.checkpoint, "--scheduler", scheduler, "-o", "map.tif")
    for field, code, names in (
        ("scene_fingerprint", 4, "a worker sees another"),
        ("checkpoint_sha256", 5, "a worker sees another"),
        ("device", 6, "some workers have a device of type other"),
    ):
        with monkeypatch.context() as patched:
            changed = {field: "other"}
            patched.setattr(fleet, "plan_on", lambda *given, changed=changed: replace(real(*given), **changed))
            result = invoke(*common)
        assert result.exit_code == code and names in result.stderr
        assert not list(Path().glob(".map.tif*"))


@pytest.mark.parametrize(("pieces", "slots", "length"), [(8, 1, 8), (8, 2, 2), (1000, 2, 16), (1000, 100, 4)])
def test_a_stretch_leaves_every_worker_some_work(pieces: int, slots: int, length: int) -> None:
    from affine import Affine

    from cwsam_cli.raster.grid import Grid
    from tests.predict_plans import plan_of

    plan = plan_of("a.tif", Grid(None, Affine.identity(), 500, 300), classes=3, size=64, overlap=16, bands=())
    assert fleet._stretch_length(plan, pieces, slots) == length
