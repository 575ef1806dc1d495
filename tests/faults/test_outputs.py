"""Outputs that cannot be written, files that another process locks, and unusual names of good files."""

import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL
from tests.faults.conftest import COMMANDS
from tests.faults.forks import Fault, contents, obey_permissions, run_in_fork

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]

LAST = {"eval": "report", "eval --map": "report", "export": "model.safetensors", "upcycle": "large.pth"}
LAST |= {"tile": "data", "train": "run", "predict": "map.tif", "vectorize": "map.gpkg", "vectorize to .shp": "map.shp"}
LAST |= {"sample": "sample.gpkg", "mosaic": "mosaic.tif", "audit": "suspects.gpkg", "view": "page"}
WRITERS = COMMANDS | {"view": ("view", "../inputs/map.tif", "--export", "page")}


def writing(command: str, output: str) -> tuple[str, ...]:
    """The command with another output, whose suffix is added."""
    last = LAST[command]
    return tuple(output + Path(last).suffix if word == last else word for word in WRITERS[command])


def read_only(folder: Path, output: Path) -> None:
    folder.chmod(0o555)


def full_folder(folder: Path, output: Path) -> None:
    output.mkdir()
    (output / "other.txt").write_text("other")


BAD: dict[str, tuple[str, Callable[[Path, Path], object], tuple[int, ...], Fault | None]] = {
    "read-only folder": ("out", read_only, (6,), obey_permissions),
    "below a file": ("file/out", lambda folder, output: (folder / "file").write_text("text"), (6,), None),
    "a folder with other files": ("out", full_folder, (2,), None),
    "a file that exists": ("out", lambda folder, output: output.write_text("older"), (2, 6), None),
    "a link to itself": ("out", lambda folder, output: output.symlink_to(output.name), (2, 6), None),
    "a link to nothing": ("out", lambda folder, output: output.symlink_to("gone"), (2, 6), None),
    "empty": ("", lambda folder, output: None, (2, 6), None),
    "a long name": ("n" * 250, lambda folder, output: None, (6,), None),
    "a long path": ("d/" * 2100 + "out", lambda folder, output: None, (6,), None),
    "below a device": ("/dev/null/out", lambda folder, output: None, (6,), None),
    "in /proc": ("/proc/out", lambda folder, output: None, (6,), None),
}
"""Outputs: their name, what is done first, the exit codes, and a fault."""


def listed(folder: Path) -> dict[Path, tuple[int, int] | None]:
    """Sizes and times of files and links by path. A folder has only its name, because locks inside change its time."""
    return {
        path: None if stat.S_ISDIR(found.st_mode) else (found.st_size, found.st_mtime_ns)
        for path in folder.rglob("*")
        for found in [path.lstat()]
    }


@pytest.mark.parametrize("bad", BAD)
def test_an_output_that_cannot_be_written_is_told(inputs: Path, bad: str) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("drops Linux's capabilities, and writes to /proc")
    output, prepare, codes, fault = BAD[bad]
    for command in WRITERS:
        if command == "train" and bad == "a folder with other files":  # a run may be written there
            continue
        folder, words = inputs.with_name("outputs"), writing(command, output)
        folder.mkdir()
        try:
            last = next(word for word, own in zip(words, WRITERS[command], strict=True) if word != own)
            prepare(folder, folder / last)
            before = listed(folder)
            code, text = run_in_fork(folder, words, fault)
            said = (bad, command, code, text[-1500:])
            assert code in codes and "Traceback" not in text, said
            assert "error: " in text and "hint: " in text, said
            assert listed(folder) == before, said
        finally:
            folder.chmod(stat.S_IRWXU)
            shutil.rmtree(folder)


def test_input_that_may_not_be_read_is_told(inputs: Path, tmp_path: Path) -> None:
    scene = Path(shutil.copy(inputs / "scene.tif", tmp_path / "secret.tif"))
    scene.chmod(0)
    for words in (
        ("tile", scene, "--labels", inputs / "labels.tif", "-o", "data", "--size", "32"),
        ("tile", inputs / "scene.tif", "--labels", scene, "-o", "data", "--size", "32"),
        ("predict", scene, "-c", inputs / "save/model_epoch_best.pth", "-o", "map.tif"),
        ("vectorize", scene, "map.gpkg"),
        ("predict", inputs / "scene.tif", "-c", scene, "-o", "map.tif"),
    ):
        code, text = run_in_fork(tmp_path, words, obey_permissions)
        assert code in (2, 4, 5, 6) and "secret.tif" in text and "Traceback" not in text, text
        assert ("hint: " in text or "is not readable" in text) and [*tmp_path.iterdir()] == [scene], text


@contextmanager
def locking(package: Path, kind: str) -> Iterator[None]:
    with closing(sqlite3.connect(package, isolation_level=None)) as other:
        other.execute(f"BEGIN {kind}")
        yield


LOCKED: dict[str, tuple[str, ...]] = {
    "vectorize --append": ("vectorize", "../inputs/map.tif", "locked.gpkg", "--append", "--layer", "two"),
    "tile": ("tile", "../inputs/scene.tif", "--labels", "locked.gpkg", "--class-field", "code", "-o", "data"),
    "view": ("view", "../inputs/map.tif", "locked.gpkg", "--export", "page"),
    "eval": ("eval", "--map", "../inputs/map.tif", "--reference", "locked.gpkg", "--class-field", "code"),
    "eval --sample": ("eval", "--sample", "locked.gpkg", "--map", "../inputs/map.tif"),
    "sample --more": ("sample", "../inputs/map.tif", "-o", "locked.gpkg", "--more", "10"),
}


