"""Many scenes, from anywhere: one that fails stops no other, and a second run makes only what is missing."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from typer.testing import Result

Cwsam = Callable[..., Result]
Invoke = Callable[..., Any]


def picture(height: int = 70, width: int = 90, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 3, (height // 9 + 1, width // 9 + 1)).repeat(9, 0).repeat(9, 1)[:height, :width]
    image = np.linspace(40, 200, 9).reshape(3, 3)[patches].transpose(2, 0, 1) + rng.normal(0, 6, (3, height, width))
    return image.clip(1, 254).astype(np.uint8)


def codes_of(path: Path | str) -> Any:
    with rasterio.open(path) as source:
        return source.read(1)


@pytest.fixture
def folder(make_raster: Any, tmp_path: Path) -> Path:
    """Three scenes; the second is none."""
    for seed, name in enumerate(("a", "c")):
        make_raster(f"scenes/{name}.tif", picture(seed=seed))
    (tmp_path / "scenes" / "b.tif").write_text("junk")
    (tmp_path / "scenes" / "readme.md").write_text("no scene")
    return tmp_path / "scenes"


@pytest.fixture
def ends_with(cwsam: Cwsam) -> Callable[..., Any]:
    """Run `cwsam`, expect an exit code, get the result."""
    from typer.testing import CliRunner

    from cwsam_cli.main import app

    def run(code: int, *arguments: Any) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    return run


@pytest.mark.parametrize("form", ["folder", "pattern", "list", "names"])
def test_a_failing_scene_stops_no_other_and_is_reported(
    ends_with: Invoke, run: Any, folder: Path, tmp_path: Path, form: str
) -> None:
    (tmp_path / "list.txt").write_text("# mine\nscenes/a.tif\n\nscenes/b.tif\nscenes/c.tif\n", "utf-8")
    scenes = {
        "folder": [folder],
        "pattern": [f"{folder}/*.tif"],
        "list": [tmp_path / "list.txt"],
        "names": sorted(folder.glob("*.tif")),
    }[form]
    result = ends_with(4, "predict", *scenes, "-c", run.checkpoint, "-o", "maps", "--json")
    told = json.loads(result.stdout)
    assert [Path(made["path"]).name for made in told["maps"]] == ["a.tif", "c.tif"]
    assert [Path(scene).name for scene in told["failed"]] == ["b.tif"]
    assert "b.tif" in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        f"{name}{suffix}" for name in "ac" for suffix in (".qml", ".tif", ".tif.aux.xml")
    ]


def test_a_second_run_makes_only_what_is_missing(
    ends_with: Invoke, run: Any, folder: Path, tmp_path: Path, make_raster: Any
) -> None:
    command = ("predict", folder, "-c", run.checkpoint, "-o", "maps", "--json")
    ends_with(4, *command)
    before = (tmp_path / "maps" / "a.tif").stat().st_mtime_ns
    make_raster("scenes/b.tif", picture(seed=5))
    (tmp_path / "maps" / "c.tif").unlink()
    told = json.loads(ends_with(0, *command).stdout)
    assert sorted(Path(made["path"]).name for made in told["maps"]) == ["b.tif", "c.tif"]
    assert [Path(path).name for path in told["present"]] == ["a.tif"]
    assert (tmp_path / "maps" / "a.tif").stat().st_mtime_ns == before
    told = json.loads(ends_with(0, *command).stdout)
    assert told["maps"] == [] and len(told["present"]) == 3


def test_a_map_of_other_options_or_another_scene_is_not_taken_for_the_one_asked(
    ends_with: Invoke, run: Any, folder: Path, make_raster: Any
) -> None:
    (folder / "b.tif").unlink()
    command = ("predict", folder, "-c", run.checkpoint, "-o", "maps")
    ends_with(0, *command)
    assert "--overwrite" in ends_with(4, *command, "--overlap", 0.5).stderr
    make_raster("scenes/a.tif", picture(seed=9))
    result = ends_with(4, *command)
    assert "a.tif` exists already" in result.stderr and "c.tif: there already" in result.stdout
    ends_with(0, *command, "--overwrite")


@pytest.mark.parametrize("options", [("--max-memory", "6GB"), ("--batch-size", 3)])
def test_memory_and_batches_make_no_other_map_of_one_that_is_whole(
    ends_with: Invoke, run: Any, folder: Path, options: tuple[Any, ...]
) -> None:
    (folder / "b.tif").unlink()
    command = ("predict", folder, "-c", run.checkpoint, "-o", "maps", "--json")
    ends_with(0, *command)
    assert len(json.loads(ends_with(0, *command, *options).stdout)["present"]) == 2


def test_a_scene_that_was_only_touched_is_another_one_unless_its_whole_content_is_compared(
    ends_with: Invoke, run: Any, folder: Path
) -> None:
    (folder / "b.tif").unlink()
    command = ("predict", folder, "-c", run.checkpoint, "-o", "maps", "--json")
    ends_with(0, *command)
    assert len(json.loads(ends_with(0, *command).stdout)["present"]) == 2
    os.utime(folder / "a.tif", ns=(0, 0))
    assert "a.tif` exists already" in ends_with(4, *command).stderr
    ends_with(0, *command, "--verify", "--overwrite")
    os.utime(folder / "a.tif", ns=(10**9, 10**9))
    assert len(json.loads(ends_with(0, *command, "--verify").stdout)["present"]) == 2


def test_a_missing_crs_is_told_once_per_run_of_many_scenes(ends_with: Invoke, run: Any, make_raster: Any) -> None:
    scenes = [make_raster(f"{name}.tif", picture(), crs=None) for name in "abc"]
    for more in (("-o", "maps"), ("--dry-run",)):
        told = ends_with(0, "predict", *scenes, "-c", run.checkpoint, *more).stderr
        assert told.count("no coordinate reference system") == 1


def test_a_missing_layer_is_made_again(ends_with: Invoke, run: Any, folder: Path, snapshot: Any) -> None:
    command = ("predict", folder / "a.tif", folder / "c.tif", "-c", run.checkpoint, "-o", "maps", "--confidence")
    ends_with(0, *command)
    before = snapshot(Path("maps"))
    Path("maps/a.confidence.tif").unlink()
    ends_with(0, *command)
    assert snapshot(Path("maps")) == before


def test_scenes_of_one_name_get_maps_of_their_own(
    ends_with: Invoke, run: Any, make_raster: Any, tmp_path: Path
) -> None:
    scenes = [make_raster(f"{place}/scene.tif", picture(seed=seed)) for seed, place in enumerate(("x", "y"))]
    ends_with(0, "predict", *scenes, "-c", run.checkpoint, "-o", "maps")
    assert (codes_of("maps/scene-1.tif") != codes_of("maps/scene-2.tif")).any()


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (("a.tif", "a.tif", "-o", "maps"), 2, "twice"),
        (("nothing/*.tif", "-o", "maps"), 4, "means no scene"),
        (("empty", "-o", "maps"), 4, "means no scene"),
        (("a.tif", "b.tif", "-o", "a.tif"), 2, "need a folder"),
        (("a.tif", "b.tif", "-o", "maps", "--preview", "x.png"), 2, "--preview"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    refused: Any, run: Any, make_raster: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, names: str
) -> None:
    make_raster("a.tif", picture())
    make_raster("b.tif", picture())
    (tmp_path / "empty").mkdir()
    refused(code, "predict", *arguments, "-c", run.checkpoint, names=names)


def test_scenes_whose_maps_and_layers_would_share_a_name_are_refused(
    refused: Any, ends_with: Invoke, run: Any, make_raster: Any
) -> None:
    scenes = [make_raster(name, picture()) for name in ("a.tif", "a.confidence.tif")]
    command = ("predict", *scenes, "-c", run.checkpoint, "-o", "maps")
    assert "a.confidence.tif`" in refused(2, *command, "--confidence", names="a.tif`")
    ends_with(0, *command)


def test_maps_never_replace_their_scenes(ends_with: Invoke, run: Any, folder: Path) -> None:
    (folder / "b.tif").unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert "is an input" in ends_with(4, "predict", folder, "-c", run.checkpoint, "-o", folder, "--overwrite").stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


# Not a plain file


def test_a_virtual_raster_a_zip_and_its_file_give_one_map(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    scene = make_raster("scene.tif", picture())
    rasterio.shutil.copy(scene, "scene.vrt", driver="VRT")
    with zipfile.ZipFile("scenes.zip", "w") as archive:
        archive.write(scene, "inner/scene.tif")
    maps = []
    for number, name in enumerate((scene, "scene.vrt", "/vsizip/scenes.zip/inner/scene.tif")):
        cwsam("predict", name, "-c", run.checkpoint, "-o", f"{number}.tif")
        maps.append(codes_of(f"{number}.tif"))
    assert (maps[0] == maps[1]).all() and (maps[0] == maps[2]).all()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    program = Path(__file__).with_name("range_server.py")
    with subprocess.Popen([sys.executable, program], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()


@pytest.mark.parametrize("prefix", ["", "/vsicurl/"])
def test_a_scene_on_a_server_is_mapped_with_its_mask(
    cwsam: Cwsam, run: Any, make_raster: Any, server: str, prefix: str
) -> None:
    scene = make_raster("scene.tif", picture())
    inside = np.full((70, 90), 255, np.uint8)
    inside[20:40, 30:60] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as target:
        target.write_mask(inside)
    cwsam("predict", scene, "-c", run.checkpoint, "-o", "here.tif")
    cwsam("predict", f"{prefix}{server}/scene.tif", "-c", run.checkpoint, "-o", "there.tif")
    np.testing.assert_array_equal(codes_of("there.tif"), codes_of("here.tif"))
    np.testing.assert_array_equal(codes_of("there.tif") == 255, inside == 0)


def test_a_part_of_a_scene_on_a_server_is_fetched_in_part(
    cwsam: Cwsam, run: Any, make_raster: Any, server: str
) -> None:
    noise = np.random.default_rng(0).integers(1, 255, (3, 2048, 1024)).astype(np.uint8)
    scene = make_raster("large.tif", noise, tiled=True, blockxsize=64, blockysize=64)
    bounds = ("--bounds", 600_000, 3_998_000, 601_000, 4_000_000)
    told = cwsam("predict", f"{server}/large.tif", "-c", run.checkpoint, "-o", "map.tif", *bounds)
    assert "34 × 67 pixels" in told.stdout
    with urlopen(f"{server}/sent") as answer:
        assert 0 < int(answer.read()) < scene.stat().st_size / 2


def test_what_the_environment_says_of_remote_reads_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from cwsam_cli.raster.sources.network import gdal_settings

    url = "https://example.org/scene.tif"
    assert "GDAL_HTTP_MAX_RETRY" in gdal_settings(url)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    assert "GDAL_HTTP_MAX_RETRY" not in gdal_settings(url)
    assert "GDAL_DISABLE_READDIR_ON_OPEN" not in gdal_settings("scene.tif")


def test_a_scene_in_a_bucket_is_read_by_its_address(
    cwsam: Cwsam, run: Any, make_raster: Any, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_raster("bucket/scene.tif", picture())
    monkeypatch.setenv("AWS_S3_ENDPOINT", server.removeprefix("http://"))
    for name, value in (("HTTPS", "NO"), ("VIRTUAL_HOSTING", "FALSE"), ("NO_SIGN_REQUEST", "YES")):
        monkeypatch.setenv(f"AWS_{name}", value)
    cwsam("predict", scene, "-c", run.checkpoint, "-o", "here.tif")
    cwsam("predict", "s3://bucket/scene.tif", "-c", run.checkpoint, "-o", "there.tif")
    np.testing.assert_array_equal(codes_of("there.tif"), codes_of("here.tif"))


def test_a_dry_run_tells_of_every_scene(ends_with: Invoke, run: Any, folder: Path) -> None:
    told = json.loads(ends_with(4, "predict", folder, "-c", run.checkpoint, "--dry-run", "--json").stdout)
    assert [Path(each["scene"]).name for each in told["scenes"]] == ["a.tif", "c.tif"]
    assert [Path(scene).name for scene in told["failed"]] == ["b.tif"]


def test_a_scene_that_the_server_does_not_have_is_named(refused: Any, run: Any, server: str) -> None:
    refused(4, "predict", f"{server}/none.tif", "-c", run.checkpoint, "-o", "map.tif", names="none.tif")


# Several processes, and killed ones


def test_a_run_killed_while_its_files_were_moved_is_ended_by_the_next(
    cwsam: Cwsam, run: Any, make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: Any
) -> None:
    scene = make_raster("scene.tif", picture())
    arguments = (
        "predict",
        scene,
        "-c",
        run.checkpoint,
        "--confidence",
        "--preview",
        "out/map.png",
        "-o",
        "out/map.tif",
    )
    told = cwsam(*arguments).stdout
    expected = snapshot(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")

    class Killed(BaseException):
        pass

    replace, left = os.replace, [0]

    def dying(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        replace(source, target)

    for survived in range(1, 9):
        left[0] = survived
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", dying)
            patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process does not tidy up
            with suppress(Killed):
                cwsam(*arguments)
        assert cwsam(*arguments).stdout == told
        assert snapshot(tmp_path / "out") == expected
        shutil.rmtree(tmp_path / "out")


class Killed(BaseException):
    """What no block expects."""


@pytest.fixture
def half_done(cwsam: Cwsam, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run `cwsam predict` until all pieces of the map are there, and kill it."""
    from cwsam_cli.predict import work as predict

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    def begin(*arguments: Any) -> None:
        with monkeypatch.context() as patched, suppress(Killed):
            patched.setattr(predict, "write_map", die)
            cwsam("predict", *arguments)

    return begin


