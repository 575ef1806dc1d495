"""Parts of a map, made by runs that know nothing of each other, give the map of one run to the byte."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from cwsam_cli.journal import part_of_journal
from cwsam_cli.locking import locked
from cwsam_cli.predict.workers import parts
from tests.cli.conftest import invoke, succeed, write

Cwsam = Callable[..., Result]

HEIGHT, WIDTH = 900, 40  # four pieces


def picture(seed: int = 0, height: int = HEIGHT) -> Any:
    return np.random.default_rng(seed).integers(1, 255, (3, height, WIDTH)).astype(np.uint8)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scene") / "scene.tif", picture())


@pytest.fixture(scope="module")
def whole(run: Any, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of one run."""
    folder = tmp_path_factory.mktemp("one")
    succeed(*line(run, scene, folder / "map.tif"))
    return files(folder)


def line(run: Any, scene: Path, output: Any, *more: Any) -> tuple[Any, ...]:
    return ("predict", scene, "-c", run.checkpoint, "-o", output, "--confidence", "--batch-size", 4, *more)


def files(folder: str | Path) -> dict[str, bytes]:
    """All files of a folder, and nothing of a run that has not ended."""
    assert not [path for path in Path(folder).iterdir() if path.is_dir()]
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_the_last_of_three_parts_completes_the_map_whatever_their_order(
    cwsam: Cwsam, run: Any, scene: Path, whole: dict[str, bytes]
) -> None:
    for part in (2, 3):
        told = json.loads(cwsam(*line(run, scene, "out/map.tif", "--part", f"{part}/3", "--json")).stdout)
        assert told["part"] == f"{part}/3" and told["missing"] == {2: 3, 3: 1}[part]
    assert "hectares" in cwsam(*line(run, scene, "out/map.tif", "--part", "1/3")).stdout
    assert files("out") == whole


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_parts_of_a_map_that_is_complete_change_nothing(
    cwsam: Cwsam, run: Any, scene: Path, more: tuple[str, ...]
) -> None:
    for part in (1, 2):
        cwsam(*line(run, scene, "out/map.tif", "--part", f"{part}/2", *more))
    before = Path("out/map.tif").stat().st_mtime_ns
    assert "hectares" in cwsam(*line(run, scene, "out/map.tif", "--part", "1/2", *more)).stdout
    assert Path("out/map.tif").stat().st_mtime_ns == before
    files("out")


def test_parts_replace_an_older_map_only_if_they_may(
    cwsam: Cwsam, run: Any, scene: Path, whole: dict[str, bytes]
) -> None:
    Path("one").mkdir()
    for name, raw in whole.items():
        Path("one", name).write_bytes(raw)
    old = line(run, scene, "one/map.tif")
    other = (*old, "--overlap", 0.5, "--part", "1/2")
    assert invoke(*other).exit_code == 2
    assert files("one") == whole
    cwsam(*other, "--overwrite")
    cwsam(*other[:-1], "2/2", "--overwrite")
    assert files("one").keys() == whole.keys() and files("one")["map.tif"] != whole["map.tif"]


