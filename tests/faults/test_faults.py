"""Whatever moment a command is killed at, its outputs are whole or absent, and the same command then ends well."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.conftest import COMMANDS
from tests.faults.forks import (
    contents,
    count_renames,
    kill_after,
    limit_files,
    make_fresh,
    run_again,
    run_in_fork,
    signal_at_rename,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]

_GOOD = {"audit": 4}
"""Exit codes of undisturbed commands that are not 0: splits of so small a scene touch."""
EXISTS = 2
"""Exit code where the killed command had finished its output."""


class Whole(NamedTuple):
    """What a command writes if nothing happens."""

    files: dict[str, Any]
    renames: int
    largest: int
    """Bytes of its largest file."""


@pytest.fixture(scope="module")
def whole(inputs: Path) -> Callable[[str], Whole]:
    """Run a command without faults, once."""

    @cache
    def run(name: str) -> Whole:
        folder, renames = make_fresh(inputs, "whole"), inputs.with_name("renames")
        renames.write_text("")
        code, text = run_in_fork(folder, COMMANDS[name], count_renames(renames))
        assert code == _GOOD.get(name, 0), (name, text)
        largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        made = Whole(contents(folder), len(renames.read_text()), largest)
        assert not [path for path in made.files if ".part" in path or ".lock" in path or ".journal" in path]
        return made

    return run


def _refuse_tracebacks(text: str) -> None:
    assert "Traceback" not in text, text


def _finish(folder: Path, words: tuple[str, ...], expected: dict[str, Any], what: str) -> None:
    """Check what a killed command left, give it again, and compare what it then leaves with an undisturbed run."""
    code, text = run_again(folder, words)
    _refuse_tracebacks(text)
    assert code in (0, EXISTS, _GOOD.get(words[0])), (what, code, text)
    found = contents(folder)
    assert found.keys() == expected.keys(), (what, found.keys() ^ expected.keys())
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing, (what, differing)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_a_rename_leaves_whole_outputs_and_the_same_command_finishes(
    inputs: Path, whole: Callable[[str], Whole], name: str
) -> None:
    expected, renames, _ = whole(name)
    words = COMMANDS[name]
    for number in sorted({0, renames // 2, renames - 1}):
        folder = make_fresh(inputs, "killed")
        code, text = run_in_fork(folder, words, signal_at_rename(number, signal.SIGKILL))
        assert code == -signal.SIGKILL, text
        for path, content in contents(folder).items():
            if path in expected and "history" not in path:
                assert content == expected[path] or path.endswith(".pth"), (number, path)
        _finish(folder, words, expected, f"rename {number}")


@pytest.mark.parametrize(("number", "name"), list(enumerate(COMMANDS)))
def test_ctrl_c_sigterm_or_a_kill_at_a_random_moment(
    inputs: Path, whole: Callable[[str], Whole], number: int, name: str
) -> None:
    expected, renames, _ = whole(name)
    words, chance, folder = COMMANDS[name], random.Random(name), make_fresh(inputs, "killed")
    moment = chance.randrange(renames)
    faults = [
        signal_at_rename(moment, signal.SIGINT),
        signal_at_rename(moment, signal.SIGTERM),
        kill_after(chance.uniform(0.05, 0.5)),
    ]
    code, text = run_in_fork(folder, words, faults[number % len(faults)])
    _refuse_tracebacks(text)
    assert code in (0, _GOOD.get(name), 130, -signal.SIGTERM, -signal.SIGALRM), (code, text)
    _finish(folder, words, expected, "a signal")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_and_leaves_nothing(inputs: Path, whole: Callable[[str], Whole], name: str) -> None:
    expected, _, largest = whole(name)
    words, folder = COMMANDS[name], make_fresh(inputs, "full")
    code, text = run_in_fork(folder, words, limit_files(largest // 2))
    _refuse_tracebacks(text)
    assert code == 6 and "error: " in text and "hint: " in text, (code, text)
    left = [path for path in contents(folder) if path not in expected and ".journal" not in path]
    assert not left, left
    _finish(folder, words, expected, "a full disk")


def _replace_when_an_output_is_begun(newer: Path, changed: Path, *, has_journal: bool) -> None:
    make, rename = tempfile.mkdtemp, os.replace

    def begin() -> None:
        if newer.exists():
            rename(newer, changed)

    def mkdtemp(*args: Any, **options: Any) -> str:
        begin()
        return make(*args, **options)

    def replace(source: Any, target: Any, **options: Any) -> None:
        rename(source, target, **options)
        if Path(target).name == "journal.json":
            begin()

    os.replace = replace  # type: ignore[assignment]
    if not has_journal:
        tempfile.mkdtemp = mkdtemp


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("predict", "scene.tif"),
        ("tile", "scene.tif"),
        ("tile", "labels.tif"),
        ("mosaic", "map.tif"),
        ("vectorize", "map.tif"),
    ],
)
def test_a_raster_that_is_replaced_while_it_is_read_is_detected(inputs: Path, name: str, changed: str) -> None:
    folder = make_fresh(inputs, "replaced")
    words = tuple(word.replace("../inputs/", "") if word.endswith(".tif") else word for word in COMMANDS[name])
    for word in COMMANDS[name]:
        if word.startswith("../inputs/") and word.endswith(".tif"):
            shutil.copy(inputs / Path(word).name, folder)
    shutil.copy(folder / changed, folder / "newer")
    before = set(contents(folder))

    has_journal = name in ("predict", "tile")
    fault = partial(_replace_when_an_output_is_begun, folder / "newer", folder / changed, has_journal=has_journal)
    code, text = run_in_fork(folder, words, fault)
    assert code == 4 and f"`{changed}` was changed while it was read" in text, text
    assert {path for path in contents(folder) if ".journal" not in path} == before - {"newer"}
    code, text = run_in_fork(folder, words)
    assert code == 0, text