def test_the_journal_records_hashes_of_input_and_checkpoint_the_options_batch_and_precision(
    run: Any, half_done: Any
) -> None:
    from cwsam_cli.files import sha256
    from cwsam_cli.raster.sources.fingerprint import fingerprint

    half_done(run.scene, "-c", run.checkpoint, "-o", "map.tif", "--batch-size", 4, "--precision", "fp32", "--tta", "d4")
    told = json.loads(Path(".map.tif.journal/journal.json").read_text("utf-8"))
    with rasterio.open(run.scene) as dataset:
        assert told["key"]["scene"] == fingerprint(str(run.scene), dataset)
    assert told["key"]["checkpoint"] == sha256(run.checkpoint)
    assert (told["key"]["precision"], told["key"]["tta"], told["plan"]["batch"]) == ("fp32", "d4", 4)


@pytest.mark.parametrize("options", [("--format", "COG"), ("--co", "COMPRESS=LZW"), ("--batch-size", 9), ("--gpus", 1)])
def test_what_a_killed_run_has_done_serves_any_form_of_file_and_more_memory(
    cwsam: Cwsam, run: Any, half_done: Any, options: tuple[Any, ...]
) -> None:
    command = (run.scene, "-c", run.checkpoint, "-o", "map.tif")
    half_done(*command, "--batch-size", 4)
    assert "continuing" in cwsam("predict", *command, *options).stderr


