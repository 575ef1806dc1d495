"""The lock files agree with each other, with pyproject.toml, and with what is installed."""

import re
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
from packaging.requirements import Requirement

from tests.locks import LOCK, ROOT, canonical, dependencies, pins

LOCKS = (LOCK, *sorted((ROOT / "locks").iterdir()))
EXTRAS = ("export", "dev")


@pytest.fixture(scope="module", autouse=True)
def environment():
    try:
        version("cwsam")
    except PackageNotFoundError:
        pytest.skip("cwsam is not installed here, so `make` did not make this environment")


def test_the_versions_of_the_lock_are_installed():
    """This assumes an environment of `make install`. One that pip made alone may have newer versions."""
    found = {name: version(name).partition("+")[0] for name in pins()}
    assert found == pins()


def test_all_that_is_needed_is_locked():
    needed, checked = dependencies(*EXTRAS), set()
    while needed:
        each = needed.pop()
        if (each.name, *each.extras) in checked or (each.marker and not each.marker.evaluate({"extra": ""})):
            continue
        checked.add((each.name, *each.extras))
        for text in requires(each.name) or ():
            further = Requirement(text)
            if further.marker is None or any(further.marker.evaluate({"extra": x}) for x in ("", *each.extras)):
                further.marker = None
                needed.append(further)
    cuda = pins(ROOT / "locks" / "torch-cuda.lock")  # PyPI's build of torch needs them
    assert {canonical(name) for name, *_ in checked} - pins().keys() - cuda.keys() == set()


def test_pyproject_allows_the_versions_of_the_lock():
    locked = pins()
    refused = [str(each) for each in dependencies(*EXTRAS) if not each.specifier.contains(locked[canonical(each.name)])]
    assert refused == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_each_pin_has_hashes_and_nothing_else(lock):
    text = lock.read_text("utf-8")
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    marker = r"( ; python_full_version < '[\d.]+')?"
    assert re.fullmatch(rf"([a-z0-9.-]+==[\w.+]+{marker}( \\\n    --hash=sha256:[0-9a-f]{{64}})+\n)+", body)


def test_lock_files_agree():
    locked = pins()
    others = {path.name: pins(path) for path in LOCKS[1:]}
    different = {
        (name, package): pinned
        for name, of in others.items()
        for package, pinned in of.items()
        if pinned.partition("+")[0] != locked.get(package, pinned.partition("+")[0])
    }
    assert different == {}
