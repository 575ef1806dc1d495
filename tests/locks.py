"""The versions that the lock files pin, and the oldest that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"


def canonical(name: str) -> str:
    """A distribution's name as lock files write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path = LOCK) -> dict[str, str]:
    """Versions by name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text("utf-8"), re.MULTILINE))


def dependencies(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with some of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = (project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras))
    found = [Requirement(text) for texts in lists for text in texts]
    return [requirement for requirement in found if requirement.name != "cwsam"]


def oldest(*extras: str) -> list[str]:
    """Those dependencies, pinned to the oldest versions that pyproject.toml allows."""
    return [
        f"{each.name}=={bound.version}"
        for each in dependencies(*extras)
        for bound in each.specifier
        if bound.operator == ">="
    ]
