"""Write the plugin as an archive that QGIS installs."""

import json
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cwsam_cli import __version__
from cwsam_cli.errors import UsageError
from cwsam_cli.files import refuse_existing, staged
from cwsam_cli.qgis.algorithms import describe_algorithms

PLUGIN = Path(__file__).with_name("plugin")
NAME = "cwsam_qgis"
"""Name of the plugin's folder in a profile of QGIS."""


def write_plugin(commands: Mapping[str, Any], output: Path, *, program: Path | None, overwrite: bool) -> None:
    """Write the archive.

    Args:
        commands: Typer's commands by name.
        output: the archive.
        program: the program that the plugin starts; None is the one of this installation.
        overwrite: replace an existing archive.

    Raises:
        UsageError: the output exists or has another suffix, or the program is missing.
    """
    if output.suffix.lower() != ".zip":
        raise UsageError(f"`{output}`: QGIS installs plugins from .zip files", hint=f"{output.with_suffix('.zip')}")
    refuse_existing(output, overwrite=overwrite)
    program = program or _own_program()
    if not program.is_file():
        raise UsageError(f"there is no program `{program}`", hint="give its path: --program PATH")
    told = {"program": str(program.absolute()), "algorithms": describe_algorithms(commands)}
    with staged(output, overwrite=overwrite) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(PLUGIN.iterdir()):
            if file.suffix in (".py", ".svg", ".txt"):
                text = file.read_text(encoding="utf-8").replace("{version}", __version__)
                archive.writestr(f"{NAME}/{file.name}", text)
        archive.writestr(f"{NAME}/algorithms.json", json.dumps(told, ensure_ascii=False, indent=1))


def _own_program() -> Path:
    """Return the program of this installation. Windows, conda and `pip install --user` keep it apart from Python."""
    name = "cwsam.exe" if sys.platform == "win32" else "cwsam"
    beside, scripts = Path(sys.executable).with_name(name), Path(sysconfig.get_path("scripts"), name)
    found = next((str(path) for path in (beside, scripts) if path.is_file()), None) or shutil.which("cwsam")
    return Path(found or beside)
