"""Help is quick, shows examples and lists choices; commands load only the modules that they need."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import cwsam_cli

FIVE = ["tile", "train", "eval", "predict", "vectorize"]
COMMANDS = [*FIVE, "view", "mosaic", "sample", "export", "qgis", "info", "plan", "upcycle", "demo"]

REPORT = """
import sys
from cwsam_cli.main import main
sys.argv = ["cwsam", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
heavy = ["torch", "rasterio", "geopandas", "pandas", "pydantic", "tensorboard"]
print("loaded:", *[name for name in heavy if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def loaded_by(*arguments: object, cwd: Path) -> set[str]:
    """The heavy packages that a fresh process has loaded once the command is through."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rsplit("loaded:", 1)[1].split())


def test_the_programs_help_shows_the_whole_way(cwsam: Callable[..., Result]) -> None:
    help = cwsam("--help").stdout
    for command in FIVE:
        assert f"$ cwsam {command}" in help
    for command in COMMANDS:
        assert f"\n  {command}" in help
    assert "..." not in help.split("Commands:")[1], "a command's summary is cut off"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example_to_type(cwsam: Callable[..., Result], command: str) -> None:
    help = cwsam(command, "--help").stdout
    assert f"$ cwsam {command}" in help
    assert help == cwsam(command, "-h").stdout


@pytest.mark.parametrize("command", ["train", "eval", "predict", "demo"])
def test_help_lists_the_devices(cwsam: Callable[..., Result], command: str) -> None:
    assert "--device auto|cpu|cuda" in cwsam(command, "--help").stdout


@pytest.mark.parametrize("command", ["train", "plan", "upcycle"])
def test_help_lists_every_shipped_configuration(cwsam: Callable[..., Result], command: str) -> None:
    configs = Path(__file__).parents[2] / "configs"
    shipped = [path.relative_to(configs).with_suffix("").as_posix() for path in configs.rglob("*.yaml")]
    named = [name for name in shipped if not name.startswith("classes/")]
    help = cwsam(command, "--help").stdout
    assert len(named) >= 6
    assert [name for name in named if name not in help] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_plain_text(cwsam: Callable[..., Result], command: str) -> None:
    help = cwsam(command, "--help").stdout
    assert "\x1b" not in help
    assert not set("╭│╰─") & set(help)


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)], ids=lambda names: " ".join(names))
def test_help_loads_neither_torch_nor_rasterio_nor_geopandas(arguments: list[str], tmp_path: Path) -> None:
    assert not loaded_by(*arguments, "--help", cwd=tmp_path) & {"torch", "rasterio", "geopandas"}


def test_the_version_is_told_without_loading_anything(tmp_path: Path, cwsam: Callable[..., Result]) -> None:
    assert cwsam("--version").stdout == f"cwsam {cwsam_cli.__version__}\n"
    assert not loaded_by("--version", cwd=tmp_path)


def test_tiling_and_vectorizing_never_load_torch(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tile = loaded_by("tile", run.scene, "--labels", run.labels, "-o", "dataset", "--size", 32, cwd=tmp_path)
    assert "torch" not in tile and "rasterio" in tile
    vectorize = loaded_by("vectorize", run.labels, "polygons.gpkg", cwd=tmp_path)
    assert "torch" not in vectorize and "rasterio" in vectorize


def test_the_module_and_the_script_are_one_program(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "cwsam_cli"]
    script = [str(Path(sys.executable).with_name("cwsam"))]
    outputs = []
    for program in (module, script):
        done = subprocess.run([*program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


def test_a_failure_ends_the_process_with_its_code_and_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cwsam_cli", "vectorize", "missing.tif", "polygons.gpkg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and "`missing.tif`" in done.stderr and "\n\nhint: " in done.stderr
    assert "\x1b" not in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "arguments", "names"),
    [
        (2, ("predict", "scene.tif", "-c", "model.pth", "-o", "there.tif"), "`there.tif` exists"),
        (2, ("predict", "scene.tif", "-c", "model.pth", "-o", "map.tif", "--tta", "all"), "'all' is not one of"),
        (2, ("predict", "scene.tif", "-c", "model.pth"), "no output is given"),
        (4, ("predict", "gone.tif", "-c", "model.pth", "-o", "map.tif"), "`gone.tif`"),
        (5, ("predict", "scene.tif", "-c", "gone.pth", "-o", "map.tif"), "`gone.pth`"),
        (4, ("eval", "-c", "model.pth", "--data", "gone"), "`gone`"),
        (4, ("train", "--config", "tiny", "--data", "gone", "-o", "run"), "`gone`"),
        (2, ("eval", "-c", "model.pth", "--data", "gone", "-o", "there.tif"), "`there.tif` exists"),
    ],
)
def test_what_can_be_seen_to_fail_is_told_before_torch_is_loaded(
    tmp_path: Path, code: int, arguments: tuple[str, ...], names: str
) -> None:
    for name in ("scene.tif", "model.pth", "there.tif"):
        (tmp_path / name).touch()
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert names in done.stderr
    assert "torch" not in done.stderr.rsplit("loaded:", 1)[1].split()