def test_a_geopackage_that_another_process_locks_is_told(inputs: Path, tmp_path: Path) -> None:
    folder = inputs.with_name("locked")
    folder.mkdir()
    package = folder / "locked.gpkg"
    assert run_in_fork(folder, ("vectorize", "../inputs/map.tif", package))[0] == 0
    with closing(sqlite3.connect(package)) as own:
        layers = own.execute("SELECT table_name FROM gpkg_contents").fetchall()
    for command, words in LOCKED.items():
        # Who appends replaces the file, so an open change of another process would be lost.
        with locking(package, "IMMEDIATE" if command == "vectorize --append" else "EXCLUSIVE"):
            code, text = run_in_fork(folder, words)
        assert code == 6 and "`locked.gpkg` is locked by another process" in text and "hint: " in text, (command, text)
        assert [*contents(folder)] == ["locked.gpkg"], command
    with closing(sqlite3.connect(package)) as own:
        assert own.execute("SELECT table_name FROM gpkg_contents").fetchall() == layers
    shutil.rmtree(folder)


NAMES = ("-ä 土地 'q\" é", "[1] #100% $`x`{a},&?=@")
"""Names with what programs stumble over: spaces, quotes, a dash in front, patterns, other scripts."""


@pytest.mark.parametrize("name", NAMES)
def test_unusual_names_of_good_files_work(inputs: Path, tmp_path: Path, name: str) -> None:
    given, made = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    for source, suffix in (("scene.tif", ""), ("labels.tif", " labels"), ("map.tif", " map")):
        for part in inputs.glob(f"{source}*"):
            shutil.copy(part, given / part.name.replace(source, f"{name}{suffix}.tif"))
    shutil.copy(inputs / "save/model_epoch_best.pth", given / f"{name}.pth")
    shutil.copytree(inputs / "data", given / name)
    scene, labels, drawn = (f"in/{name}{suffix}.tif" for suffix in ("", " labels", " map"))
    out, model, data = f"out/{name}", f"in/{name}.pth", f"in/{name}"
    for words in (
        ("tile", "-o", out, "--size", "32", f"--labels={labels}", "--", scene),
        ("train", *SMALL, f"--data={data}", "-o", out, "--set", "epoch_max=1"),
        ("eval", f"--checkpoint={model}", f"--data={data}", "-o", out),
        ("eval", f"--map={drawn}", f"--reference={labels}", "-o", out),
        ("predict", "-c", model, "-o", f"{out}.tif", "--preview", f"{out}.png", "--", scene),
        ("vectorize", "--", drawn, f"{out}.gpkg"),
        ("vectorize", "--", drawn, f"{out}.shp"),
        (
            "sample",
            "-n",
            "40",
            "--min-per-class",
            "2",
            "--chips",
            out,
            f"--image={scene}",
            "-o",
            f"{out}.gpkg",
            "--",
            drawn,
        ),
        ("mosaic", "-o", f"{out}.tif", "--", drawn),
        ("audit", "--suspects", f"{out}.gpkg", "--", data),
        ("export", "-o", f"{out}.safetensors", "--", model),
        ("upcycle", "-o", f"{out}.pth", *SMALL, "--", model),
        ("view", "--export", out, "--", drawn, scene),
        ("doctor", "--", drawn, scene, model, data),
    ):
        made.mkdir()
        code, text = run_in_fork(tmp_path, words)
        said = (words, code, text[-1500:])
        assert code == (4 if words[0] == "audit" else 0) and "Traceback" not in text, said
        written = [path.name for path in made.iterdir()]
        assert words[0] == "doctor" or written, said
        assert all(each.startswith(name) for each in written), said
        shutil.rmtree(made)


def test_links_to_inputs_and_outputs(inputs: Path, tmp_path: Path) -> None:
    folder = inputs.with_name("links")
    for name in ("here", "disk", "disk/deep"):
        (folder / name).mkdir(parents=True)
    (folder / "here/scene.tif").symlink_to("../../inputs/scene.tif")
    (folder / "here/model.pth").symlink_to("../../inputs/save/model_epoch_best.pth")
    (folder / "here/out").symlink_to("../disk")
    (folder / "here/data").symlink_to("../disk/deep")
    (folder / "disk/older.tif").write_text("older")
    (folder / "here/older.tif").symlink_to("../disk/older.tif")

    assert run_in_fork(folder / "here", ("predict", "scene.tif", "-c", "model.pth", "-o", "out/map.tif"))[0] == 0
    assert (folder / "disk/map.tif").is_file()
    words = ("tile", "scene.tif", "--labels", "../../inputs/labels.tif", "-o", "data", "--size", "32")
    assert run_in_fork(folder / "here", words)[0] == 0
    assert (folder / "here/data").is_symlink() and (folder / "disk/deep/dataset.yaml").is_file()
    words = ("mosaic", "out/map.tif", "-o", "older.tif", "--overwrite")
    assert run_in_fork(folder / "here", words)[0] == 0
    assert not (folder / "here/older.tif").is_symlink() and (folder / "disk/older.tif").read_text() == "older"
    assert not [path for path in contents(folder) if ".part" in path or ".lock" in path or ".journal" in path]
    shutil.rmtree(folder)