def test_a_part_that_died_goes_on(
    cwsam: Cwsam, run: Any, scene: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cwsam_cli import journal

    class Killed(BaseException):
        pass

    left = iter([zlib.compress])

    def dying(piece: bytes, level: int) -> bytes:
        compress = next(left, None)
        if compress is None:
            raise Killed
        return compress(piece, level)

    cwsam(*line(run, scene, "out/map.tif", "--part", "1/2"))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(journal.zlib, "compress", dying)
        invoke(*line(run, scene, "out/map.tif", "--part", "2/2"))
    (half,) = Path("out").glob(".map.tif.journal/1.pieces")
    assert half.stat().st_size
    cwsam(*line(run, scene, "out/map.tif", "--part", "2/2"))
    assert files("out") == whole


def test_one_run_ends_what_parts_have_begun(cwsam: Cwsam, run: Any, scene: Path, whole: dict[str, bytes]) -> None:
    cwsam(*line(run, scene, "out/map.tif", "--part", "2/3"))
    assert "1 piece(s) are finished" in cwsam(*line(run, scene, "out/map.tif")).stderr
    assert files("out") == whole


def test_a_part_that_was_killed_when_only_its_journal_was_left_is_ended_by_the_next(
    cwsam: Cwsam, run: Any, scene: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cwsam_cli.journal import Journal

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "remove", lambda self: None)
        for part in (1, 2):
            cwsam(*line(run, scene, "out/map.tif", "--part", f"{part}/2"))
    assert Path("out/.map.tif.journal").exists()
    cwsam(*line(run, scene, "out/map.tif", "--part", "1/2"))
    assert files("out") == whole


def test_a_part_that_waited_for_the_map_makes_no_piece_again(
    cwsam: Cwsam, run: Any, scene: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    cwsam(*line(run, scene, "out/map.tif", "--part", "1/2"))
    with monkeypatch.context() as patched:

        def wait(*given: Any, **named: Any) -> Any:
            patched.undo()
            cwsam(*line(run, scene, "out/map.tif", "--part", "2/2"))
            patched.setattr(parts, "make_pieces", None)
            return part_of_journal(*given, **named)

        patched.setattr(parts, "part_of_journal", wait)
        assert "hectares" in cwsam(*line(run, scene, "out/map.tif", "--part", "1/2")).stdout
    assert files("out") == whole


def test_two_processes_do_not_make_one_part(refused: Any, run: Any, scene: Path, tmp_path: Path) -> None:
    for part in (1, 2):
        with_part = line(run, scene, "map.tif", "--part", f"{part}/3")
        if part == 1:
            assert invoke(*with_part).exit_code == 0
    for place, output in ((tmp_path / ".map.tif.journal" / "2.lock", "map.tif"), (tmp_path / ".part-2.lock", ".")):
        with locked(place, ""):
            scenes = (scene,) if output == "map.tif" else (scene, run.scene)
            refused(
                6,
                *("predict", *scenes, "-c", run.checkpoint, "-o", output, "--batch-size", 4, "--confidence"),
                *("--part", "2/3"),
                names="part 2 of",
            )


def test_one_run_waits_for_no_part(refused: Any, run: Any, scene: Path, tmp_path: Path) -> None:
    assert invoke(*line(run, scene, "map.tif", "--part", "1/3")).exit_code == 0
    with locked(tmp_path / ".map.tif.journal" / "2.lock", ""):
        refused(6, *line(run, scene, "map.tif"), names="other processes are making parts of `map.tif`")


def test_the_map_is_not_completed_while_a_part_is_at_work(cwsam: Cwsam, run: Any, scene: Path, tmp_path: Path) -> None:
    cwsam(*line(run, scene, "map.tif", "--part", "1/2"))
    with locked(tmp_path / ".map.tif.journal" / "7.lock", ""):
        told = json.loads(cwsam(*line(run, scene, "map.tif", "--part", "2/2", "--json")).stdout)
    assert told["missing"] == 0 and not Path("map.tif").exists()
    cwsam(*line(run, scene, "map.tif", "--part", "2/2"))
    assert Path("map.tif").exists()


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (("--overlap", 0.5), "overlap"),
        (("--batch-size", 1), "larger batches"),
        (("--format", "COG"), "another --format or --co"),
        (("--co", "COMPRESS=LZW"), "another --format or --co"),
    ],
)
def test_parts_of_other_options_are_refused(
    refused: Any, run: Any, scene: Path, more: tuple[Any, ...], names: str
) -> None:
    assert invoke(*line(run, scene, "map.tif", "--part", "1/2")).exit_code == 0
    message = refused(2, *line(run, scene, "map.tif", *more, "--part", "2/2"), names=names)
    assert ".map.tif.journal`" in message


