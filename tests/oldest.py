"""Test the main commands with the oldest versions that pyproject.toml allows: `make oldest`.

Everything else is as new as those versions allow. Torch is the installed one, which is the oldest allowed.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.environments import build_wheel, install
from tests.locks import ROOT, dependencies, oldest

EXTRAS = ("export", "dev")
UNUSED = {"import-linter", "mkdocs-material", "mypy", "pandas-stubs", "pre-commit", "ruff", "transformers"}
"""No test of a command needs them."""
TESTS = [f"tests/cli/test_{name}.py" for name in ("tile", "train", "eval", "predict", "vectorize", "export")]


def main() -> None:
    """Make the environment, and run the fast tests there; further arguments are those of pytest."""
    tools = [each.name for each in dependencies(*EXTRAS) if each.name not in UNUSED and "types" not in each.name]
    with tempfile.TemporaryDirectory() as folder:
        python = install(build_wheel(Path(folder)), Path(folder), oldest(*EXTRAS), tools)
        command = [python, "-m", "pytest", "-q", "-W", "default", *(sys.argv[1:] or TESTS)]
        sys.exit(subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode)


if __name__ == "__main__":
    main()
