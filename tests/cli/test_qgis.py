"""`cwsam qgis` writes a plugin that QGIS installs from its archive."""

import configparser
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import cwsam_cli


@pytest.fixture
def program(tmp_path: Path) -> Path:
    program = tmp_path / "bin" / "cwsam"
    program.parent.mkdir()
    program.touch()
    return program


def test_the_archive_has_one_folder_with_what_qgis_needs(
    tmp_path: Path, cwsam: Callable[..., Result], program: Path
) -> None:
    cwsam("qgis", "-o", "plugin.zip", "--program", os.path.relpath(program, tmp_path))
    with zipfile.ZipFile(tmp_path / "plugin.zip") as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"cwsam_qgis"}
        metadata = configparser.ConfigParser()
        metadata.read_string(archive.read("cwsam_qgis/metadata.txt").decode())
        told = json.loads(archive.read("cwsam_qgis/algorithms.json"))
    assert metadata["general"]["version"] == cwsam_cli.__version__
    assert metadata["general"]["hasProcessingProvider"] == "yes"
    assert told["program"] == str(program)
    assert {"predict", "vectorize", "tile", "sample", "assess_map"} <= {each["id"] for each in told["algorithms"]}


def test_without_program_the_plugin_starts_this_installation(tmp_path: Path, cwsam: Callable[..., Result]) -> None:
    cwsam("qgis", "-o", "plugin.zip")
    with zipfile.ZipFile(tmp_path / "plugin.zip") as archive:
        program = Path(json.loads(archive.read("cwsam_qgis/algorithms.json"))["program"])
    assert program.is_file() and program.stem == "cwsam"


@pytest.mark.parametrize("place", ["beside Python", "scripts", "PATH"])
def test_the_program_of_this_installation_is_found_where_installers_put_it(
    place: str, tmp_path: Path, cwsam: Callable[..., Result], program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.chmod(0o755)
    folders = dict.fromkeys(("beside Python", "scripts", "PATH"), tmp_path / "empty") | {place: program.parent}
    monkeypatch.setattr("sys.executable", str(folders["beside Python"] / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folders[name]))
    monkeypatch.setenv("PATH", str(folders["PATH"]))
    cwsam("qgis", "-o", "plugin.zip")
    with zipfile.ZipFile(tmp_path / "plugin.zip") as archive:
        assert json.loads(archive.read("cwsam_qgis/algorithms.json"))["program"] == str(program)


def test_another_suffix_an_existing_file_and_a_missing_program_are_refused(
    tmp_path: Path, refused: Callable[..., str], program: Path
) -> None:
    refused(2, "qgis", "-o", "plugin.tar", "--program", program, names="plugin.tar")
    refused(2, "qgis", "-o", "plugin.zip", "--program", "gone", names="gone")
    (tmp_path / "plugin.zip").touch()
    refused(2, "qgis", "-o", "plugin.zip", "--program", program, names="plugin.zip")