def test_parts_share_many_scenes(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    scenes = [make_raster(f"scenes/{name}.tif", picture(seed, 90)) for seed, name in enumerate("abcd")]
    common = ("predict", "scenes", "-c", run.checkpoint, "--json")
    cwsam(*common, "-o", "one")
    scenes[1].write_text("junk")
    made = []
    for part in (1, 2, 3):
        result = invoke(*common, "-o", "out", "--part", f"{part}/3")
        told = json.loads(result.stdout)
        made.append([Path(each["path"]).stem for each in told["maps"]])
        assert (result.exit_code, len(told["failed"])) == ((4, 1) if part == 2 else (0, 0))
    assert made == [["a", "d"], [], ["c"]]
    one = {name: raw for name, raw in files("one").items() if not name.startswith("b.")}
    assert files("out") == one
    assert len(json.loads(cwsam(*common, "-o", "out", "--part", "1/3").stdout)["present"]) == 2


def launched(by: str, rank: int, size: int) -> dict[str, str]:
    if by == "torchrun":
        return {"RANK": f"{rank}", "WORLD_SIZE": f"{size}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    return {"SLURM_PROCID": f"{rank}", "SLURM_STEP_NUM_TASKS": f"{size}"}


@pytest.mark.parametrize("by", ["torchrun", "srun"])
def test_processes_of_a_launcher_are_parts(
    cwsam: Cwsam, run: Any, scene: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    for rank in (1, 0, 1):  # the last one comes when the map is complete
        with monkeypatch.context() as patched:
            for name, value in launched(by, rank, 2).items():
                patched.setenv(name, value)
            cwsam(*line(run, scene, "out/map.tif"))
    assert files("out") == whole


def start(arguments: tuple[Any, ...], **variables: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "cwsam_cli", *map(str, arguments), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_parts_that_run_together_and_one_that_is_killed_give_the_map_of_one_run(
    run: Any, make_raster: Any, tmp_path: Path
) -> None:
    scene = make_raster("scene.tif", picture(0, 6000))

    def begin(part: int) -> "subprocess.Popen[str]":
        return start((*line(run, scene, tmp_path / "out" / "map.tif"), "--part", f"{part}/3"))

    processes = [begin(part) for part in (1, 2, 3)]
    while not any(path.stat().st_size for path in tmp_path.glob("out/.map.tif.journal/1.pieces")):
        assert processes[1].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].communicate()
    processes[1] = begin(2)
    told = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert sum("hectares" in stdout for stdout, _ in told) == 1
    succeed(*line(run, scene, tmp_path / "one" / "map.tif"), "--device", "cpu")
    one, out = files(tmp_path / "one"), files(tmp_path / "out")
    assert one.keys() == out.keys()
    for name in one:
        if name.endswith(".tif"):
            assert pixels(tmp_path / "one" / name).tobytes() == pixels(tmp_path / "out" / name).tobytes()
        else:
            assert one[name] == out[name]


def pixels(path: Path) -> Any:
    import rasterio

    with rasterio.open(path) as source:
        return source.read()


SHARING = """
import sys
from cwsam_cli.predict.scoring import network
from cwsam_cli.predict.workers import parts
network.must_be_shared = parts.must_be_shared = lambda *_: True
from cwsam_cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_processes_of_a_launcher_share_a_model_that_no_device_holds(
    run: Any, make_raster: Any, tmp_path: Path, many: bool
) -> None:
    scenes = [make_raster(f"{seed}.tif", picture(seed, 700)) for seed in range(3 if many else 1)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tmp_path / "maps" / ("" if many else "map.tif")
    words = ["predict", *map(str, scenes), "-c", str(run.checkpoint), "-o", f"{output}", "--device", "cpu", "--json"]
    processes = []
    for rank in range(2):
        variables = launched("torchrun", rank, 2) | {"LOCAL_RANK": f"{rank}", "MASTER_PORT": f"{port}"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", SHARING, *words],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert told[1][0] == ""
    result = json.loads(told[0][0])
    assert len(result["maps"] if many else [result]) == len(scenes)
    one = tmp_path / "one" / ("" if many else "map.tif")
    succeed("predict", *scenes, "-c", run.checkpoint, "-o", one, "--device", "cpu")
    for path in (tmp_path / "one").glob("*.tif"):
        assert (pixels(path) == pixels(tmp_path / "maps" / path.name)).mean() > 0.999