@pytest.mark.parametrize("options", [("--batch-size", 3), ("--overlap", 0.5)])
def test_a_run_that_may_take_less_or_wants_another_map_starts_over(
    cwsam: Cwsam, run: Any, half_done: Any, options: tuple[Any, ...]
) -> None:
    command = (run.scene, "-c", run.checkpoint, "-o", "map.tif")
    half_done(*command, "--batch-size", 4)
    assert "starting over" in cwsam("predict", *command, *options).stderr


def test_a_run_with_less_memory_than_was_planned_for_starts_over(cwsam: Cwsam, run: Any, half_done: Any) -> None:
    from cwsam_cli.predict.planning import make_plan
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.scoring.network import Model

    request = MapRequest(scene=str(run.scene), checkpoint=run.checkpoint, batch_size=999)
    planned = make_plan(request, Model.open(request)).memory
    command = (run.scene, "-c", run.checkpoint, "-o", "map.tif", "--batch-size", 999)
    half_done(*command)
    told = cwsam("predict", *command, "--max-memory", f"{int(planned * 0.98)}B").stderr
    assert "begun with more memory or larger batches: starting over" in told


@pytest.mark.parametrize("end", ["a disk that hiccups", "Ctrl-C"])
def test_what_is_finished_is_kept_when_a_run_fails_and_the_run_says_so(
    cwsam: Cwsam, run: Any, make_raster: Any, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    from typer.testing import CliRunner

    from cwsam_cli.errors import DataError
    from cwsam_cli.main import app
    from cwsam_cli.raster.scene import Scene

    scene = make_raster("scene.tif", picture(1000, 90), blockysize=16)
    read = Scene.read_north_up

    def failing(self: Scene, window: Any) -> Any:
        if window.row_off > 700:
            raise DataError("a disk that hiccups", hint="wait") if end != "Ctrl-C" else KeyboardInterrupt
        return read(self, window)

    line = ["predict", str(scene), "-c", str(run.checkpoint), "-o", "map.tif", "--batch-size", "2"]
    with monkeypatch.context() as patched:
        patched.setattr(Scene, "read_north_up", failing)
        result = CliRunner().invoke(app, line)
    assert result.exit_code == (130 if end == "Ctrl-C" else 4)
    assert "the same command continues" in result.stderr
    told = cwsam(*line).stderr
    assert "continuing" in told and " 0 piece" not in told


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="ends by signal")
def test_a_signal_that_ends_several_processes_is_told_with_the_way_to_go_on(
    run: Any, make_raster: Any, tmp_path: Path
) -> None:
    line = command(run, make_raster("scene.tif", picture(6000, 500)), "-o", tmp_path / "map.tif", "--gpus", 2)
    with subprocess.Popen(
        line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while not any(path.stat().st_size for path in tmp_path.glob(".map.tif.journal/*.pieces")):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "SIGTERM" in told and "hint: the same command continues" in told and "--resume" not in told


def command(run: Any, *arguments: Any) -> list[str]:
    here = [sys.executable, "-m", "cwsam_cli", "predict", "-c", str(run.checkpoint), "--device", "cpu"]
    return [*here, *(str(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def test_what_earlier_maps_left_in_memory_does_not_change_how_the_next_is_cut(run: Any) -> None:
    from cwsam_cli.predict.planning import make_plan
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.scoring.network import Model

    request = MapRequest(scene=str(run.scene), checkpoint=run.checkpoint, device="cpu")
    model = Model.open(request)
    before = make_plan(request, model).memory
    left = np.ones(25_000_000)
    assert make_plan(request, model).memory == before
    assert left.all()


def test_a_program_that_is_large_already_does_not_eat_the_memory_of_the_work(run: Any) -> None:
    from dataclasses import replace

    from cwsam_cli.predict.planning import make_plan
    from cwsam_cli.predict.request import MapRequest
    from cwsam_cli.predict.scoring.network import Model

    request = MapRequest(scene=str(run.scene), checkpoint=run.checkpoint, device="cpu")
    model = Model.open(request)
    grown = make_plan(request, replace(model, program_bytes=model.program_bytes + 5_000_000_000))
    assert grown.memory == make_plan(request, model).memory + 5_000_000_000


def test_processes_look_for_what_is_missing_before_any_of_them_adds_to_it(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from cwsam_cli.predict.work import make_share

    class Met(Exception):
        pass

    def barrier() -> None:
        raise Met

    world: Any = SimpleNamespace(barrier=barrier)
    plan: Any = None
    with pytest.raises(Met):
        make_share(world, plan, tmp_path)


def test_a_process_among_others_may_hash_and_write_as_long_as_it_takes_and_shows_life_at_every_scene(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from cwsam_cli.distributed.world import World
    from cwsam_cli.predict import many, work
    from cwsam_cli.predict.request import MapRequest

    class Watchdog:
        def __init__(self) -> None:
            self.signs: list[str] = []

        def beat(self) -> None:
            self.signs.append("beat")

        def pause(self) -> None:
            self.signs.append("pause")

    watchdog: Any = Watchdog()
    write_map, while_writing = work.write_map, []

    def writing(*arguments: Any, **options: Any) -> Any:
        while_writing.append(watchdog.signs[-1])
        return write_map(*arguments, **options)

    monkeypatch.setattr(work, "write_map", writing)
    world = World(torch.device("cpu"), watchdog=watchdog)
    request = MapRequest(scene=str(run.scene), checkpoint=run.checkpoint, output=tmp_path / "map.tif", device="cpu")
    many._make(request, [request], world)
    assert while_writing == ["pause"]
    watchdog.signs.clear()
    assert many._make(request, [request], world).present
    assert watchdog.signs == ["beat", "pause", "beat"]


@pytest.mark.slow
def test_two_processes_make_the_map_of_one(cwsam: Cwsam, run: Any, make_raster: Any) -> None:
    scene = make_raster("scene.tif", picture(900, 300))
    cwsam("predict", scene, "-c", run.checkpoint, "-o", "one.tif", "--device", "cpu")
    cwsam("predict", scene, "-c", run.checkpoint, "-o", "two.tif", "--device", "cpu", "--gpus", 2)
    np.testing.assert_array_equal(codes_of("one.tif"), codes_of("two.tif"))


@pytest.mark.slow
def test_two_processes_share_many_scenes(ends_with: Invoke, run: Any, folder: Path, tmp_path: Path) -> None:
    options = ("-c", run.checkpoint, "--device", "cpu", "--json")
    told = json.loads(ends_with(4, "predict", folder, *options, "-o", "maps", "--gpus", 2).stdout)
    assert sorted(Path(made["path"]).name for made in told["maps"]) == ["a.tif", "c.tif"]
    assert [Path(scene).name for scene in told["failed"]] == ["b.tif"]
    (folder / "b.tif").unlink()
    ends_with(0, "predict", folder, *options, "-o", "alone")
    for name in ("a.tif", "c.tif"):
        np.testing.assert_array_equal(codes_of(f"maps/{name}"), codes_of(f"alone/{name}"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
@pytest.mark.parametrize(
    ("times", "options"), [(10, ("--confidence",)), (3, ("--format", "COG", "--gpus", "2"))], ids=["one", "two"]
)
def test_killed_at_random_moments_and_resumed_the_output_is_the_same_to_the_byte(
    run: Any, make_raster: Any, tmp_path: Path, times: int, options: tuple[str, ...]
) -> None:
    scene = make_raster("scene.tif", picture(1700, 500))
    environ = environment()

    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}

    folder = tmp_path / "out"
    whole = command(run, scene, "-o", folder / "map.tif", *options)
    started = time.monotonic()
    subprocess.run(whole, env=environ, check=True, capture_output=True)
    length = time.monotonic() - started
    expected = files(folder)
    assert {"map.tif", "map.tif.aux.xml", "map.qml"} <= set(expected)
    shutil.rmtree(folder)

    rng = np.random.default_rng(0)
    resumed = kills = 0
    while kills < times:
        process = subprocess.Popen(
            whole, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, said = process.communicate(timeout=float(rng.uniform(0.4, 1.0)) * length)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            _, said = process.communicate()
            kills += 1
            if (folder / "map.tif").exists():
                assert files(folder) == expected
                if len(list(folder.iterdir())) == len(expected):  # nothing was left to do
                    shutil.rmtree(folder)
        else:
            assert process.returncode == 0, said
            assert files(folder) == expected
            shutil.rmtree(folder)
        resumed += "continuing" in said
    if not (folder / "map.tif").exists():
        subprocess.run(whole, env=environ, check=True, capture_output=True)
    assert files(folder) == expected
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    assert resumed >= times // 3
