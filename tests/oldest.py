"""Test the main commands with the oldest versions that pyproject.toml allows: `make oldest`.

Everything else is as new as those versions allow. Torch is the installed one, which may be newer than the oldest.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.environments import Unreachable, build_wheel, install
from tests.locks import ROOT, dependencies, oldest

EXTRAS = ("export", "dev")
UNUSED = {"import-linter", "mkdocs-material", "mypy", "pandas-stubs", "pre-commit", "ruff", "transformers"}
"""No test of a command needs them."""
TESTS = [f"tests/cli/test_{name}.py" for name in ("tile", "train", "eval", "predict", "vectorize", "export")]


def main() -> None:
    """Make the environment, and run the fast tests there; further arguments are those of pytest."""
    tools = [each.name for each in dependencies(*EXTRAS) if each.name not in UNUSED and "types" not in each.name]
    with tempfile.TemporaryDirectory() as folder:
        pinned = [each for each in oldest(*EXTRAS) if not each.startswith("torch==")]
        pinned.append(f"torch=={version('torch').partition('+')[0]}")  # the environment borrows it
        try:
            python = install(build_wheel(Path(folder)), Path(folder), pinned, tools)
        except Unreachable:
            sys.exit("the package index has no answer")
        command = [python, "-m", "pytest", "-q", "-W", "default", *(sys.argv[1:] or TESTS)]
        sys.exit(subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode)


if __name__ == "__main__":
    main()
