"""Commands × paths where nothing usable is: each ends with a sentence and a hint, and leaves nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import SMALL, Run, invoke

pytestmark = pytest.mark.slow

Command = Callable[[Run, str, str], tuple[Any, ...]]

READERS: dict[str, Command] = {
    "predict": lambda run, path, out: ("predict", "-c", run.checkpoint, "-o", f"{out}.tif", "--", path),
    "tile": lambda run, path, out: ("tile", "--labels", run.labels, "-o", out, "--size", 32, "--", path),
    "tile --labels": lambda run, path, out: ("tile", run.scene, f"--labels={path}", "-o", out, "--size", 32),
    "eval --map": lambda run, path, out: ("eval", f"--map={path}", "--reference", run.labels, "-o", out),
    "eval --reference": lambda run, path, out: ("eval", "--map", run.labels, f"--reference={path}", "-o", out),
    "sample": lambda run, path, out: ("sample", "-o", f"{out}.gpkg", "-n", "60", "--", path),
    "vectorize": lambda run, path, out: ("vectorize", "--", path, f"{out}.gpkg"),
    "mosaic": lambda run, path, out: ("mosaic", "-o", f"{out}.tif", "--", path),
    "info": lambda run, path, out: ("info", "--", path),
    "doctor": lambda run, path, out: ("doctor", "--", path),
    "audit": lambda run, path, out: ("audit", "--", path),
    "train": lambda run, path, out: ("train", *SMALL, f"--data={path}", "-o", out, "--set", "epoch_max=1"),
    "eval": lambda run, path, out: ("eval", "-c", run.checkpoint, f"--data={path}", "-o", out),
    "predict -c": lambda run, path, out: ("predict", run.scene, f"--checkpoint={path}", "-o", f"{out}.tif"),
    "export": lambda run, path, out: ("export", "-o", f"{out}.safetensors", "--", path),
    "upcycle": lambda run, path, out: ("upcycle", *SMALL, "-o", f"{out}.pth", "--", path),
    "plan": lambda run, path, out: ("plan", f"--config={path}"),
}
"""Commands that read `path` and write `out`, which has no suffix."""

NOTHING = {
    "empty": "",
    "missing": "missing.tif",
    "in a missing folder": "no/such/folder/a.tif",
    "below a file": "file.txt/a.tif",
    "folder": "folder",
    "working folder": ".",
    "empty file": "empty.tif",
    "text": "file.txt",
    "link to nothing": "nowhere.tif",
    "link to itself": "loop.tif",
    "device": "/dev/null",
    "very long": "a" * 300 + ".tif",
    "deep": "d/" * 2000 + "a.tif",
    "NUL": "a\0b.tif",
    "line break": "a\nb.tif",
    "dashes": "--help.tif",
    "pattern": "*.none",
    "URL of no server": "http://127.0.0.1:9/a.tif",
    "GDAL's prefix": "/vsimem/a.tif",
}
"""Paths at which no command finds what it needs."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with things that are no rasters, datasets or models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.tif").touch()
    (tmp_path / "file.txt").write_text("plain text\n")
    (tmp_path / "nowhere.tif").symlink_to("gone.tif")
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    return tmp_path


def check(place: Path, words: tuple[Any, ...]) -> None:
    """Run a command. It must fail with a sentence and a hint, and leave nothing."""
    before = set(place.rglob("*"))
    result = invoke(*words)
    said = (words, result.exit_code, result.stdout[-300:], result.stderr[-1000:])
    assert "Traceback" not in result.stderr, said
    assert result.exit_code in (2, 3, 4, 5, 6), said
    if words[0] == "doctor":
        assert "problem: " in result.stdout and "hint: " in result.stdout, said
    else:
        assert ("rror: " in result.stderr and "hint: " in result.stderr) or "Usage: " in result.stderr, said
    assert set(place.rglob("*")) == before, said


@pytest.mark.parametrize("command", READERS)
def test_a_path_where_nothing_usable_is(place: Path, run: Run, command: str) -> None:
    for path in NOTHING.values():
        check(place, READERS[command](run, path, "out"))
