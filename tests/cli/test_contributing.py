"""The changes that the page on contributing shows: their tests fail before them, and pass after them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, Block, blocks

CHANGES = [block for block in blocks(ROOT / "docs" / "contributing.md") if block.is_change]
TESTS = [block for block in CHANGES if block.title.startswith("tests/")]


def change(block: Block, folder: Path) -> None:
    """Apply a block: write the file of its title, or change its places, which `@@` separates."""
    file = folder / block.title
    if block.language != "diff":
        assert not file.exists(), block.title
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
        return
    text = file.read_text(encoding="utf-8")
    for place in block.text.split("@@\n"):
        lines = place.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        found = list(re.finditer("([^\n]*)".join(map(re.escape, before.split("…"))), text))
        assert len(found) == 1, f"{block.title} has these lines {len(found)} times:\n{before}"
        for kept in found[0].groups():
            after = after.replace("…", kept, 1)
        text = text[: found[0].start()] + after + text[found[0].end() :]
    file.write_text(text, encoding="utf-8")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder.parent / "cache")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its tests."""
    folder = tmp_path_factory.mktemp("contribution") / "cwsam"
    for name in ("cwsam_cli", "configs", "docs", "tests"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules", "corpus")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.slow
def test_the_changes_of_the_guide_pass_their_tests_ruff_and_import_linter(copy: Path) -> None:
    assert {block.title.split("/")[1] for block in TESTS} == {"unit", "cli"}
    for block in TESTS:
        change(block, copy)
    words = "poly_adds or poly] or poly- or small or sqlite or count"  # the other tests of these files run elsewhere
    tests = ["pytest", "-q", "-rA", "-k", words, *(block.title for block in TESTS)]
    before = run(copy, *tests)
    for block in TESTS:
        assert re.search(rf"^(FAILED|ERROR) {block.title}", before.stdout, re.MULTILINE), before.stdout
    for block in CHANGES:
        if block not in TESTS:
            change(block, copy)
    after = run(copy, *tests)
    assert after.returncode == 0, after.stdout
    for block in TESTS:
        assert f"PASSED {block.title}" in after.stdout
    for check in (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["importlinter.cli", "--no-cache"]):
        done = run(copy, *check)
        assert done.returncode == 0, done.stdout + done.stderr
