"""What fuzzing has found stays fixed."""

from pathlib import Path

import pytest

from tests.fuzz.fuzz import CORPUS, change
from tests.fuzz.targets import TARGETS, try_bytes

CASES = [(name, path) for name in TARGETS for path in sorted((CORPUS / name.replace(" ", "_")).glob("*"))]


@pytest.mark.parametrize("name", TARGETS)
def test_good_files_are_read_and_simple_damage_is_told(name: str, tmp_path: Path) -> None:
    path = TARGETS[name].make(tmp_path)
    good = path.read_bytes()
    TARGETS[name].read(path)
    for content in (b"", good[: len(good) // 2], good[:-1], good + good, b"\x00" * len(good), b"[" * 50_000):
        try_bytes(name, path, content)
    for place in (0, 9, len(good) // 3):
        try_bytes(name, path, change(good, [(place, "replace", b"\xff\x00-1")]))


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{path.name}" for name, path in CASES])
def test_a_case_that_once_failed_is_read_or_refused(name: str, case: Path, tmp_path: Path) -> None:
    path = TARGETS[name].make(tmp_path)
    try_bytes(name, path, case.read_bytes())
