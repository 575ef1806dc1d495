"""Environments beside this one, with other versions of what the package needs."""

import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from tests.locks import ROOT


class Unreachable(Exception):
    """The package index has no answer."""


def run(*command: object, cwd: Path, umask: int = -1, **environment: str) -> str:
    """Run a program that must succeed, without this checkout on its path, and return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=inherited | environment, umask=umask)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout."""
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (path,) = folder.glob("cwsam-*.whl")
    return path


def install(wheel: Path, folder: Path, constraints: Sequence[str], further: Sequence[str] = ()) -> Path:
    """Install the wheel and further packages into an empty environment that borrows torch, and return its Python.

    Raises:
        Unreachable: the package index has no answer.
    """
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    _link_torch(folder / "torch", next((folder / "venv").rglob("site-packages")))
    (folder / "constraints.txt").write_text("\n".join(constraints), "utf-8")
    options = ("--no-compile", "--constraint", folder / "constraints.txt")
    try:
        told = run(python, "-m", "pip", "install", *options, wheel, *further, cwd=folder)
    except AssertionError as error:
        if re.search("NewConnectionError|NameResolutionError|ConnectTimeoutError", str(error)):
            raise Unreachable from error
        raise
    assert "Downloading torch-" not in told
    return python


def _link_torch(folder: Path, packages: Path) -> None:
    """Let another environment import this one's torch, and let its pip see it."""
    folder.mkdir()
    own = Path(str(distribution("torch").locate_file("")))
    for pattern in ("torch", "torchgen", "functorch", "torch-*.dist-info", "nvidia*", "triton*"):
        for source in own.glob(pattern):
            (folder / source.name).symlink_to(source)
    (packages / "torch.pth").write_text(f"{folder}\n")
